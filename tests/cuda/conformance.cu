// Every wrapper of csrc/cuda/device.cuh against its definition, and the language that kernels stand on. One source
// for nvcc and for the emulator: `conformance` prints a line a test, "ok NAME" or "FAILED NAME: why"; `conformance
// NAME...` runs some. On the emulator each runs in its three orders and many seeds.
#include "harness.h"

using namespace rnnkernels::cuda;
using namespace harness;

namespace {

constexpr int warp = 32, threads = 128, blocks = 6;
constexpr unsigned full = ~0u;

// ---- numbers

__global__ void round_numbers(const float* x, uint32_t* bf16, uint32_t* f16, uint32_t* tf32, int n) {
  for (int i = threadIdx.x; i < n; i += threads) {
    bf16[i] = pack_bf16(x[i], x[n - 1 - i]);
    f16[i] = pack_f16(x[i], x[n - 1 - i]);
    tf32[i] = to_tf32(x[i]);
  }
}

__global__ void widen_numbers(const uint32_t* pairs, float2* bf16, float2* f16, int n) {
  for (int i = threadIdx.x; i < n; i += threads) {
    bf16[i] = unpack_bf16(pairs[i]);
    f16[i] = unpack_f16(pairs[i]);
  }
}

// The nearest number of `mantissa` bits and least exponent `least`, computed in another way than by bits; ties to
// even, or away from zero.
double rounded(float x, int mantissa, int least, bool ties_to_even) {
  if (x == 0 || !std::isfinite(x)) return x;
  int exponent;
  std::frexp(x, &exponent);
  const double unit = std::ldexp(1.0, std::max(exponent - 1, least) - mantissa);
  const double steps = x / unit;
  return (ties_to_even ? std::nearbyint(steps) : std::round(steps)) * unit;
}

std::vector<float> interesting_numbers() {
  std::vector<float> x = {0.0f,     -0.0f,       1.0f,           -1.0f,          INFINITY, -INFINITY,   1.00390625f,
                          1e-8f,    -3e-8f,      5.9604645e-8f,  2.9802322e-8f,  6.1e-5f,  65504.0f,    65519.0f,
                          65520.0f, 1.01171875f, 1.00048828125f, 1.00146484375f, 3.3e38f,  1.00024414f, 1e30f};
  Numbers numbers(1);
  while (x.size() < 512) x.push_back(std::ldexp(numbers.next(), static_cast<int>(numbers.word() % 36) - 20));
  return x;
}

void rounding() {
  const std::vector<float> x = interesting_numbers();
  const int n = static_cast<int>(x.size());
  DeviceArray<float> in(x);
  DeviceArray<uint32_t> bf16(n), f16(n), tf32(n);
  launch("round_numbers", {1, threads}, round_numbers, in.get(), bf16.get(), f16.get(), tf32.get(), n);
  DeviceArray<float2> from_bf16(n), from_f16(n);
  launch("widen_numbers", {1, threads}, widen_numbers, bf16.get(), from_bf16.get(), from_f16.get(), n);
  const std::vector<float2> b = from_bf16.host();
  launch("widen_numbers", {1, threads}, widen_numbers, f16.get(), from_bf16.get(), from_f16.get(), n);
  const std::vector<float2> h = from_f16.host();
  const std::vector<uint32_t> t = tf32.host();
  for (int i = 0; i < n; ++i) {
    const std::string of = " of " + std::to_string(x[i]);
    expect(b[i].x == static_cast<float>(rounded(x[i], 7, -126, true)), "bf16, lower," + of);
    expect(b[n - 1 - i].y == static_cast<float>(rounded(x[i], 7, -126, true)), "bf16, upper," + of);
    const double half = rounded(x[i], 10, -14, true), largest = 65504;
    const double stored = std::fabs(half) > largest ? std::copysign(INFINITY, half) : half;
    expect(h[i].x == stored && h[n - 1 - i].y == stored, "f16" + of);
    float back;
    std::memcpy(&back, &t[i], sizeof back);
    expect(back == static_cast<float>(rounded(x[i], 10, -126, false)), "tf32" + of);
  }
}

void rounding_of_nan() {
  DeviceArray<float> in(std::vector<float>{NAN, NAN});
  DeviceArray<uint32_t> bf16(2), f16(2), tf32(2);
  DeviceArray<float2> from_bf16(2), from_f16(2);
  launch("round_numbers", {1, threads}, round_numbers, in.get(), bf16.get(), f16.get(), tf32.get(), 2);
  launch("widen_numbers", {1, threads}, widen_numbers, bf16.get(), from_bf16.get(), from_f16.get(), 2);
  expect(std::isnan(from_bf16.host()[0].x) && std::isnan(from_bf16.host()[0].y), "bf16");
  launch("widen_numbers", {1, threads}, widen_numbers, f16.get(), from_bf16.get(), from_f16.get(), 2);
  expect(std::isnan(from_f16.host()[0].x) && std::isnan(from_f16.host()[0].y), "f16");
}

// ---- language: barriers, votes, shuffles, atomics

__global__ void vote_in_block(int* out) {
  const int i = threadIdx.x;
  out[i * 3] = __syncthreads_or(i == 77);
  out[i * 3 + 1] = __syncthreads_and(i != 77);
  out[i * 3 + 2] = __syncthreads_count(i % 3 == 0);
}

void block_votes() {
  DeviceArray<int> out(threads * 3);
  launch("vote_in_block", {1, threads}, vote_in_block, out.get());
  const std::vector<int> got = out.host();
  for (int i = 0; i < threads; ++i)
    expect(got[i * 3] && !got[i * 3 + 1] && got[i * 3 + 2] == 43, "thread " + std::to_string(i));
}

__global__ void shuffle_lanes(int* out) {
  const int lane = threadIdx.x;
  int* own = out + lane * 8;
  own[0] = __shfl_sync(full, lane, 5);
  own[1] = __shfl_sync(full, lane, 3, 8);
  own[2] = __shfl_up_sync(full, lane, 3, 16);
  own[3] = __shfl_down_sync(full, lane, 5, 16);
  own[4] = __shfl_xor_sync(full, lane, 9);
  own[5] = __shfl_xor_sync(full, lane, 9, 8);
  own[6] = static_cast<int>(__ballot_sync(full, lane % 5 == 0));
  own[7] = __any_sync(full, lane == 31) * 2 + __all_sync(full, lane < 31);
}

void shuffles() {
  DeviceArray<int> out(warp * 8);
  launch("shuffle_lanes", {1, warp}, shuffle_lanes, out.get());
  const std::vector<int> got = out.host();
  for (int lane = 0; lane < warp; ++lane) {
    const int* own = &got[lane * 8];
    const int narrow = lane ^ 9;
    const int expected[8] = {5,
                             lane / 8 * 8 + 3,
                             lane % 16 >= 3 ? lane - 3 : lane,
                             lane % 16 + 5 < 16 ? lane + 5 : lane,
                             lane ^ 9,
                             narrow / 8 <= lane / 8 ? narrow : lane,
                             0x42108421,
                             2};
    for (int i = 0; i < 8; ++i)
      expect(own[i] == expected[i], "lane " + std::to_string(lane) + ", operation " + std::to_string(i));
  }
}

__global__ void shuffle_half_a_warp(double* out) {
  const int lane = threadIdx.x;
  const unsigned mask = lane < 16 ? 0xffffu : 0xffff0000u;
  double sum = lane;
  if (lane < 16) {
    for (int step = 8; step; step /= 2) sum += __shfl_xor_sync(mask, sum, step);
  } else {
    sum += __shfl_xor_sync(mask, sum, 1);
  }
  __syncwarp();
  out[lane] = sum;
}

void shuffles_of_parts() {
  DeviceArray<double> out(warp);
  launch("shuffle_half_a_warp", {1, warp}, shuffle_half_a_warp, out.get());
  const std::vector<double> got = out.host();
  for (int lane = 0; lane < warp; ++lane)
    expect(got[lane] == (lane < 16 ? 120 : lane / 2 * 4 + 1), "lane " + std::to_string(lane));
}

__global__ void pass_through_warp(int* out) {
  SharedMemory memory;
  int* shared = memory.take<int>(threads);
  const int i = threadIdx.x;
  shared[i] = i;
  __syncwarp();
  out[i] = shared[i ^ 7];
}

void warp_barrier() {
  DeviceArray<int> out(threads);
  launch("pass_through_warp", {1, threads, threads * sizeof(int)}, pass_through_warp, out.get());
  for (int i = 0; i < threads; ++i) expect(out.host()[i] == (i ^ 7), std::to_string(i));
}

__global__ void count_in_all_ways(int* ints, unsigned* bits, unsigned long long* wide) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  atomicAdd(&ints[0], i);
  atomicMax(&ints[1], i);
  atomicMin(&ints[2], -i);
  while (atomicExch(&bits[2], 1)) __nanosleep(20);  // a lock
  __threadfence();
  ints[3] = ints[3] + 1;
  __threadfence();
  atomicExch(&bits[2], 0);
  int assumed = 0, seen;
  while ((seen = atomicCAS(&ints[4], assumed, assumed + 2)) != assumed) assumed = seen;
  atomicOr(&bits[0], 1u << i % 32);
  atomicAnd(&bits[1], ~(1u << i % 7));
  atomicAdd(wide, 0x100000000ull);
}

