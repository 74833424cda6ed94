// How fast can the blocks of a group give each other their pieces of h, step after step?
//
// Each block of a group of N owns 1/N of `bytes`; in every step it publishes its piece and then holds all of them in
// its own shared memory. What it publishes is what it collected the step before, plus one, so that a word that was
// read too early, or torn, or from the wrong step shows in the result. All groups that fit on the device run at once.
//   exchange [barriers|cluster|grid]
#include "probe.h"

#include <cooperative_groups.h>

#include <string>

constexpr int kThreads = 256;
constexpr int kSteps = 2000;
constexpr int kMaxGroup = 144;

struct Problem {
  int blocks;       // of a group
  int pieces;       // vectors of 16 bytes that a block publishes
  uint4* buffers;   // [group][2][blocks * pieces]
  uint32_t* flags;  // [group][kMaxGroup * 32]
  uint32_t* wrong;  // how many words were not `steps` in the end
};

// What a way of exchanging sees: its place, and the two halves of shared memory.
struct Block {
  Problem p;
  int group, rank, total;
  uint4* held[2];      // [2][blocks * pieces]
  uint64_t* mbarrier;  // [2]

  __device__ uint4* global(int step) const { return p.buffers + (size_t(group) * 2 + step % 2) * total; }
  __device__ uint32_t* flag(int rank) const { return p.flags + size_t(group) * kMaxGroup * 32 + rank; }
  __device__ uint4 value(int step, int i) const {
    uint4 v = held[(step + 1) % 2][(i * 7 + rank * 13 + 5) % total];
    return {v.x + 1, v.y + 1, v.z + 1, v.w + 1};
  }
};

// Store; one flag a block; every block polls all flags, then loads. `spacing` words from flag to flag.
template <int spacing>
struct Flags {
  static __device__ void run(const Block& b, int step) {
    for (int i = threadIdx.x; i < b.p.pieces; i += kThreads)
      __stcg(&b.global(step)[b.rank * b.p.pieces + i], b.value(step, i));
    __syncthreads();
    if (threadIdx.x == 0) store_release(b.flag(b.rank * spacing), step);
    if (threadIdx.x < b.p.blocks)
      wait_until([&] { return load_acquire(b.flag(threadIdx.x * spacing)) >= uint32_t(step); });
    __syncthreads();
    for (int i = threadIdx.x; i < b.total; i += kThreads) b.held[step % 2][i] = __ldcg(&b.global(step)[i]);
    __syncthreads();
  }
};

// As Flags, but a warp waits only for the blocks whose pieces it loads.
struct WarpFlags {
  static __device__ void run(const Block& b, int step) {
    for (int i = threadIdx.x; i < b.p.pieces; i += kThreads)
      __stcg(&b.global(step)[b.rank * b.p.pieces + i], b.value(step, i));
    __syncthreads();
    if (threadIdx.x == 0) store_release(b.flag(b.rank), step);
    int warps = kThreads / 32, share = (b.total + warps - 1) / warps;
    int begin = threadIdx.x / 32 * share, end = min(begin + share, b.total);
    if (begin < end) {
      int lane = threadIdx.x % 32, first = begin / b.p.pieces, last = (end - 1) / b.p.pieces;
      for (int rank = first + lane; rank <= last; rank += 32)
        wait_until([&] { return load_acquire(b.flag(rank)) >= uint32_t(step); });
      __syncwarp();
      for (int i = begin + lane; i < end; i += 32) b.held[step % 2][i] = __ldcg(&b.global(step)[i]);
    }
    __syncthreads();
  }
};

// One counter a group, that every block adds to and polls.
struct Counter {
  static __device__ void run(const Block& b, int step) {
    for (int i = threadIdx.x; i < b.p.pieces; i += kThreads)
      __stcg(&b.global(step)[b.rank * b.p.pieces + i], b.value(step, i));
    __syncthreads();
    if (threadIdx.x == 0) {
      add_release(b.flag(0), 1);
      wait_until([&] { return load_acquire(b.flag(0)) >= uint32_t(step) * b.p.blocks; });
    }
    __syncthreads();
    for (int i = threadIdx.x; i < b.total; i += kThreads) b.held[step % 2][i] = __ldcg(&b.global(step)[i]);
    __syncthreads();
  }
};

