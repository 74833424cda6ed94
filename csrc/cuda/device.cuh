// What a kernel may ask of the device, by name. The only file that knows nvcc from the emulator (tests/emu) which
// runs the same kernels on a CPU: all PTX stands here, and kernels are plain CUDA C++ on top of it.
// tests/cuda/conformance.cu compares every wrapper with its definition. Clusters and mbarriers need sm_90; called
// on an older device they trap.
//
// `at` names the caller in the emulator's reports; to nvcc it is nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef RNNKERNELS_EMULATOR

#include <emulator/device.h>

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define RNNKERNELS_SM_90(...) __VA_ARGS__
#define RNNKERNELS_SHARED_KIB 227
#else
#define RNNKERNELS_SM_90(...) __trap()
#define RNNKERNELS_SHARED_KIB 163
#endif

namespace rnnkernels::cuda {

// What a multiprocessor has for the dynamic shared memory of its blocks.
constexpr int shared_kib = RNNKERNELS_SHARED_KIB;

struct Where {};

namespace detail {

template <class T>
struct Same {
  using type = T;
};

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ uint32_t peer_address(const void* p, unsigned rank) {
  uint32_t peer = 0;
  RNNKERNELS_SM_90(
      asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(peer) : "r"(shared_address(p)), "r"(rank)));
  return peer;
}

// Any 4, 8 or 16 bytes as the registers that carry them.
template <size_t bytes>
struct Words {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16, "moved as one, two or four words");
  uint32_t word[bytes / 4];
};

template <class T>
__device__ __forceinline__ Words<sizeof(T)> words_of(const T& value) {
  Words<sizeof(T)> words;
  memcpy(&words, &value, sizeof value);
  return words;
}

template <class T>
__device__ __forceinline__ T value_of(const Words<sizeof(T)>& words) {
  T value;
  memcpy(&value, &words, sizeof value);
  return value;
}

}  // namespace detail

template <class T>
using same = typename detail::Same<T>::type;  // no part in the deduction of T

// ---- numbers: pairs of 16-bit ones in a word, rounded to nearest, ties to even

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

__device__ __forceinline__ float2 unpack_bf16(uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
}

__device__ __forceinline__ float2 unpack_f16(uint32_t pair) {
  __half2 halves;
  memcpy(&halves, &pair, sizeof pair);
  return __half22float2(halves);
}

// The 19 upper bits, to nearest, ties away from zero; the others are zero.
__device__ __forceinline__ uint32_t to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits & ~0x1fffu;
}

// ---- memory order, in global memory. Relaxed accesses of 4, 8 or 16 bytes are whole and order nothing; an
// acquire that reads what a release wrote comes after all that the releasing thread had seen, in the device or in
// the whole system

template <class T>
__device__ __forceinline__ T load_relaxed(const T* p, Where = {}) {
  detail::Words<sizeof(T)> w;
  if constexpr (sizeof(T) == 4) {
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(w.word[0]) : "l"(p) : "memory");
  } else if constexpr (sizeof(T) == 8) {
    uint64_t both;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(both) : "l"(p) : "memory");
    w.word[0] = static_cast<uint32_t>(both), w.word[1] = static_cast<uint32_t>(both >> 32);
  } else {
    // A 16-byte load whose words are not all used is split by ptxas 13.0: whoever reads a tagged vector looks at
    // each.
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w.word[0]), "=r"(w.word[1]), "=r"(w.word[2]), "=r"(w.word[3])
                 : "l"(p)
                 : "memory");
  }
  return detail::value_of<T>(w);
}

template <class T>
__device__ __forceinline__ void store_relaxed(T* p, same<T> value, Where = {}) {
  const detail::Words<sizeof(T)> w = detail::words_of(value);
  if constexpr (sizeof(T) == 4) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(w.word[0]) : "memory");
  } else if constexpr (sizeof(T) == 8) {
    const uint64_t both = w.word[0] | static_cast<uint64_t>(w.word[1]) << 32;
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(p), "l"(both) : "memory");
  } else {
    asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(w.word[0]), "r"(w.word[1]),
                 "r"(w.word[2]), "r"(w.word[3])
                 : "memory");
  }
}

__device__ __forceinline__ uint32_t load_acquire(const uint32_t* p, Where = {}) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
  return value;
}

__device__ __forceinline__ void store_release(uint32_t* p, uint32_t value, Where = {}) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
}

__device__ __forceinline__ uint32_t load_acquire_system(const uint32_t* p, Where = {}) {
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
  return value;
}

__device__ __forceinline__ void store_release_system(uint32_t* p, uint32_t value, Where = {}) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
}

__device__ __forceinline__ void add_release(uint32_t* p, uint32_t value, Where = {}) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
}

// CUDA's __threadfence_block, __threadfence and __threadfence_system have this one beside them.
__device__ __forceinline__ void fence_cluster() {
  RNNKERNELS_SM_90(asm volatile("fence.acq_rel.cluster;" :: : "memory"));
}

