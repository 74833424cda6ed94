// The zoo: small kernels, each with one mistake of a kind that happens, and the same kernels without it.
//   zoo                              lists the specimens and what must catch each in which build
//   zoo NAME|all bug|good ORDER      runs; exit status 0: nothing found, 3: found, anything else: a sanitizer's report
//   zoo all recover ORDER            runs each bug that the emulator itself finds and then the good kernel, all in one
//                                    process; exit status 3 where a good one was told from what came before
// ORDER is round_robin, reverse or random; random runs many seeds and stops at the first finding.
#include "../cuda/harness.h"

using namespace rnnkernels::cuda;
using namespace harness;

namespace {

constexpr int warp = 32, threads = 64;

// A result that differs from the kernel's definition: what a test against the reference would see.
struct Wrong : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class T>
void expect_all(const DeviceArray<T>& array, const std::function<T(int)>& expected) {
  const std::vector<T> got = array.host();
  for (size_t i = 0; i < got.size(); ++i)
    if (!(got[i] == expected(static_cast<int>(i)))) throw Wrong("wrong result at " + std::to_string(i));
}

LaunchShape shape(unsigned grid, unsigned block, size_t shared_bytes = 0, unsigned cluster = 1) {
  LaunchShape s;
  s.grid = grid;
  s.block = block;
  s.shared_bytes = shared_bytes;
  s.cluster = cluster;
  return s;
}

LaunchShape cooperative(unsigned grid, unsigned block, size_t shared_bytes = 0) {
  LaunchShape s = shape(grid, block, shared_bytes);
  s.cooperative = true;
  return s;
}

// ---- barriers and shared memory

template <bool bug>
__global__ void no_block_barrier(int* out) {
  SharedMemory memory;
  int* shared = memory.take<int>(threads);
  const int i = threadIdx.x;
  shared[i] = i;
  if (!bug) __syncthreads();
  out[i] = shared[threads - 1 - i];
}

template <bool bug>
__global__ void no_warp_barrier(int* out) {
  SharedMemory memory;
  int* shared = memory.take<int>(threads);
  const int i = threadIdx.x;
  shared[i] = i;
  if (!bug) __syncwarp();
  out[i] = shared[i ^ 1];
}

template <bool bug>
__global__ void overwritten_too_early(int* out) {
  SharedMemory memory;
  int* shared = memory.take<int>(threads);
  const int i = threadIdx.x;
  for (int round = 0; round < 2; ++round) {
    shared[i] = round * 100 + i;
    __syncthreads();
    out[round * threads + i] = shared[threads - 1 - i];
    if (!bug) __syncthreads();
  }
}

template <bool bug>
__global__ void divergent_barrier(int* out) {
  const int i = threadIdx.x;
  if (bug) {
    if (i % 2)
      __syncthreads();
    else
      __syncthreads();
  } else {
    __syncthreads();
  }
  out[i] = i;
}

template <bool bug>
__global__ void barrier_of_some(int* out) {
  SharedMemory memory;
  int* shared = memory.take<int>(threads);
  const int i = threadIdx.x;
  if (!bug || i < warp) __syncthreads();
  shared[i] = i;
  __syncthreads();
  out[i] = shared[threads - 1 - i];
}

template <bool bug>
__global__ void barriers_crossed(int* out) {
  const int i = threadIdx.x;
  if (!bug || i % warp < 16) __syncthreads();
  __syncwarp();
  if (bug && i % warp >= 16) __syncthreads();
  out[i] = i;
}

template <bool bug>
__global__ void shared_write_behind(int* out) {
  SharedMemory memory;
  int* shared = memory.take<int>(threads);
  const int i = threadIdx.x;
  shared[bug ? i + 1 : i] = i;
  __syncthreads();
  out[i] = i;
}

// What lies behind happens to be -1, so that the result is right.
template <bool bug>
__global__ void shared_read_behind(int* out) {
  SharedMemory memory;
  int* shared = memory.take<int>(threads);
  const int i = threadIdx.x;
  shared[i] = i;
  __syncthreads();
  out[i] = bug || i + 1 < threads ? shared[i + 1] : -1;
}

template <bool bug>
__global__ void shared_not_written(int* out) {
  SharedMemory memory;
  int* shared = memory.take<int>(threads);
  const int i = threadIdx.x;
  if (!bug || i < threads - 1) shared[i] = i;
  __syncthreads();
  out[i] = shared[i];
}

template <bool bug>
__global__ void shared_too_much(int* out) {
  SharedMemory memory;
  int* shared = memory.take<int>(bug ? threads + 1 : threads);
  shared[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = shared[threadIdx.x];
}

template <bool bug>
__global__ void misaligned_vector(int* out) {
  SharedMemory memory;
  int* shared = memory.take<int>(threads * 4 + 4);
  const int i = threadIdx.x;
  *reinterpret_cast<int4*>(shared + i * 4 + (bug ? 1 : 0)) = {i, i, i, i};
  __syncthreads();
  out[i] = shared[i * 4 + 2];
}

// ---- global memory

template <bool bug>
__global__ void no_bounds_predicate(int* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (bug || i < n) out[i] = i;
}

template <bool bug>
__global__ void size_not_supported(int* out) {  // in blocks of one warp alone
  const int size = bug ? static_cast<int>(blockDim.x) : warp;
  if (size != warp) trap();
  out[threadIdx.x] = threadIdx.x;
}

template <bool bug>
__global__ void sum_without_atomics(int* out) {
  if (bug)
    out[0] = out[0] + 1;
  else
    atomicAdd(&out[0], 1);
}

template <bool bug>
__global__ void read_only_of_written(int* data, int* out) {
  const int i = threadIdx.x;
  if (i == 0) data[0] = 5;
  __syncthreads();
  out[i] = bug ? __ldg(data) : data[0];
}

template <bool bug>
__global__ void local_not_set(int* out) {
  int chosen[4];
  const int i = threadIdx.x;
  for (int k = 0; k < (bug ? 3 : 4); ++k) chosen[k] = i;
  out[i] = chosen[(i + out[i]) & 3];
}

// ---- warps

template <bool bug>
__global__ void shuffle_of_absent(int* out) {
  const int i = threadIdx.x;
  if (i < 16) out[i] = __shfl_xor_sync(bug ? ~0u : 0xffffu, i, 1);
}

template <bool bug>
__global__ void shuffle_from_outside(int* out) {
  const int i = threadIdx.x;
  if (i < 16) out[i] = __shfl_sync(0xffffu, i, bug ? 20 : 4);
}

template <bool bug>
__global__ void shuffles_crossed(int* out) {
  const int i = threadIdx.x;
  int v = i;
  if (bug && i >= 16) {
    v = __shfl_down_sync(~0u, v, 0);
    v = __shfl_xor_sync(~0u, v, 1);
  } else {
    v = __shfl_xor_sync(~0u, v, 1);
    v = __shfl_down_sync(~0u, v, 0);
  }
  out[i] = v;
}

template <bool bug>
__global__ void product_of_some(float* out) {
  uint32_t a[4] = {}, b[2] = {};
  float d[4] = {1, 1, 1, 1};
  const int i = threadIdx.x;
  if (!bug || i < 24) mma_bf16(d, a, b);
  out[i] = d[3];
}

template <bool bug>
__global__ void operand_not_rounded(float* out) {
  const float x = 1.0009765f + 1e-5f;  // not of tf32
  uint32_t a[4], b[2] = {to_tf32(1), to_tf32(1)};
  for (uint32_t& word : a) word = bug ? __float_as_uint(x) : to_tf32(x);
  float d[4] = {};
  mma_tf32(d, a, b);
  out[threadIdx.x] = d[0] > 0 ? 1.0f : 0.0f;
}

template <bool bug>
__global__ void fragment_transposed(float* out) {  // out = a, by a product with the identity
  const int row = threadIdx.x / 4, q = threadIdx.x % 4;
  auto element = [](int r, int k) { return static_cast<float>(r * 8 + k); };
  uint32_t a[4], b[2];
  for (int i = 0; i < 4; ++i) {
    const int lower_half = bug ? i / 2 : i % 2, later_k = bug ? i % 2 : i / 2;
    a[i] = to_tf32(element(row + lower_half * 8, q + later_k * 4));
  }
  for (int i = 0; i < 2; ++i) b[i] = to_tf32(q + i * 4 == row ? 1 : 0);
  float d[4] = {};
  mma_tf32(d, a, b);
  for (int i = 0; i < 4; ++i) out[(row + i / 2 * 8) * 8 + q * 2 + i % 2] = d[i];
}

// ---- asynchronous copies

enum class CopyBug { none, never_waited, no_barrier, waits_for_too_few, misaligned, outside };

template <CopyBug bug>
__global__ void copy_in_stages(const int* in, int* out, int stages) {
  SharedMemory memory;
  int* buffer = memory.take<int>(2 * threads * 4);
  const int i = threadIdx.x;
  auto fetch = [&](int stage) {
    int* to = buffer + stage % 2 * threads * 4 + i * 4;
    if (bug == CopyBug::misaligned) to += i == 0 ? 1 : 0;
    if (bug == CopyBug::outside && i == threads - 1) to += threads * 4;
    if (stage < stages || bug == CopyBug::never_waited) copy_async<16>(to, in + (stage % stages * threads + i) * 4);
    copy_async_commit();
  };
  fetch(0);
  for (int stage = 0; stage < stages; ++stage) {
    fetch(stage + 1);
    copy_async_wait<bug == CopyBug::waits_for_too_few ? 2 : 1>();
    if (bug != CopyBug::no_barrier) __syncthreads();
    out[stage * threads + i] = buffer[stage % 2 * threads * 4 + (threads - 1 - i) * 4];
    __syncthreads();
  }
  if (bug != CopyBug::never_waited) copy_async_wait<0>();
}

// ---- blocks that wait for each other

enum class FlagBug { none, not_released, not_acquired, no_fence, block_not_done };

template <FlagBug bug>
__global__ void hand_to_next_block(int* data, uint32_t* flags, int* out) {
  const int i = threadIdx.x;
  const unsigned b = blockIdx.x;
  data[b * threads + i] = static_cast<int>(b) * 1000 + i;
  if (bug != FlagBug::block_not_done) __syncthreads();
  if (i == 0) {
    if (bug == FlagBug::no_fence || bug == FlagBug::not_released)
      store_relaxed(&flags[b], 1u);
    else
      store_release(&flags[b], 1);
  }
  const unsigned from = (b + 1) % gridDim.x;
  if (i == 0) {
    if (bug == FlagBug::not_acquired)
      spin_until([&] { return load_relaxed(&flags[from]) == 1; });
    else
      spin_until([&] { return load_acquire(&flags[from]) == 1; });
  }
  __syncthreads();
  out[b * threads + i] = data[from * threads + threads - 1 - i];
}

template <bool bug>
__global__ void count_with_fence(int* data, uint32_t* counter, int* out) {
  if (threadIdx.x) return;
  data[blockIdx.x] = static_cast<int>(blockIdx.x) + 1;
  if (!bug) __threadfence();
  if (atomicAdd(counter, 1u) + 1 < gridDim.x) return;
  __threadfence();
  int sum = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) sum += data[b];
  out[0] = sum;
}

enum class GridBug { none, no_barrier, counts_too_many, stale_counter };

template <GridBug bug>
__global__ void two_phases(int* data, uint32_t* counter, uint32_t arrivals, int* out) {
  const int i = threadIdx.x;
  const unsigned b = blockIdx.x, from = (b + 1) % gridDim.x;
  data[b * threads + i] += static_cast<int>(b) + 1;
  if (bug != GridBug::no_barrier) grid_barrier(counter, arrivals + (bug == GridBug::counts_too_many ? 1 : 0));
  out[b * threads + i] = data[from * threads + i];
}

template <bool bug>
__global__ void wait_for_later_block(uint32_t* flags, int* out) {  // fits only where all blocks are there at once
  if (threadIdx.x == 0) {
    store_release(&flags[blockIdx.x], 1);
    spin_until([&] { return load_acquire(&flags[gridDim.x - 1 - blockIdx.x]) == 1; });
    out[blockIdx.x] = 1;
  }
}

template <bool bug>
__global__ void lock_order(uint32_t* locks, int* out) {
  if (threadIdx.x) return;
  const unsigned first = bug ? blockIdx.x : 0, second = 1 - first;
  spin_until([&] { return atomicExch(&locks[first], 1u) == 0; });
  spin_until([&] { return atomicExch(&locks[second], 1u) == 0; });
  __threadfence();
  out[0] = out[0] + 1;
  __threadfence();
  atomicExch(&locks[second], 0u);
  atomicExch(&locks[first], 0u);
}

// ---- clusters

enum class ClusterBug { none, reads_too_early, leaves_too_early, wrong_rank, arrives_only };

template <ClusterBug bug>
__global__ void read_neighbour(int* out) {
  SharedMemory memory;
  int* shared = memory.take<int>(threads);
  const int i = threadIdx.x;
  const unsigned size = cluster_size(), peer = (cluster_rank() + 1) % size;
  shared[i] = static_cast<int>(blockIdx.x) * 100 + i;
  if (bug == ClusterBug::reads_too_early)
    __syncthreads();
  else
    cluster_barrier();
  out[blockIdx.x * threads + i] =
      load_peer(&shared[threads - 1 - i], bug == ClusterBug::wrong_rank ? peer + size : peer);
  if (bug == ClusterBug::arrives_only) cluster_arrive();
  if (bug != ClusterBug::leaves_too_early && bug != ClusterBug::arrives_only) cluster_barrier();
}

enum class AsyncBug { none, wrong_parity, expects_less, expects_more, not_initialised, reuses_too_early, no_wait };

template <AsyncBug bug>
__global__ void send_to_neighbour(int* out, int rounds) {
  SharedMemory memory;
  int* inbox = memory.take<int>(warp);
  uint64_t* barriers = memory.take<uint64_t>(2);
  const int lane = threadIdx.x;
  const unsigned right = (cluster_rank() + 1) % cluster_size();
  const unsigned left = (cluster_rank() + cluster_size() - 1) % cluster_size();
  constexpr uint32_t all = warp * sizeof(int);
  constexpr uint32_t expected = bug == AsyncBug::expects_less ? all - 4 : bug == AsyncBug::expects_more ? all + 4 : all;
  if (lane == 0) {
    if (bug != AsyncBug::not_initialised) mbarrier_init(&barriers[0], 1);
    mbarrier_init(&barriers[1], 1);
    fence_mbarrier_init();
  }
  cluster_barrier();
  for (int round = 0; round < rounds; ++round) {
    if (lane == 0) mbarrier_arrive_expect(&barriers[0], expected);
    store_async(&inbox[lane], right, round * 100 + lane + static_cast<int>(cluster_rank()) * 1000, &barriers[0]);
    if (bug != AsyncBug::no_wait) mbarrier_wait(&barriers[0], (round + (bug == AsyncBug::wrong_parity ? 1 : 0)) % 2);
    out[(blockIdx.x * rounds + round) * warp + lane] = inbox[warp - 1 - lane];
    __syncwarp();
    if (lane == 0) mbarrier_arrive_peer(&barriers[1], left);
    if (bug != AsyncBug::reuses_too_early) mbarrier_wait(&barriers[1], round % 2);
  }
  cluster_barrier();
}

// ---- how each is run, and what it must compute

int identity(int i) { return i; }
int mirrored(int i) { return threads - 1 - i; }

template <void kernel(int*)>
void run_block(const char* name, const LaunchShape& s, int results, int expected(int)) {
  DeviceArray<int> out(results);
  launch(name, s, kernel, out.get());
  expect_all<int>(out, expected);
}

template <void kernel(float*)>
void run_product(const char* name, int results, float expected(int)) {
  DeviceArray<float> out(results);
  launch(name, shape(1, warp), kernel, out.get());
  expect_all<float>(out, expected);
}

template <CopyBug bug>
void run_copies() {
  constexpr int stages = 3;
  std::vector<int> in(stages * threads * 4);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<int>(i);
  DeviceArray<int> from(in), out(stages * threads);
  launch("copy_in_stages", shape(1, threads, 2 * threads * 16), copy_in_stages<bug>, from.get(), out.get(), stages);
  expect_all<int>(out, [](int i) { return (i / threads * threads + threads - 1 - i % threads) * 4; });
}

template <FlagBug bug>
void run_flags() {
  constexpr int blocks = 4;
  DeviceArray<int> data(blocks * threads), out(blocks * threads);
  DeviceArray<uint32_t> flags(blocks);
  launch("hand_to_next_block", cooperative(blocks, threads), hand_to_next_block<bug>, data.get(), flags.get(),
         out.get());
  expect_all<int>(out, [](int i) { return (i / threads + 1) % blocks * 1000 + threads - 1 - i % threads; });
}

template <GridBug bug>
void run_grid(bool is_cooperative) {
  constexpr int blocks = 4, launches = 2;
  DeviceArray<int> data(blocks * threads), out(blocks * threads);
  DeviceArray<uint32_t> counter(1);
  LaunchShape s = is_cooperative ? cooperative(blocks, threads) : shape(blocks, threads);
  for (uint32_t n = 1; n <= launches; ++n) {
    const uint32_t arrivals = blocks * (bug == GridBug::stale_counter ? 1 : n);
    launch("two_phases", s, two_phases<bug>, data.get(), counter.get(), arrivals, out.get());
    expect_all<int>(out, [n](int i) { return ((i / threads + 1) % blocks + 1) * static_cast<int>(n); });
  }
}

template <ClusterBug bug>
void run_cluster() {
  constexpr unsigned cluster = 3, grid = 6;
  DeviceArray<int> out(grid * threads);
  launch("read_neighbour", shape(grid, threads, threads * 4, cluster), read_neighbour<bug>, out.get());
  expect_all<int>(out, [](int i) {
    const int b = i / threads, first = b / 3 * 3;
    return (first + (b - first + 1) % 3) * 100 + threads - 1 - i % threads;
  });
}

template <AsyncBug bug>
void run_async() {
  constexpr int cluster = 3, rounds = 3;
  DeviceArray<int> out(cluster * rounds * warp);
  launch("send_to_neighbour", shape(cluster, warp, warp * 4 + 16, cluster), send_to_neighbour<bug>, out.get(), rounds);
  expect_all<int>(out, [](int i) {
    const int lane = i % warp, round = i / warp % rounds, block = i / warp / rounds;
    return round * 100 + warp - 1 - lane + (block + cluster - 1) % cluster * 1000;
  });
}

template <bool bug>
void run_bounds() {
  DeviceArray<int> out(100);
  launch("no_bounds_predicate", shape(2, threads), no_bounds_predicate<bug>, out.get(), 100);
  expect_all<int>(out, identity);
}

template <bool bug>
void run_read_only() {
  DeviceArray<int> data(1), out(threads);
  launch("read_only_of_written", shape(1, threads), read_only_of_written<bug>, data.get(), out.get());
  expect_all<int>(out, [](int) { return 5; });
}

template <bool bug>
void run_counter() {
  constexpr int blocks = 4;
  DeviceArray<int> data(blocks), out(1);
  DeviceArray<uint32_t> counter(1);
  launch("count_with_fence", shape(blocks, warp), count_with_fence<bug>, data.get(), counter.get(), out.get());
  expect_all<int>(out, [](int) { return blocks * (blocks + 1) / 2; });
}

template <bool bug>
void run_waiting() {
  constexpr int blocks = 6;
  DeviceArray<int> out(blocks);
  DeviceArray<uint32_t> flags(blocks);
  const LaunchShape s = bug ? shape(blocks, warp) : cooperative(blocks, warp);
  launch("wait_for_later_block", s, wait_for_later_block<bug>, flags.get(), out.get());
  expect_all<int>(out, [](int) { return 1; });
}

template <bool bug>
void run_locks() {
  DeviceArray<int> out(1);
  DeviceArray<uint32_t> locks(2);
  launch("lock_order", cooperative(2, warp), lock_order<bug>, locks.get(), out.get());
  expect_all<int>(out, [](int) { return 2; });
}

// Letters of the orders in which the bug must be found: R round_robin, V reverse, N random; '-' none of them.
struct Specimen {
  const char* name;
  void (*run[2])();  // good, bug
  const char *plain, *address, *thread;
};

#define BLOCK(kernel, s, n, expected) \
  {[] { run_block<kernel<false>>(#kernel, s, n, expected); }, [] { run_block<kernel<true>>(#kernel, s, n, expected); }}
#define PRODUCT(kernel, n, expected) \
  {[] { run_product<kernel<false>>(#kernel, n, expected); }, [] { run_product<kernel<true>>(#kernel, n, expected); }}

float one(int) { return 1; }
float index_of(int i) { return static_cast<float>(i); }
int two_rounds(int i) { return i / threads * 100 + threads - 1 - i % threads; }
int neighbour(int i) { return i ^ 1; }
int next(int i) { return i + 1 < threads ? i + 1 : -1; }
int four(int) { return 4; }
int total(int) { return 2 * threads; }

const size_t ints = threads * sizeof(int);

const Specimen zoo[] = {
    {"no_block_barrier", BLOCK(no_block_barrier, shape(1, threads, ints), threads, mirrored), "RVN", "RVN", "RVN"},
    {"no_warp_barrier", BLOCK(no_warp_barrier, shape(1, threads, ints), threads, neighbour), "RVN", "RVN", "RVN"},
    {"overwritten_too_early", BLOCK(overwritten_too_early, shape(1, threads, ints), 2 * threads, two_rounds), "RVN",
     "RVN", "RVN"},
    {"divergent_barrier", BLOCK(divergent_barrier, shape(1, threads), threads, identity), "RVN", "RVN", "RVN"},
    {"barrier_of_some", BLOCK(barrier_of_some, shape(1, threads, ints), threads, mirrored), "RVN", "RVN", "RVN"},
    {"barriers_crossed", BLOCK(barriers_crossed, shape(1, threads), threads, identity), "RVN", "RVN", "RVN"},
    {"shared_write_behind", BLOCK(shared_write_behind, shape(1, threads, ints), threads, identity), "RVN", "RVN",
     "RVN"},
    {"shared_read_behind", BLOCK(shared_read_behind, shape(1, threads, ints), threads, next), "-", "RVN", "-"},
    {"shared_not_written", BLOCK(shared_not_written, shape(1, threads, ints), threads, identity), "RVN", "RVN", "RVN"},
    {"shared_too_much", BLOCK(shared_too_much, shape(1, threads, ints), threads, identity), "RVN", "RVN", "RVN"},
    {"misaligned_vector", BLOCK(misaligned_vector, shape(1, threads, 4 * ints + 16), threads, identity), "-", "RVN",
     "-"},
    {"no_bounds_predicate", {run_bounds<false>, run_bounds<true>}, "-", "RVN", "-"},
    {"size_not_supported", BLOCK(size_not_supported, shape(1, threads), threads, identity), "RVN", "RVN", "RVN"},
    {"sum_without_atomics", BLOCK(sum_without_atomics, shape(2, threads), 1, total), "-", "-", "RVN"},
    {"read_only_of_written", {run_read_only<false>, run_read_only<true>}, "RVN", "RVN", "RVN"},
    {"local_not_set", BLOCK(local_not_set, shape(1, threads), threads, identity), "-", "RVN", "-"},
    {"shuffle_of_absent", BLOCK(shuffle_of_absent, shape(1, warp), 16, neighbour), "RVN", "RVN", "RVN"},
    {"shuffle_from_outside", BLOCK(shuffle_from_outside, shape(1, warp), 16, four), "RVN", "RVN", "RVN"},
    {"shuffles_crossed", BLOCK(shuffles_crossed, shape(1, warp), warp, neighbour), "RVN", "RVN", "RVN"},
    {"product_of_some", PRODUCT(product_of_some, warp, one), "RVN", "RVN", "RVN"},
    {"operand_not_rounded", PRODUCT(operand_not_rounded, warp, one), "RVN", "RVN", "RVN"},
    {"fragment_transposed", PRODUCT(fragment_transposed, 128, index_of), "RVN", "RVN", "RVN"},
    {"copy_never_waited", {run_copies<CopyBug::none>, run_copies<CopyBug::never_waited>}, "RVN", "RVN", "RVN"},
    {"copy_without_barrier", {run_copies<CopyBug::none>, run_copies<CopyBug::no_barrier>}, "RVN", "RVN", "RVN"},
    {"copy_waits_for_too_few",
     {run_copies<CopyBug::none>, run_copies<CopyBug::waits_for_too_few>},
     "RVN",
     "RVN",
     "RVN"},
    {"copy_misaligned", {run_copies<CopyBug::none>, run_copies<CopyBug::misaligned>}, "RVN", "RVN", "RVN"},
    {"copy_outside", {run_copies<CopyBug::none>, run_copies<CopyBug::outside>}, "RVN", "RVN", "RVN"},
    {"flag_not_released", {run_flags<FlagBug::none>, run_flags<FlagBug::not_released>}, "-", "-", "RVN"},
    {"flag_not_acquired", {run_flags<FlagBug::none>, run_flags<FlagBug::not_acquired>}, "-", "-", "RVN"},
    {"flag_before_block_is_done", {run_flags<FlagBug::none>, run_flags<FlagBug::block_not_done>}, "N", "N", "RVN"},
    {"counter_without_fence", {run_counter<false>, run_counter<true>}, "-", "-", "RVN"},
    {"no_grid_barrier",
     {[] { run_grid<GridBug::none>(true); }, [] { run_grid<GridBug::no_barrier>(true); }},
     "RVN",
     "RVN",
     "RVN"},
    {"grid_barrier_not_cooperative",
     {[] { run_grid<GridBug::none>(true); }, [] { run_grid<GridBug::none>(false); }},
     "RVN",
     "RVN",
     "RVN"},
    {"grid_barrier_counts_too_many",
     {[] { run_grid<GridBug::none>(true); }, [] { run_grid<GridBug::counts_too_many>(true); }},
     "RVN",
     "RVN",
     "RVN"},
    {"counter_of_last_launch",
     {[] { run_grid<GridBug::none>(true); }, [] { run_grid<GridBug::stale_counter>(true); }},
     "N",
     "N",
     "N"},
    {"wait_for_later_block", {run_waiting<false>, run_waiting<true>}, "VN", "VN", "VN"},
    {"lock_order", {run_locks<false>, run_locks<true>}, "RVN", "RVN", "RVN"},
    {"peer_read_too_early",
     {run_cluster<ClusterBug::none>, run_cluster<ClusterBug::reads_too_early>},
     "RVN",
     "RVN",
     "RVN"},
    {"peer_leaves_too_early",
     {run_cluster<ClusterBug::none>, run_cluster<ClusterBug::leaves_too_early>},
     "N",
     "N",
     "N"},
    {"peer_of_wrong_rank", {run_cluster<ClusterBug::none>, run_cluster<ClusterBug::wrong_rank>}, "RVN", "RVN", "RVN"},
    {"cluster_arrives_only",
     {run_cluster<ClusterBug::none>, run_cluster<ClusterBug::arrives_only>},
     "RVN",
     "RVN",
     "RVN"},
    {"mbarrier_wrong_parity", {run_async<AsyncBug::none>, run_async<AsyncBug::wrong_parity>}, "RVN", "RVN", "RVN"},
    {"mbarrier_expects_less", {run_async<AsyncBug::none>, run_async<AsyncBug::expects_less>}, "RVN", "RVN", "RVN"},
    {"mbarrier_expects_more", {run_async<AsyncBug::none>, run_async<AsyncBug::expects_more>}, "RVN", "RVN", "RVN"},
    {"mbarrier_not_initialised",
     {run_async<AsyncBug::none>, run_async<AsyncBug::not_initialised>},
     "RVN",
     "RVN",
     "RVN"},
    {"store_reuses_too_early", {run_async<AsyncBug::none>, run_async<AsyncBug::reuses_too_early>}, "N", "N", "N"},
    {"store_never_waited", {run_async<AsyncBug::none>, run_async<AsyncBug::no_wait>}, "RVN", "RVN", "RVN"},
};

// Whether any run in this order finds something; prints the first finding.
bool finds(const Specimen& specimen, bool bug, const std::string& order) {
  const char* wanted = std::getenv("EMU_SEEDS");
  const int seeds = order == "random" ? (wanted ? std::atoi(wanted) : 20) : 1;
  emu::options().order = order == "random"    ? emu::Order::random
                         : order == "reverse" ? emu::Order::reverse
                                              : emu::Order::round_robin;
  for (int seed = 0; seed < seeds; ++seed) {
    emu::options().seed = static_cast<uint64_t>(seed);
    try {
      specimen.run[bug]();
    } catch (const std::runtime_error& finding) {
      std::printf("%s: %s\n", specimen.name, finding.what());
      return true;
    }
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "", kind = argc > 2 ? argv[2] : "", order = argc > 3 ? argv[3] : "";
  bool found = false, known = false;
  for (const Specimen& s : zoo) {
    if (argc == 1) std::printf("%s %s %s %s\n", s.name, s.plain, s.address, s.thread);
    if (argc == 1 || (name != s.name && name != "all")) continue;
    known = true;
    if (kind != "recover") {
      found |= finds(s, kind == "bug", order);
    } else if (s.plain[0] != '-') {
      finds(s, true, order);
      found |= finds(s, false, order);
    }
  }
  if (argc > 1 && !known) {
    std::fprintf(stderr, "zoo: no specimen %s\n", name.c_str());
    return 2;
  }
  return found ? 3 : 0;
}