// The step's number travels inside each vector of 16 bytes (12 of them data): no flag, and no barrier to publish.
struct Tagged {
  static __device__ void run(const Block& b, int step) {
    for (int i = threadIdx.x; i < b.p.pieces; i += kThreads) {
      uint4 v = b.value(step, i);
      v.w = step;
      store_relaxed_16(&b.global(step)[b.rank * b.p.pieces + i], v);
    }
    constexpr int ahead = 8;  // loads in flight
    for (int base = threadIdx.x; base < b.total; base += kThreads * ahead) {
      uint4 v[ahead];
      wait_until([&] {
        bool all = true;
#pragma unroll
        for (int j = 0; j < ahead; j++)
          if (base + j * kThreads < b.total) v[j] = load_relaxed_16(&b.global(step)[base + j * kThreads]);
#pragma unroll
        for (int j = 0; j < ahead; j++)
          if (base + j * kThreads < b.total) all = all && v[j].w == uint32_t(step);
        return all;
      });
#pragma unroll
      for (int j = 0; j < ahead; j++)
        if (base + j * kThreads < b.total) b.held[step % 2][base + j * kThreads] = v[j];
    }
    __syncthreads();
  }
};

// As WarpFlags, but the pieces come by bulk copies, one a block of the group.
struct BulkFlags {
  static __device__ void run(const Block& b, int step) {
    for (int i = threadIdx.x; i < b.p.pieces; i += kThreads)
      __stcg(&b.global(step)[b.rank * b.p.pieces + i], b.value(step, i));
    fence_async_proxy();
    __syncthreads();
    uint64_t* mbarrier = &b.mbarrier[step % 2];
    if (threadIdx.x == 0) {
      mbarrier_expect(mbarrier, b.total * 16);
      store_release(b.flag(b.rank), step);
    }
    __syncthreads();
    if (threadIdx.x < b.p.blocks) {
      int rank = threadIdx.x, first = rank * b.p.pieces;
      wait_until([&] { return load_acquire(b.flag(rank)) >= uint32_t(step); });
      fence_async_proxy();
      bulk_from_global(shared_address(&b.held[step % 2][first]), &b.global(step)[first], b.p.pieces * 16,
                       shared_address(mbarrier));
    }
    wait_until([&] { return mbarrier_done(mbarrier, (step - 1) / 2 % 2); });
  }
};

// ---- inside a cluster --------------------------------------------------------------------------------------------

// Store into every peer's shared memory, then the cluster's barrier.
struct PeerStores {
  static __device__ void run(const Block& b, int step) {
    for (int i = threadIdx.x; i < b.total; i += kThreads) {
      int peer = i / b.p.pieces, piece = i % b.p.pieces;
      uint4* place = &b.held[step % 2][b.rank * b.p.pieces + piece];
      store_peer_16(peer_address(shared_address(place), peer), b.value(step, piece));
    }
    cluster_barrier();
  }
};

// Store into every peer's shared memory; each store counts itself off at the receiver's mbarrier. The piece is made
// before any of it leaves: a peer that has all of it may overwrite what another thread here would still read.
struct AsyncStores {
  static __device__ void run(const Block& b, int step) {
    uint64_t* mbarrier = &b.mbarrier[step % 2];
    uint4* mine = b.held[0] + 2 * b.total + step % 2 * b.p.pieces;
    if (threadIdx.x == 0) mbarrier_expect(mbarrier, b.total * 16);
    for (int i = threadIdx.x; i < b.p.pieces; i += kThreads) mine[i] = b.value(step, i);
    __syncthreads();
    for (int i = threadIdx.x; i < b.total; i += kThreads) {
      int peer = i / b.p.pieces, piece = i % b.p.pieces;
      uint32_t place = shared_address(&b.held[step % 2][b.rank * b.p.pieces + piece]);
      store_async_16(peer_address(place, peer), mine[piece], peer_address(shared_address(mbarrier), peer));
    }
    wait_until([&] { return mbarrier_done(mbarrier, (step - 1) / 2 % 2); });
  }
};

// The piece is gathered in shared memory, and one bulk copy a peer takes it there.
struct BulkStores {
  static __device__ void run(const Block& b, int step) {
    uint64_t* mbarrier = &b.mbarrier[step % 2];
    uint4* mine = b.held[0] + 2 * b.total + step % 2 * b.p.pieces;
    if (threadIdx.x == 0) mbarrier_expect(mbarrier, b.total * 16);
    for (int i = threadIdx.x; i < b.p.pieces; i += kThreads) mine[i] = b.value(step, i);
    fence_async_proxy();
    __syncthreads();
    if (threadIdx.x < b.p.blocks) {
      uint32_t place = shared_address(&b.held[step % 2][b.rank * b.p.pieces]);
      bulk_to_peer(peer_address(place, threadIdx.x), shared_address(mine), b.p.pieces * 16,
                   peer_address(shared_address(mbarrier), threadIdx.x));
    }
    wait_until([&] { return mbarrier_done(mbarrier, (step - 1) / 2 % 2); });
  }
};