// ---- copies from global to shared memory that go on while the thread does. Both addresses are multiples of
// `bytes`; where not valid, zeros are written and nothing is read. Wait until at most `groups_left` of this
// thread's groups are on their way; other threads need a barrier after that

template <int bytes>
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid = true, Where = {}) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
  const uint32_t read = valid ? bytes : 0;
  if constexpr (bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(detail::shared_address(to)), "l"(from), "r"(read)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(detail::shared_address(to)), "l"(from),
                 "n"(bytes), "r"(read)
                 : "memory");
}

__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int groups_left>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups_left) : "memory");
}

// ---- matrix products of a whole warp: d (16 x 8) += a (16 x K) b (K x 8), K = 16, for tf32 8. Lane 4 r + q holds
// rows r and r + 8 of a (words 0, 2 and 1, 3) and column r of b; word 0 is the q-th word of k, the later half of
// words is K / 2 further on. Of d it holds columns 2 q and 2 q + 1, of row r and of row r + 8

__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where = {}) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where = {}) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Operands come from to_tf32: the tensor cores would drop lower bits instead of rounding them.
__device__ __forceinline__ void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where = {}) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four matrices of 8 rows of 16 bytes; lane 8 m + i points to row i of matrix m. Lane 4 i + q gets word q of row i
// of each.
__device__ __forceinline__ void load_matrix_x4(uint32_t (&d)[4], const void* row, Where = {}) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(detail::shared_address(row))
               : "memory");
}

// ---- clusters (sm_90). A barrier in two halves: what a thread did before it arrives, others see after they have
// waited. Before a block reads or writes a peer's shared memory, and before it ends, the cluster must have met in
// one

__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank = 0;
  RNNKERNELS_SM_90(asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank)));
  return rank;
}

__device__ __forceinline__ unsigned cluster_size() {
  unsigned size = 1;
  RNNKERNELS_SM_90(asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size)));
  return size;
}

__device__ __forceinline__ void cluster_arrive(Where = {}) {
  RNNKERNELS_SM_90(asm volatile("barrier.cluster.arrive.release.aligned;" :: : "memory"));
}

__device__ __forceinline__ void cluster_wait(Where = {}) {
  RNNKERNELS_SM_90(asm volatile("barrier.cluster.wait.acquire.aligned;" :: : "memory"));
}

// 4, 8 or 16 bytes of the shared memory of the block `rank`, at the place that p names in this block's.
template <class T>
__device__ __forceinline__ T load_peer(const T* p, unsigned rank, Where = {}) {
  const uint32_t peer = detail::peer_address(p, rank);
  detail::Words<sizeof(T)> w = {};
  if constexpr (sizeof(T) == 4) {
    RNNKERNELS_SM_90(asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(w.word[0]) : "r"(peer) : "memory"));
  } else if constexpr (sizeof(T) == 8) {
    RNNKERNELS_SM_90(asm volatile("ld.shared::cluster.v2.u32 {%0, %1}, [%2];" : "=r"(w.word[0]),
                                  "=r"(w.word[1]) : "r"(peer) : "memory"));
  } else {
    RNNKERNELS_SM_90(asm volatile("ld.shared::cluster.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(w.word[0]),
                                  "=r"(w.word[1]), "=r"(w.word[2]), "=r"(w.word[3]) : "r"(peer) : "memory"));
  }
  return detail::value_of<T>(w);
}

template <class T>
__device__ __forceinline__ void store_peer(T* p, unsigned rank, same<T> value, Where = {}) {
  const uint32_t peer = detail::peer_address(p, rank);
  const detail::Words<sizeof(T)> w = detail::words_of(value);
  if constexpr (sizeof(T) == 4) {
    RNNKERNELS_SM_90(asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(peer), "r"(w.word[0]) : "memory"));
  } else if constexpr (sizeof(T) == 8) {
    RNNKERNELS_SM_90(asm volatile("st.shared::cluster.v2.u32 [%0], {%1, %2};" ::"r"(peer), "r"(w.word[0]),
                                  "r"(w.word[1]) : "memory"));
  } else {
    RNNKERNELS_SM_90(asm volatile("st.shared::cluster.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(peer), "r"(w.word[0]),
                                  "r"(w.word[1]), "r"(w.word[2]), "r"(w.word[3]) : "memory"));
  }
}

// ---- mbarriers (sm_90): 8 bytes of shared memory that count `count` arrivals, and bytes on their way. A phase is
// done when all have come; phases have parities 0, 1, 0, ...

__device__ __forceinline__ void mbarrier_init(uint64_t* mbarrier, uint32_t count, Where = {}) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(detail::shared_address(mbarrier)), "r"(count) : "memory");
}

// Shows initialised mbarriers to the cluster, together with the cluster's barrier that follows.
__device__ __forceinline__ void fence_mbarrier_init() {
  RNNKERNELS_SM_90(asm volatile("fence.mbarrier_init.release.cluster;" :: : "memory"));
}