void atomics() {
  constexpr int all = blocks * 32;
  DeviceArray<int> ints(8);
  DeviceArray<unsigned> bits(std::vector<unsigned>{0, ~0u, 0});
  DeviceArray<unsigned long long> wide(1);
  launch("count_in_all_ways", {blocks, 32}, count_in_all_ways, ints.get(), bits.get(), wide.get());
  const std::vector<int> got = ints.host();
  expect(got[0] == all * (all - 1) / 2, "atomicAdd");
  expect(got[1] == all - 1 && got[2] == 1 - all, "atomicMax, atomicMin");
  expect(got[3] == all, "atomicExch as a lock");
  expect(got[4] == 2 * all, "atomicCAS");
  expect(bits.host()[0] == full && bits.host()[1] == ~0x7fu, "atomicOr, atomicAnd");
  expect(wide.host()[0] == all * 0x100000000ull, "atomicAdd of 64 bits");
}

__global__ void read_only(const float* in, float4* out) {
  out[threadIdx.x] = __ldg(reinterpret_cast<const float4*>(in) + threadIdx.x);
}

void read_only_loads() {
  std::vector<float> in(threads * 4);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
  DeviceArray<float> from(in);
  DeviceArray<float4> to(threads);
  launch("read_only", {1, threads}, read_only, from.get(), to.get());
  for (int i = 0; i < threads; ++i) expect(to.host()[i].z == static_cast<float>(i * 4 + 2), std::to_string(i));
}

