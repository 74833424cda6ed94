// Rates and latencies inside a multiprocessor and between two of them, in clocks:
// mma.sync and wgmma by warps, width and independent chains; loads from shared memory, L2 and a peer of the cluster;
// a word's round trip between two blocks; how fast all blocks read one region that lies in L2.
//   rates [mma|wgmma|latency|l2]
#include "probe.h"

#include <string>

constexpr int kRepeats = 200;

// ---- mma.sync, operands in registers: weights are the A operand, as a persistent kernel holds them --------------------

template <int shape>
__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (shape == 0) mma_bf16(d, a, b0, b1);
  if constexpr (shape == 1)
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// `chains` accumulators, each fed by the same 8 tiles of weights in turn.
template <int shape, int chains>
__global__ void mma_rate(uint32_t seed, float* out, long long* clocks) {
  float d[chains][4] = {};
  uint32_t a[8][4], b[chains][2];
  for (int k = 0; k < 8; k++)
    for (int i = 0; i < 4; i++) a[k][i] = seed * (k * 4 + i + threadIdx.x) & 0x3fff3fff;
  for (int c = 0; c < chains; c++) b[c][0] = seed * c & 0x3fff3fff, b[c][1] = seed * (c + 9) & 0x3fff3fff;
  __syncthreads();
  long long start = clock64();
  for (int repeat = 0; repeat < kRepeats; repeat++)
#pragma unroll
    for (int k = 0; k < 8; k++)
#pragma unroll
      for (int c = 0; c < chains; c++) mma<shape>(d[c], a[k], b[c][0], b[c][1]);
  __syncthreads();
  if (threadIdx.x == 0 && blockIdx.x == 0) *clocks = clock64() - start;
  for (int c = 0; c < chains; c++)
    for (int i = 0; i < 4; i++) out[threadIdx.x] += d[c][i];
}

// The same with B read from shared memory, as h is: one ldmatrix.x4 gives B for two k-tiles of 8 columns.
template <int columns>
__global__ void mma_shared_rate(uint32_t seed, float* out, long long* clocks) {
  __shared__ __align__(16) uint16_t h[8 * columns][128 + 8];
  constexpr int k_tiles = 8;
  float d[columns][4] = {};
  uint32_t a[k_tiles][4];
  for (int k = 0; k < k_tiles; k++)
    for (int i = 0; i < 4; i++) a[k][i] = seed * (k * 4 + i + threadIdx.x) & 0x3fff3fff;
  for (int i = threadIdx.x; i < 8 * columns * 136; i += blockDim.x) (&h[0][0])[i] = seed * i & 0x3fff;
  __syncthreads();
  int lane = threadIdx.x % 32;
  uint32_t base = shared_address(&h[lane % 8][lane / 8 * 8]);
  long long start = clock64();
  for (int repeat = 0; repeat < kRepeats; repeat++)
#pragma unroll
    for (int k = 0; k < k_tiles; k += 2)
#pragma unroll
      for (int c = 0; c < columns; c++) {
        uint32_t b[4];
        ldmatrix_x4(b, base + (c * 8 * 136 + k * 16) * 2);
        mma_bf16(d[c], a[k], b[0], b[1]);
        mma_bf16(d[c], a[k + 1], b[2], b[3]);
      }
  __syncthreads();
  if (threadIdx.x == 0 && blockIdx.x == 0) *clocks = clock64() - start;
  for (int c = 0; c < columns; c++)
    for (int i = 0; i < 4; i++) out[threadIdx.x] += d[c][i];
}

struct Buffers {
  float* out = device_zeros<float>(4096);
  long long* clocks = device_zeros<long long>(1);
  double read() {
    CHECK(cudaGetLastError());
    long long host;
    CHECK(cudaMemcpy(&host, clocks, 8, cudaMemcpyDeviceToHost));
    return double(host);
  }
};

template <int shape, int chains>
void print_mma(Buffers& buffers, const char* name) {
  for (int warps : {1, 4, 8, 16}) {
    for (int round = 0; round < 2; round++)
      mma_rate<shape, chains><<<sm_count(), warps * 32>>>(12345, buffers.out, buffers.clocks);
    std::printf("{\"probe\": \"mma\", \"shape\": \"%s\", \"warps\": %d, \"chains\": %d, \"clocks_each\": %.3f}\n", name,
                warps, chains, buffers.read() / (kRepeats * 8 * chains * warps));
  }
}