// The piece stays in its owner's shared memory; after the cluster's barrier every block fetches all of them.
struct PeerLoads {
  static __device__ void run(const Block& b, int step) {
    uint4* mine = b.held[0] + 2 * b.total + step % 2 * b.p.pieces;
    for (int i = threadIdx.x; i < b.p.pieces; i += kThreads) mine[i] = b.value(step, i);
    cluster_barrier();
    for (int i = threadIdx.x; i < b.total; i += kThreads) {
      int peer = i / b.p.pieces, piece = i % b.p.pieces;
      b.held[step % 2][i] = load_peer_16(peer_address(shared_address(&mine[piece]), peer));
    }
    __syncthreads();
  }
};

template <class Way>
__global__ void __launch_bounds__(kThreads, 1) exchange(Problem p, bool cluster, bool tagged) {
  extern __shared__ uint4 shared[];
  __shared__ uint64_t mbarrier[2];
  int group = blockIdx.x / p.blocks, rank = cluster ? cluster_rank() : blockIdx.x % p.blocks;
  int total = p.blocks * p.pieces;
  Block b = {p, group, rank, total, {shared, shared + total}, mbarrier};
  if (threadIdx.x < 2) mbarrier_init(&mbarrier[threadIdx.x], 1);
  for (int i = threadIdx.x; i < 2 * total; i += kThreads) shared[i] = {};
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  __syncthreads();
  if (cluster) cluster_barrier();
  for (int step = 1; step <= kSteps; step++) Way::run(b, step);
  for (int i = threadIdx.x; i < total; i += kThreads) {
    uint4 v = b.held[kSteps % 2][i];
    if (v.x != kSteps || v.y != kSteps || v.z != kSteps || (!tagged && v.w != kSteps)) atomicAdd(p.wrong, 1);
  }
  if (cluster) cluster_barrier();  // nobody leaves while a peer may still reach into its memory
}