__global__ void several_arrays(double* out) {
  SharedMemory memory;
  char* bytes = memory.take<char>(5);
  double* wide = memory.take<double>(threads);
  float4* vectors = memory.take<float4>(threads);
  const int i = threadIdx.x;
  if (i < 5) bytes[i] = static_cast<char>(i);
  wide[i] = i;
  vectors[i] = make_float4(1, 2, 3, static_cast<float>(i));
  __syncthreads();
  const int other = threads - 1 - i;
  out[i] = wide[other] + vectors[other].w * 1000 + bytes[i % 5] * 1e6;
}

void shared_arrays() {
  DeviceArray<double> out(threads);
  const size_t bytes = 16 + threads * (sizeof(double) + sizeof(float4));
  launch("several_arrays", {1, threads, bytes}, several_arrays, out.get());
  for (int i = 0; i < threads; ++i)
    expect(out.host()[i] == 1001 * (threads - 1 - i) + i % 5 * 1e6, "thread " + std::to_string(i));
}

__global__ void name_threads(int* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned all = blockDim.x * blockDim.y * blockDim.z;
  atomicAdd(&out[block * all + thread], 1);
}

void indices() {
  DeviceArray<int> out(12 * 96);
  launch("name_threads", {dim3(2, 3, 2), dim3(4, 8, 3)}, name_threads, out.get());
  for (int count : out.host()) expect(count == 1, "a thread is missing");
}

// ---- memory order

enum class Flag { release, release_system, add, fence };

template <Flag flag>
__global__ void send_message(float4* message, uint32_t* ready, float4* received) {
  const int i = threadIdx.x;
  if (blockIdx.x == 0) {
    message[i] = make_float4(1, 2, 3, static_cast<float>(i));
    __syncthreads();
    if (i != 0) return;
    if (flag == Flag::release) store_release(ready, 1);
    if (flag == Flag::release_system) store_release_system(ready, 1);
    if (flag == Flag::add) add_release(ready, 1);
    if (flag == Flag::fence) {
      __threadfence();
      store_relaxed(ready, 1u);
    }
  } else {
    if (i == 0) {
      spin_until([&] {
        return flag == Flag::release_system ? load_acquire_system(ready) == 1
               : flag == Flag::fence        ? load_relaxed(ready) == 1
                                            : load_acquire(ready) == 1;
      });
      if (flag == Flag::fence) __threadfence();
    }
    __syncthreads();
    received[(blockIdx.x - 1) * threads + i] = message[threads - 1 - i];
  }
}