template <int columns>
void print_mma_shared(Buffers& buffers) {
  for (int warps : {4, 8, 16}) {
    for (int round = 0; round < 2; round++)
      mma_shared_rate<columns><<<sm_count(), warps * 32>>>(12345, buffers.out, buffers.clocks);
    std::printf(
        "{\"probe\": \"mma, h from shared memory\", \"shape\": \"m16n8k16 bf16\", \"warps\": %d, \"batch\": %d, "
        "\"clocks_each\": %.3f}\n",
        warps, columns * 8, buffers.read() / (kRepeats * 8 * columns * warps));
  }
}

// ---- wgmma: 64 gate rows a warpgroup; A from registers or shared memory, B (h) from shared memory ------------------------

#define ACC4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define ACC16(d, i) ACC4(d, i), ACC4(d, i + 4), ACC4(d, i + 8), ACC4(d, i + 12)

template <int n, bool registers>
__device__ inline void wgmma(float* d, const uint32_t (&a)[4], uint64_t a_descriptor, uint64_t b) {
  if constexpr (n == 8 && registers)
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, {%4, %5, %6, %7}, %8, 1, 1, 1, 0;"
        : ACC4(d, 0)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  if constexpr (n == 8 && !registers)
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
                 : ACC4(d, 0)
                 : "l"(a_descriptor), "l"(b));
  if constexpr (n == 32 && registers)
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, "
        "%11, %12, %13, %14, %15}, {%16, %17, %18, %19}, %20, 1, 1, 1, 0;"
        : ACC16(d, 0)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  if constexpr (n == 32 && !registers)
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, "
        "%11, %12, %13, %14, %15}, %16, %17, 1, 1, 1, 0, 0;"
        : ACC16(d, 0)
        : "l"(a_descriptor), "l"(b));
  if constexpr (n == 64 && registers)
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, "
        "%11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, "
        "%31}, {%32, %33, %34, %35}, %36, 1, 1, 1, 0;"
        : ACC16(d, 0), ACC16(d, 16)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  if constexpr (n == 64 && !registers)
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, "
        "%11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, "
        "%31}, %32, %33, 1, 1, 1, 0, 0;"
        : ACC16(d, 0), ACC16(d, 16)
        : "l"(a_descriptor), "l"(b));
}

// Of a matrix in core matrices of 8 rows by 16 bytes, no swizzle.
__device__ inline uint64_t descriptor(const void* p) {
  return (shared_address(p) & 0x3ffff) >> 4 | uint64_t(128 >> 4) << 16 | uint64_t(256 >> 4) << 32;
}

// A chain of `length` products into one accumulator: a step's sum over H = 16 * length.
template <int n, bool registers, int length>
__global__ void wgmma_rate(uint32_t seed, float* out, long long* clocks) {
  extern __shared__ __align__(128) uint16_t shared[];
  for (int i = threadIdx.x; i < 16384; i += blockDim.x) shared[i] = seed * i & 0x3fff;
  asm volatile("fence.proxy.async;" ::: "memory");
  __syncthreads();
  constexpr int tiles = length < 16 ? length : 16;
  float d[n / 2] = {};
  uint32_t a[tiles][4];
  for (int k = 0; k < tiles; k++)
    for (int i = 0; i < 4; i++) a[k][i] = seed * (k * 4 + i + threadIdx.x) & 0x3fff3fff;
  uint64_t a_descriptor = descriptor(shared + threadIdx.x / 128 * 1024), b = descriptor(shared + 8192);
  long long start = clock64();
  for (int repeat = 0; repeat < kRepeats; repeat++) {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int k = 0; k < length; k++) wgmma<n, registers>(d, a[k % tiles], a_descriptor, b);
    asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
  }
  __syncthreads();
  if (threadIdx.x == 0 && blockIdx.x == 0) *clocks = clock64() - start;
  for (int i = 0; i < n / 2; i++) out[threadIdx.x] += d[i];
}

template <int n, bool registers, int length>
void print_wgmma(Buffers& buffers) {
  for (int warpgroups : {1, 2, 4}) {
    for (int round = 0; round < 2; round++)
      wgmma_rate<n, registers, length><<<sm_count(), warpgroups * 128, 32768>>>(12345, buffers.out, buffers.clocks);
    std::printf(
        "{\"probe\": \"wgmma\", \"shape\": \"m64n%dk16 bf16\", \"a\": \"%s\", \"warpgroups\": %d, \"chain\": %d, "
        "\"clocks_a_chain\": %.1f, \"clocks_each\": %.2f}\n",
        n, registers ? "registers" : "shared", warpgroups, length, buffers.read() / kRepeats,
        buffers.read() / (kRepeats * length * warpgroups));
  }
}