__device__ __forceinline__ void mbarrier_arrive(uint64_t* mbarrier, Where = {}) {
  RNNKERNELS_SM_90(
      asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(detail::shared_address(mbarrier)) : "memory"));
}

// Arrives, and lets this phase wait for `bytes` more.
__device__ __forceinline__ void mbarrier_arrive_expect(uint64_t* mbarrier, uint32_t bytes, Where = {}) {
  RNNKERNELS_SM_90(
      asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(detail::shared_address(mbarrier)),
                   "r"(bytes) : "memory"));
}

__device__ __forceinline__ void mbarrier_arrive_peer(uint64_t* mbarrier, unsigned rank, Where = {}) {
  RNNKERNELS_SM_90(asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(
      detail::peer_address(mbarrier, rank)) : "memory"));
}

// Whether the phase of this parity is done; then what came before its arrivals, in the whole cluster, is visible.
__device__ __forceinline__ bool mbarrier_done(uint64_t* mbarrier, uint32_t parity, Where = {}) {
  uint32_t done = 0;
  RNNKERNELS_SM_90(
      asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2; selp.u32 %0, "
                   "1, 0, p; }" : "=r"(done) : "r"(detail::shared_address(mbarrier)),
                   "r"(parity) : "memory"));
  return done;
}

// Stores into a peer's shared memory, some time later, and then counts the bytes off at the peer's mbarrier.
template <class T>
__device__ __forceinline__ void store_async(T* p, unsigned rank, same<T> value, uint64_t* mbarrier, Where = {}) {
  const uint32_t peer = detail::peer_address(p, rank), there = detail::peer_address(mbarrier, rank);
  const detail::Words<sizeof(T)> w = detail::words_of(value);
  if constexpr (sizeof(T) == 4) {
    RNNKERNELS_SM_90(
        asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(peer),
                     "r"(w.word[0]), "r"(there) : "memory"));
  } else if constexpr (sizeof(T) == 8) {
    RNNKERNELS_SM_90(asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];" ::"r"(peer),
        "r"(w.word[0]), "r"(w.word[1]), "r"(there) : "memory"));
  } else {
    RNNKERNELS_SM_90(asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(peer),
        "r"(w.word[0]), "r"(w.word[1]), "r"(w.word[2]), "r"(w.word[3]), "r"(there) : "memory"));
  }
}

// ---- the rest

__device__ __forceinline__ uint64_t clock_cycles() { return clock64(); }

__device__ __forceinline__ uint64_t global_nanoseconds() {
  uint64_t time;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time));
  return time;
}

__device__ __forceinline__ void trap(Where = {}) { __trap(); }

__device__ __forceinline__ void require_cooperative(Where) {}  // the emulator fails where the launch was not

// Hands out the dynamic shared memory of a launch, in one order for all threads; arrays begin at multiples of 16
// bytes.
class SharedMemory {
 public:
  template <class T>
  __device__ __forceinline__ T* take(size_t count, Where = {}) {
    extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];
    constexpr size_t alignment = alignof(T) < 16 ? 16 : alignof(T);
    const size_t begin = (end_ + alignment - 1) / alignment * alignment;
    end_ = begin + count * sizeof(T);
    return reinterpret_cast<T*>(dynamic_shared_memory + begin);
  }

 private:
  size_t end_ = 0;
};

}  // namespace rnnkernels::cuda

#undef RNNKERNELS_SM_90
#undef RNNKERNELS_SHARED_KIB

#endif

namespace rnnkernels::cuda {

// Every wait in a kernel is one of these: a mistake ends in a trap, a second or so later, and not in a hang.
template <class Condition>
__device__ __forceinline__ void spin_until(Condition condition, Where at = Where()) {
  constexpr uint32_t limit = 4'000'000;
  for (uint32_t spins = 0; !condition(); ++spins)
    if (spins == limit) trap(at);
}

__device__ __forceinline__ void mbarrier_wait(uint64_t* mbarrier, uint32_t parity, Where at = Where()) {
  spin_until([&] { return mbarrier_done(mbarrier, parity, at); }, at);
}

__device__ __forceinline__ void cluster_barrier(Where at = Where()) {
  cluster_arrive(at);
  cluster_wait(at);
}

// All blocks of a cooperative grid meet when `arrivals` have come to the counter since it was zero. It is never
// reset in a grid: its n-th barrier waits for n times the number of blocks.
__device__ __forceinline__ void grid_barrier(uint32_t* counter, uint32_t arrivals, Where at = Where()) {
  require_cooperative(at);
  __syncthreads();
  if (threadIdx.x == 0) {
    add_release(counter, 1, at);
    spin_until([&] { return load_acquire(counter, at) >= arrivals; }, at);
  }
  __syncthreads();
}

}  // namespace rnnkernels::cuda