template <Flag flag>
void messages() {
  DeviceArray<float4> message(threads), received((blocks - 1) * threads);
  DeviceArray<uint32_t> ready(1);
  LaunchShape shape = {blocks, threads};
  shape.cooperative = true;
  launch("send_message", shape, send_message<flag>, message.get(), ready.get(), received.get());
  const std::vector<float4> got = received.host();
  for (size_t i = 0; i < got.size(); ++i)
    expect(got[i].w == static_cast<float>(threads - 1 - i % threads) && got[i].x == 1, "message " + std::to_string(i));
}

// Tagged vectors: block b passes its number on to block b + 1, round and round; each word counts.
template <class Vector>
__global__ void pass_tagged(Vector* mail, uint32_t* sums, uint32_t rounds) {
  constexpr int words = sizeof(Vector) / sizeof(uint32_t);
  union {
    Vector vector;
    uint32_t word[words];
  } letter;
  if (threadIdx.x) return;
  uint32_t sum = 0;
  for (uint32_t round = 1; round <= rounds; ++round) {
    for (int w = 0; w < words - 1; ++w) letter.word[w] = round * 100 + blockIdx.x;
    letter.word[words - 1] = round;
    Vector* slots = mail + (round - 1) * gridDim.x;
    store_relaxed(&slots[blockIdx.x], letter.vector);
    const unsigned from = (blockIdx.x + 1) % gridDim.x;
    spin_until([&] {
      letter.vector = load_relaxed(&slots[from]);
      bool all = letter.word[words - 1] == round;
      for (int w = 0; w < words - 1; ++w) all = all && letter.word[w];
      return all;
    });
    for (int w = 0; w < words; ++w) sum += letter.word[w];
  }
  sums[blockIdx.x] = sum;
}

template <class Vector>
void tagged_vectors() {
  constexpr uint32_t rounds = 9, data_words = sizeof(Vector) / sizeof(uint32_t) - 1;
  DeviceArray<Vector> mail(rounds * blocks);
  DeviceArray<uint32_t> sums(blocks);
  LaunchShape shape = {blocks, warp};
  shape.cooperative = true;
  launch("pass_tagged", shape, pass_tagged<Vector>, mail.get(), sums.get(), rounds);
  for (unsigned b = 0; b < blocks; ++b) {
    const uint32_t steps = rounds * (rounds + 1) / 2, from = (b + 1) % blocks;
    expect(sums.host()[b] == steps + data_words * (steps * 100 + rounds * from), "block " + std::to_string(b));
  }
}

// Each step every block reads what all wrote in the step before.
__global__ void sum_over_grid(double* values, uint32_t* counter, uint32_t first_arrival, int steps) {
  for (int step = 0; step < steps; ++step) {
    const double* from = values + step % 2 * gridDim.x;
    double* to = values + (step + 1) % 2 * gridDim.x;
    if (threadIdx.x == 0) {
      double sum = blockIdx.x;
      for (unsigned b = 0; b < gridDim.x; ++b) sum += from[b];
      to[blockIdx.x] = sum;
    }
    grid_barrier(counter, first_arrival + (step + 1) * gridDim.x);
  }
}

void grid_barriers() {
  constexpr int steps = 4;
  DeviceArray<double> values(2 * blocks);
  DeviceArray<uint32_t> counter(1);
  LaunchShape shape = {blocks, threads};
  shape.cooperative = true;
  std::vector<double> expected(blocks, 0.0);
  for (uint32_t replay = 0; replay < 3; ++replay) {  // on one workspace, whose counter goes on
    launch("sum_over_grid", shape, sum_over_grid, values.get(), counter.get(), replay * steps * blocks, steps);
    for (int step = 0; step < steps; ++step) {
      double sum = 0;
      for (double value : expected) sum += value;
      for (int b = 0; b < blocks; ++b) expected[b] = b + sum;
    }
    for (int b = 0; b < blocks; ++b)
      expect(values.host()[b] == expected[b], "replay " + std::to_string(replay) + ", block " + std::to_string(b));
  }
}

// ---- asynchronous copies