// ---- latencies -----------------------------------------------------------------------------------------------------

__global__ void chase_global(uint32_t* ring, int hops, uint32_t* out, long long* clocks) {
  uint32_t at = 0;
  for (int i = 0; i < 64; i++) at = __ldcg(ring + at);
  long long start = clock64();
  for (int i = 0; i < hops; i++) at = __ldcg(ring + at);
  *clocks = clock64() - start;
  *out = at;
}

__global__ void chase_shared(bool peer, int hops, uint32_t* out, long long* clocks) {
  __shared__ uint32_t ring[1024];
  for (int i = threadIdx.x; i < 1024; i += blockDim.x) ring[i] = (i + 33) % 1024;
  __syncthreads();
  cluster_barrier();
  if (cluster_rank() == 0 && threadIdx.x == 0) {
    uint32_t base = peer_address(shared_address(ring), peer ? 1 : 0), at = 0;
    long long start = clock64();
    if (peer)
      for (int i = 0; i < hops; i++) asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(at) : "r"(base + at * 4));
    else
      for (int i = 0; i < hops; i++) at = *(volatile uint32_t*)&ring[at];
    *clocks = clock64() - start;
    *out = at;
  }
  cluster_barrier();
}

// Two blocks answer each other: a word in L2, or an mbarrier in each other's shared memory.
__global__ void ping_pong_global(uint32_t* words, int other, int rounds, long long* clocks) {
  if (threadIdx.x || (blockIdx.x != 0 && blockIdx.x != other)) return;
  bool first = blockIdx.x == 0;
  long long start = clock64();
  for (uint32_t round = 1; round <= uint32_t(rounds); round++) {
    if (first) store_release(words, round);
    wait_until([&] { return load_acquire(words + (first ? 64 : 0)) >= round; });
    if (!first) store_release(words + 64, round);
  }
  if (first) *clocks = clock64() - start;
}

// The same without release and acquire: 16 bytes that carry the round's number.
__global__ void ping_pong_tagged(uint4* vectors, int other, int rounds, long long* clocks) {
  if (threadIdx.x || (blockIdx.x != 0 && blockIdx.x != other)) return;
  bool first = blockIdx.x == 0;
  long long start = clock64();
  for (uint32_t round = 1; round <= uint32_t(rounds); round++) {
    if (first) store_relaxed_16(vectors, {round, round, round, round});
    wait_until([&] { return load_relaxed_16(vectors + (first ? 64 : 0)).w == round; });
    if (!first) store_relaxed_16(vectors + 64, {round, round, round, round});
  }
  if (first) *clocks = clock64() - start;
}

__global__ void ping_pong_peer(int other, int rounds, long long* clocks) {
  __shared__ uint64_t mbarrier;
  __shared__ uint4 word;
  if (threadIdx.x == 0) mbarrier_init(&mbarrier, 1);
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  __syncthreads();
  cluster_barrier();
  int rank = cluster_rank();
  if (threadIdx.x == 0 && (rank == 0 || rank == other)) {
    uint32_t peer = rank == 0 ? other : 0;
    uint32_t place = peer_address(shared_address(&word), peer), at = peer_address(shared_address(&mbarrier), peer);
    long long start = clock64();
    for (int round = 0; round < rounds; round++) {
      mbarrier_expect(&mbarrier, 16);
      if (rank == 0) store_async_16(place, {1, 2, 3, 4}, at);
      wait_until([&] { return mbarrier_done(&mbarrier, round % 2); });
      if (rank != 0) store_async_16(place, {1, 2, 3, 4}, at);
    }
    if (rank == 0) *clocks = clock64() - start;
  }
  cluster_barrier();
}