template <class Way>
void measure(const char* way, int blocks, int bytes, int cluster, bool tagged = false) {
  int pieces = (bytes / blocks + (tagged ? 11 : 15)) / (tagged ? 12 : 16);
  if (pieces == 0) return;
  size_t shared = size_t(blocks) * pieces * 32 + pieces * 32;
  if (shared < 120 << 10) shared = 120 << 10;  // one block a multiprocessor
  int groups = sm_count() / blocks;
  if (cluster) {
    CHECK(cudaFuncSetAttribute(exchange<Way>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)));
    if (cluster > 8) CHECK(cudaFuncSetAttribute(exchange<Way>, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    cudaLaunchConfig_t config = {};
    config.gridDim = cluster;
    config.blockDim = kThreads;
    config.dynamicSmemBytes = shared;
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {unsigned(cluster), 1, 1};
    config.attrs = &attribute;
    config.numAttrs = 1;
    CHECK(cudaOccupancyMaxActiveClusters(&groups, exchange<Way>, &config));
  }
  Problem p = {blocks, pieces, device_zeros<uint4>(size_t(groups) * 2 * blocks * pieces),
               device_zeros<uint32_t>(size_t(groups) * kMaxGroup * 32), device_zeros<uint32_t>(1)};
  size_t flag_bytes = size_t(groups) * kMaxGroup * 32 * 4, data_bytes = size_t(groups) * 2 * blocks * pieces * 16;
  auto clear = [&] {
    CHECK(cudaMemsetAsync(p.flags, 0, flag_bytes));
    CHECK(cudaMemsetAsync(p.buffers, 0, data_bytes));  // a tag of the round before must not vouch
  };
  double idle = median_us(clear, 5);
  double us = median_us(
      [&] {
        clear();
        CHECK(launch(exchange<Way>, groups * blocks, kThreads, shared, cluster, p, cluster > 0, tagged));
      },
      5);
  uint32_t wrong;
  CHECK(cudaMemcpy(&wrong, p.wrong, 4, cudaMemcpyDeviceToHost));
  std::printf(
      "{\"probe\": \"exchange\", \"way\": \"%s\", \"blocks\": %d, \"groups\": %d, \"bytes\": %d, \"ns_per_step\": "
      "%.0f, \"wrong\": %u}\n",
      way, blocks, groups, blocks * pieces * (tagged ? 12 : 16), (us - idle) * 1000 / kSteps, wrong);
  std::fflush(stdout);
  CHECK(cudaFree(p.buffers));
  CHECK(cudaFree(p.flags));
  CHECK(cudaFree(p.wrong));
}

// ---- barriers alone ----------------------------------------------------------------------------------------------

enum Barrier { kCooperativeGroups, kFlags, kCounter, kCluster, kBlock };

template <Barrier kind>
__global__ void __launch_bounds__(kThreads, 1) barriers(uint32_t* flags, int blocks) {
  uint32_t* mine = flags + blockIdx.x / blocks * kMaxGroup * 32;
  int rank = blockIdx.x % blocks;
  for (int step = 1; step <= kSteps; step++) {
    if constexpr (kind == kCooperativeGroups) cooperative_groups::this_grid().sync();
    if constexpr (kind == kCluster) cluster_barrier();
    if constexpr (kind == kBlock) __syncthreads();
    if constexpr (kind == kFlags) {
      __syncthreads();
      if (threadIdx.x == 0) store_release(mine + rank, step);
      if (threadIdx.x < blocks) wait_until([&] { return load_acquire(mine + threadIdx.x) >= uint32_t(step); });
      __syncthreads();
    }
    if constexpr (kind == kCounter) {
      __syncthreads();
      if (threadIdx.x == 0) {
        add_release(mine, 1);
        wait_until([&] { return load_acquire(mine) >= uint32_t(step) * blocks; });
      }
      __syncthreads();
    }
  }
}

template <Barrier kind>
void measure_barrier(const char* name, int blocks, int groups, int cluster) {
  uint32_t* flags = device_zeros<uint32_t>(size_t(groups) * kMaxGroup * 32);
  auto clear = [&] { CHECK(cudaMemsetAsync(flags, 0, size_t(groups) * kMaxGroup * 32 * 4)); };
  double idle = median_us(clear, 5);
  double us = median_us(
      [&] {
        clear();
        CHECK(launch(barriers<kind>, groups * blocks, kThreads, 0, cluster, flags, blocks));
      },
      5);
  std::printf("{\"probe\": \"barrier\", \"kind\": \"%s\", \"blocks\": %d, \"groups\": %d, \"ns\": %.0f}\n", name,
              blocks, groups, (us - idle) * 1000 / kSteps);
  std::fflush(stdout);
  CHECK(cudaFree(flags));
}

int main(int, char** argv) {
  std::string what = argv[1];
  int sms = sm_count();
  if (what == "barriers") {
    measure_barrier<kBlock>("block", 1, sms, 0);
    for (int cluster : {2, 4, 8, 16}) measure_barrier<kCluster>("cluster", cluster, cluster < 16 ? 8 : 4, cluster);
    for (int blocks : {8, 16, 32, 66, sms}) {
      measure_barrier<kFlags>("flags", blocks, sms / blocks, 0);
      measure_barrier<kCounter>("counter", blocks, sms / blocks, 0);
    }
    for (int blocks : {16, sms}) measure_barrier<kCooperativeGroups>("cooperative groups", blocks, 1, 0);
  }
  if (what == "cluster") {
    for (int blocks : {8, 16})
      for (int bytes : {512, 2048, 8192, 16384, 32768}) {
        measure<PeerStores>("peer stores", blocks, bytes, blocks);
        measure<AsyncStores>("async stores", blocks, bytes, blocks);
        measure<BulkStores>("bulk stores", blocks, bytes, blocks);
        measure<PeerLoads>("peer loads", blocks, bytes, blocks);
      }
  }
  if (what == "grid") {
    for (int blocks : {8, 16, 32, 66, sms})
      for (int bytes : {2048, 8192, 16384, 32768, 65536}) {
        if (bytes / blocks < 16) continue;
        measure<Flags<1>>("flags", blocks, bytes, 0);
        measure<Flags<32>>("flags, a line each", blocks, bytes, 0);
        measure<WarpFlags>("flags by warp", blocks, bytes, 0);
        measure<Counter>("counter", blocks, bytes, 0);
        measure<Tagged>("tagged", blocks, bytes, 0, true);
        measure<BulkFlags>("flags, bulk loads", blocks, bytes, 0);
      }
  }
}