template <int bytes>
__global__ void copy_stages(const unsigned char* in, unsigned char* out, int stages) {
  SharedMemory memory;
  constexpr int stage_bytes = warp * bytes;
  unsigned char* buffer = memory.take<unsigned char>(3 * stage_bytes);
  const int lane = threadIdx.x;
  auto fetch = [&](int stage) {  // the last lane's piece is beyond the end: zeros
    if (stage < stages)
      copy_async<bytes>(buffer + stage % 3 * stage_bytes + lane * bytes, in + stage * stage_bytes + lane * bytes,
                        lane != warp - 1);
    copy_async_commit();
  };
  fetch(0);
  fetch(1);
  for (int stage = 0; stage < stages; ++stage) {
    fetch(stage + 2);
    copy_async_wait<2>();
    __syncwarp();
    for (int i = lane; i < stage_bytes; i += warp)
      out[stage * stage_bytes + i] = buffer[stage % 3 * stage_bytes + stage_bytes - 1 - i];
    __syncwarp();
  }
  copy_async_wait<0>();
}

template <int bytes>
void async_copies() {
  constexpr int stages = 7, stage_bytes = warp * bytes;
  std::vector<unsigned char> in(stages * stage_bytes);
  Numbers numbers(2);
  for (auto& byte : in) byte = static_cast<unsigned char>(numbers.word());
  DeviceArray<unsigned char> from(in), to(in.size());
  launch("copy_stages", {1, warp, 3 * stage_bytes}, copy_stages<bytes>, from.get(), to.get(), stages);
  const std::vector<unsigned char> got = to.host();
  for (int i = 0; i < stages * stage_bytes; ++i) {
    const int place = stage_bytes - 1 - i % stage_bytes;
    const unsigned char expected = place / bytes == warp - 1 ? 0 : in[i / stage_bytes * stage_bytes + place];
    expect(got[i] == expected, "byte " + std::to_string(i));
  }
}

// ---- matrix products

enum class Type { bf16, f16, tf32 };

template <Type type>
__global__ void multiply(const float* a, const float* b, const float* c, float* d) {
  constexpr int K = type == Type::tf32 ? 8 : 16, together = K / 8;
  const int row = threadIdx.x / 4, q = threadIdx.x % 4;
  auto word = [](const float* p) {
    return type == Type::bf16  ? pack_bf16(p[0], p[together - 1])
           : type == Type::f16 ? pack_f16(p[0], p[together - 1])
                               : to_tf32(p[0]);
  };
  uint32_t fa[4], fb[2];
  float sum[4];
  for (int i = 0; i < 4; ++i) {
    fa[i] = word(a + (row + i % 2 * 8) * K + (q + i / 2 * 4) * together);
    sum[i] = c[(row + i / 2 * 8) * 8 + q * 2 + i % 2];
  }
  for (int i = 0; i < 2; ++i) fb[i] = word(b + row * K + (q + i * 4) * together);  // b: [column][k]
  if (type == Type::bf16) mma_bf16(sum, fa, fb);
  if (type == Type::f16) mma_f16(sum, fa, fb);
  if (type == Type::tf32) mma_tf32(sum, fa, fb);
  for (int i = 0; i < 4; ++i) d[(row + i / 2 * 8) * 8 + q * 2 + i % 2] = sum[i];
}

// Small integers, whose products and sums are exact in any order; then fractions within the rounding of float32.
template <Type type>
void products() {
  constexpr int K = type == Type::tf32 ? 8 : 16;
  for (bool integers : {true, false}) {
    Numbers numbers(3);
    auto fill = [&](size_t n) {
      std::vector<float> values(n);
      for (float& value : values)
        value = integers ? static_cast<float>(numbers.word() % 17) - 8 : std::round(numbers.next() * 128) / 128;
      return values;
    };
    const std::vector<float> a = fill(16 * K), b = fill(8 * K), c = fill(16 * 8);
    DeviceArray<float> da(a), db(b), dc(c), dd(16 * 8);
    launch("multiply", {1, warp}, multiply<type>, da.get(), db.get(), dc.get(), dd.get());
    const std::vector<float> d = dd.host();
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        double sum = c[row * 8 + column], size = std::fabs(sum);
        for (int k = 0; k < K; ++k) {
          sum += static_cast<double>(a[row * K + k]) * b[column * K + k];
          size += std::fabs(a[row * K + k] * b[column * K + k]);
        }
        const double error = std::fabs(d[row * 8 + column] - sum);
        expect(error <= (integers ? 0 : size * 0x1p-20), std::to_string(row) + ", " + std::to_string(column));
      }
    }
  }
}