void print_latency(Buffers& buffers) {
  auto print = [](const char* what, double clocks) {
    std::printf("{\"probe\": \"latency\", \"what\": \"%s\", \"clocks\": %.0f}\n", what, clocks);
    std::fflush(stdout);
  };
  uint32_t *words = device_zeros<uint32_t>(4 << 20), *out = device_zeros<uint32_t>(1);
  std::vector<uint32_t> ring(1 << 20);
  for (size_t i = 0; i < ring.size(); i++) ring[i] = uint32_t((i + 32 * 257) % ring.size());
  CHECK(cudaMemcpy(words, ring.data(), ring.size() * 4, cudaMemcpyHostToDevice));
  for (int round = 0; round < 2; round++) chase_global<<<1, 1>>>(words, 32768, out, buffers.clocks);
  print("load from L2", buffers.read() / 32768);
  for (bool peer : {false, true}) {
    CHECK(launch(chase_shared, 2, 32, 0, 2, peer, 1000, out, buffers.clocks));
    print(peer ? "load from a peer's shared memory" : "load from shared memory", buffers.read() / 1000);
  }
  for (int other : {1, 2, 7, 60, 131}) {
    CHECK(cudaMemset(words, 0, 1024));
    CHECK(launch(ping_pong_global, sm_count(), 32, 0, 0, words, other, 1000, buffers.clocks));
    print("there and back through a word in L2", buffers.read() / 1000);
  }
  for (int other : {1, 2, 7, 60, 131}) {
    CHECK(cudaMemset(words, 0, 4096));
    CHECK(launch(ping_pong_tagged, sm_count(), 32, 0, 0, reinterpret_cast<uint4*>(words), other, 1000, buffers.clocks));
    print("there and back through a tagged vector in L2", buffers.read() / 1000);
  }
  for (int other : {1, 2, 7}) {
    CHECK(launch(ping_pong_peer, 8, 32, 0, 8, other, 1000, buffers.clocks));
    print("there and back by st.async and mbarrier", buffers.read() / 1000);
  }
}

// ---- L2 ------------------------------------------------------------------------------------------------------------

// Every block reads all of `bytes` again and again, starting where `apart` puts it.
__global__ void read_all(const uint4* data, int vectors, int passes, bool apart, uint4* out) {
  uint4 sum = {};
  int start = apart ? int(size_t(blockIdx.x) * vectors / gridDim.x) : 0;
  for (int pass = 0; pass < passes; pass++)
    for (int base = threadIdx.x; base < vectors; base += blockDim.x * 8) {
      uint4 v[8];
#pragma unroll
      for (int j = 0; j < 8; j++) v[j] = __ldcg(data + (start + base + j * blockDim.x) % vectors);
#pragma unroll
      for (int j = 0; j < 8; j++) sum.x ^= v[j].x, sum.y ^= v[j].y, sum.z ^= v[j].z, sum.w ^= v[j].w;
    }
  if (sum.x == 0x12345678) *out = sum;
}

void print_l2() {
  uint4 *data = device_zeros<uint4>(4 << 20), *out = device_zeros<uint4>(1);
  for (int kib : {64, 128, 512, 2048, 8192, 24576})
    for (bool apart : {false, true}) {
      int vectors = kib * 64, passes = 1 + 65536 / kib / 8;
      double us = median_us([&] { read_all<<<sm_count(), 512>>>(data, vectors, passes, apart, out); }, 5);
      CHECK(cudaGetLastError());
      std::printf("{\"probe\": \"L2 reads\", \"kib\": %d, \"apart\": %s, \"gb_per_s\": %.0f}\n", kib,
                  apart ? "true" : "false", double(vectors) * 16 * passes * sm_count() / us / 1e3);
    }
}

int main(int, char** argv) {
  std::string what = argv[1];
  Buffers buffers;
  if (what == "mma") {
    print_mma<0, 1>(buffers, "m16n8k16 bf16");
    print_mma<0, 2>(buffers, "m16n8k16 bf16");
    print_mma<0, 4>(buffers, "m16n8k16 bf16");
    print_mma<0, 8>(buffers, "m16n8k16 bf16");
    print_mma<1, 1>(buffers, "m16n8k8 tf32");
    print_mma<1, 4>(buffers, "m16n8k8 tf32");
    print_mma_shared<1>(buffers);
    print_mma_shared<2>(buffers);
    print_mma_shared<4>(buffers);
  }
  if (what == "wgmma") {
    print_wgmma<8, true, 1>(buffers);
    print_wgmma<8, true, 16>(buffers);
    print_wgmma<8, true, 48>(buffers);
    print_wgmma<8, false, 48>(buffers);
    print_wgmma<32, true, 48>(buffers);
    print_wgmma<32, false, 48>(buffers);
    print_wgmma<64, true, 48>(buffers);
    print_wgmma<64, false, 48>(buffers);
  }
  if (what == "latency") print_latency(buffers);
  if (what == "l2") print_l2();
}