__global__ void load_matrices(uint32_t* out) {
  SharedMemory memory;
  uint32_t* rows = memory.take<uint32_t>(32 * 4);
  const int lane = threadIdx.x;
  for (int word = 0; word < 4; ++word) rows[lane * 4 + word] = lane * 10 + word;
  __syncwarp();
  uint32_t words[4];
  load_matrix_x4(words, rows + lane * 4);
  for (int matrix = 0; matrix < 4; ++matrix) out[lane * 4 + matrix] = words[matrix];
}

void matrices() {
  DeviceArray<uint32_t> out(warp * 4);
  launch("load_matrices", {1, warp, warp * 16}, load_matrices, out.get());
  for (unsigned lane = 0; lane < warp; ++lane)
    for (unsigned m = 0; m < 4; ++m)
      expect(out.host()[lane * 4 + m] == (m * 8 + lane / 4) * 10 + lane % 4, "lane " + std::to_string(lane));
}

// ---- clusters

__global__ void name_ranks(unsigned* out) {
  if (threadIdx.x == 0) out[blockIdx.x] = cluster_rank() * 100 + cluster_size();
}

void ranks() {
  for (unsigned cluster : {2u, 4u, 8u}) {
    DeviceArray<unsigned> out(2 * cluster);
    launch("name_ranks", {2 * cluster, warp, 0, cluster}, name_ranks, out.get());
    for (unsigned i = 0; i < 2 * cluster; ++i)
      expect(out.host()[i] == i % cluster * 100 + cluster, "clusters of " + std::to_string(cluster));
  }
}

// Every block reads from its right neighbour what that one holds, and what its left neighbour has written into it.
template <class T>
__global__ void visit_peers(T* out) {
  SharedMemory memory;
  T* own = memory.take<T>(warp);
  T* mail = memory.take<T>(warp);
  const int lane = threadIdx.x;
  const unsigned size = cluster_size(), right = (cluster_rank() + 1) % size, left = (cluster_rank() + size - 1) % size;
  reinterpret_cast<uint32_t*>(&own[lane])[sizeof(T) / 4 - 1] = blockIdx.x * 100 + lane;
  for (unsigned w = 0; w + 1 < sizeof(T) / 4; ++w) reinterpret_cast<uint32_t*>(&own[lane])[w] = w;
  cluster_barrier();
  store_peer(&mail[warp - 1 - lane], right, load_peer(&own[lane], left));
  cluster_arrive();
  cluster_wait();
  out[blockIdx.x * warp + lane] = load_peer(&mail[lane], right);
  cluster_barrier();  // nobody leaves while its memory may be read
}

template <class T>
void peers() {
  constexpr unsigned cluster = 4, grid = 8;
  DeviceArray<T> out(grid * warp);
  launch("visit_peers", {grid, warp, 2 * warp * sizeof(T), cluster}, visit_peers<T>, out.get());
  const std::vector<T> got = out.host();
  for (unsigned i = 0; i < grid * warp; ++i) {
    uint32_t words[sizeof(T) / 4];
    std::memcpy(words, &got[i], sizeof words);
    const unsigned block = i / warp, rank = block % cluster, lane = i % warp;
    const unsigned writer = rank, source = block - rank + (writer + cluster - 1) % cluster;
    for (unsigned w = 0; w + 1 < sizeof(T) / 4; ++w) expect(words[w] == w, "word " + std::to_string(w));
    expect(words[sizeof(T) / 4 - 1] == source * 100 + warp - 1 - lane, "place " + std::to_string(i));
  }
}

// Round and round by st.async: every block sends its sum to all others, counts their bytes, and adds what has
// come. An arrival from each peer says that its buffer may be written again.
template <class T>
__global__ void exchange_async(uint32_t* out, int rounds) {
  SharedMemory memory;
  T* inbox = memory.take<T>(8 * warp);            // [rank][lane]
  uint64_t* barriers = memory.take<uint64_t>(2);  // bytes that come; readers that are through
  constexpr int last = sizeof(T) / 4 - 1;
  const int lane = threadIdx.x;
  const unsigned size = cluster_size();
  if (lane == 0) {
    mbarrier_init(&barriers[0], 1);
    mbarrier_init(&barriers[1], size);
    fence_mbarrier_init();
  }
  cluster_barrier();
  uint32_t sum = blockIdx.x * 7 + lane;
  for (int round = 0; round < rounds; ++round) {
    if (lane == 0) mbarrier_arrive_expect(&barriers[0], size * warp * sizeof(T));
    __syncwarp();
    T piece;
    for (int w = 0; w <= last; ++w) reinterpret_cast<uint32_t*>(&piece)[w] = sum;
    for (unsigned peer = 0; peer < size; ++peer)
      store_async(&inbox[cluster_rank() * warp + lane], peer, piece, &barriers[0]);
    mbarrier_wait(&barriers[0], round % 2);
    sum = 0;
    for (unsigned peer = 0; peer < size; ++peer)
      sum += reinterpret_cast<uint32_t*>(&inbox[peer * warp + (lane + 1) % warp])[last] * (peer + 1);
    __syncwarp();
    if (lane < static_cast<int>(size)) mbarrier_arrive_peer(&barriers[1], lane);
    mbarrier_wait(&barriers[1], round % 2);
  }
  out[blockIdx.x * warp + lane] = sum;
  cluster_barrier();
}

template <class T>
void async_stores() {
  constexpr unsigned cluster = 4, grid = 8;
  constexpr int rounds = 5;
  DeviceArray<uint32_t> out(grid * warp);
  launch("exchange_async", {grid, warp, 8 * warp * sizeof(T) + 32, cluster}, exchange_async<T>, out.get(), rounds);
  std::vector<uint32_t> sums(grid * warp);
  for (unsigned i = 0; i < grid * warp; ++i) sums[i] = i / warp * 7 + i % warp;
  for (int round = 0; round < rounds; ++round) {
    std::vector<uint32_t> next(grid * warp, 0);
    for (unsigned i = 0; i < grid * warp; ++i)
      for (unsigned peer = 0; peer < cluster; ++peer)
        next[i] += sums[(i / warp / cluster * cluster + peer) * warp + (i + 1) % warp] * (peer + 1);
    sums = next;
  }
  expect(out.host() == sums, "sums");
}

// Warps of one block hand a buffer to each other: 32 arrivals fill a phase.
__global__ void hand_over(int* out, int rounds) {
  SharedMemory memory;
  int* buffer = memory.take<int>(warp);
  uint64_t* barriers = memory.take<uint64_t>(2);  // full, empty
  const int lane = threadIdx.x % warp;
  if (threadIdx.x == 0) {
    mbarrier_init(&barriers[0], warp);
    mbarrier_init(&barriers[1], warp);
  }
  __syncthreads();
  for (int round = 0; round < rounds; ++round) {
    if (threadIdx.x < warp) {
      if (round > 0) mbarrier_wait(&barriers[1], (round - 1) % 2);
      buffer[lane] = round * 100 + lane;
      mbarrier_arrive(&barriers[0]);
    } else {
      spin_until([&] { return mbarrier_done(&barriers[0], round % 2); });
      out[round * warp + lane] = buffer[warp - 1 - lane];
      mbarrier_arrive(&barriers[1]);
    }
  }
}

void mbarriers() {
  constexpr int rounds = 5;
  DeviceArray<int> out(rounds * warp);
  launch("hand_over", {1, 2 * warp, warp * sizeof(int) + 32}, hand_over, out.get(), rounds);
  for (int i = 0; i < rounds * warp; ++i)
    expect(out.host()[i] == i / warp * 100 + warp - 1 - i % warp, "place " + std::to_string(i));
}

__global__ void fence_between_peers(int* out) {
  SharedMemory memory;
  int* data = memory.take<int>(1);
  data[0] = 40 + static_cast<int>(cluster_rank());
  fence_cluster();
  cluster_barrier();
  out[blockIdx.x] = load_peer(data, cluster_rank() ^ 1);
  cluster_barrier();
}

void cluster_fence() {
  DeviceArray<int> out(2);
  launch("fence_between_peers", {2, 1, 16, 2}, fence_between_peers, out.get());
  expect(out.host()[0] == 41 && out.host()[1] == 40, "values");
}

// ---- clocks, waits, and launches that fail

__global__ void read_clocks(uint64_t* out) {
  out[0] = clock_cycles();
  out[1] = global_nanoseconds();
  for (int i = 0; i < 10; ++i) __nanosleep(1'000'000);  // the coarsest timers tick once in a millisecond
  out[2] = clock_cycles();
  out[3] = global_nanoseconds();
}

void clocks() {
  DeviceArray<uint64_t> out(4);
  launch("read_clocks", {1, 1}, read_clocks, out.get());
  const std::vector<uint64_t> got = out.host();
  expect(got[2] > got[0], "cycles go on");
  expect(got[3] > got[1], "nanoseconds go on");
}

__global__ void do_nothing() {}

void refused_launch() {
  std::string message;
  try {
    launch("do_nothing", {1, 2048}, do_nothing);
  } catch (const std::runtime_error& error) {
    message = error.what();
  }
  expect(message.find("do_nothing: grid (1, 1, 1), block (2048, 1, 1)") == 0, "the error: " + message);
  launch("do_nothing", {1, 1024}, do_nothing);
  check(cudaDeviceSynchronize(), "a launch after it");
}

struct Test {
  const char* name;
  void (*run)();
  bool needs_sm_90;
};

constexpr Test tests[] = {
    {"rounding", rounding, false},
    {"rounding_of_nan", rounding_of_nan, false},
    {"block_votes", block_votes, false},
    {"shuffles", shuffles, false},
    {"shuffles_of_parts", shuffles_of_parts, false},
    {"warp_barrier", warp_barrier, false},
    {"atomics", atomics, false},
    {"read_only_loads", read_only_loads, false},
    {"shared_arrays", shared_arrays, false},
    {"indices", indices, false},
    {"messages_by_release", messages<Flag::release>, false},
    {"messages_by_system_release", messages<Flag::release_system>, false},
    {"messages_by_added_release", messages<Flag::add>, false},
    {"messages_by_fences", messages<Flag::fence>, false},
    {"tagged_8", tagged_vectors<uint2>, false},
    {"tagged_16", tagged_vectors<uint4>, false},
    {"grid_barriers", grid_barriers, false},
    {"async_copies_4", async_copies<4>, false},
    {"async_copies_8", async_copies<8>, false},
    {"async_copies_16", async_copies<16>, false},
    {"products_bf16", products<Type::bf16>, false},
    {"products_f16", products<Type::f16>, false},
    {"products_tf32", products<Type::tf32>, false},
    {"matrices", matrices, false},
    {"clocks", clocks, false},
    {"refused_launch", refused_launch, false},
    {"ranks", ranks, true},
    {"peers_4", peers<uint32_t>, true},
    {"peers_8", peers<uint2>, true},
    {"peers_16", peers<uint4>, true},
    {"async_stores_4", async_stores<uint32_t>, true},
    {"async_stores_8", async_stores<uint2>, true},
    {"async_stores_16", async_stores<uint4>, true},
    {"mbarriers", mbarriers, true},
    {"cluster_fence", cluster_fence, true},
};

#ifdef RNNKERNELS_EMULATOR
bool has_clusters() { return true; }

void run_in_all_orders(const Test& test) {
  const char* seeds = std::getenv("EMU_SEEDS");
  const int random_seeds = seeds ? std::atoi(seeds) : 3;
  for (int i = 0; i < 2 + random_seeds; ++i) {
    emu::options().order = i == 0 ? emu::Order::round_robin : i == 1 ? emu::Order::reverse : emu::Order::random;
    emu::options().seed = static_cast<uint64_t>(i);
    test.run();
  }
}
#else
bool has_clusters() {
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "cudaDeviceGetAttribute");
  return major >= 9;
}

void run_in_all_orders(const Test& test) { test.run(); }
#endif

bool chosen(const Test& test, int argc, char** argv) {
  for (int i = 1; i < argc; ++i)
    if (std::strcmp(argv[i], test.name) == 0) return true;
  return argc == 1;
}

}  // namespace

int main(int argc, char** argv) {
  int failed = 0;
  for (const Test& test : tests) {
    if (!chosen(test, argc, argv)) continue;
    try {
      if (test.needs_sm_90 && !has_clusters()) {
        std::printf("NOT RUN %s: this device has no clusters\n", test.name);
        continue;
      }
      run_in_all_orders(test);
      std::printf("ok %s\n", test.name);
    } catch (const std::exception& error) {
      ++failed;
      std::printf("FAILED %s: %s\n", test.name, error.what());
    }
  }
  return failed ? 1 : 0;
}
