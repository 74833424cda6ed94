// The wrappers of csrc/cuda/device.cuh on the emulator. What each must do is written there, once;
// tests/cuda/conformance.cu holds both to it.
#pragma once

#include "../../../csrc/core/half.h"
#include "cuda.h"
#include "runtime.h"

namespace rnnkernels::cuda {

using emu::Where;

constexpr int shared_kib = 227;

// ---- numbers

inline uint32_t pack_bf16(float low, float high) { return to_bf16(low) | static_cast<uint32_t>(to_bf16(high)) << 16; }
inline uint32_t pack_f16(float low, float high) { return to_f16(low) | static_cast<uint32_t>(to_f16(high)) << 16; }
inline float2 unpack_bf16(uint32_t pair) { return {from_bf16(uint16_t(pair)), from_bf16(uint16_t(pair >> 16))}; }
inline float2 unpack_f16(uint32_t pair) { return {from_f16(uint16_t(pair)), from_f16(uint16_t(pair >> 16))}; }

constexpr uint32_t tf32_dropped = 0x1fff;
inline uint32_t to_tf32(float x) {
  const uint32_t bits = float_bits(x);
  if ((bits & float_magnitude) >= float_infinity) return bits & ~tf32_dropped;
  return (bits + 0x1000) & ~tf32_dropped;
}

// ---- memory order

namespace detail {

// A vector is read and written as words with nothing between them: in one piece, as all else on one host thread.
using Word = uint32_t;

template <int order, class T>
T load(const T* p, Where at) {
  emu::yield(at);
  T value;
  if constexpr (sizeof(T) <= 8) {
    __atomic_load(const_cast<T*>(p), &value, order);
  } else {
    Word words[sizeof(T) / sizeof(Word)];
    for (size_t i = 0; i < sizeof(T) / sizeof(Word); ++i)
      words[i] = __atomic_load_n(reinterpret_cast<const Word*>(p) + i, order);
    std::memcpy(&value, words, sizeof value);
  }
  emu::after_relaxed_read(p);
  return value;
}

template <int order, class T>
void store(T* p, T value, Where at) {
  emu::yield(at);
  emu::before_relaxed_write(p);
  Word words[sizeof(T) / sizeof(Word)];
  std::memcpy(words, &value, sizeof value);
  bool changes = false;
  for (size_t i = 0; i < sizeof(T) / sizeof(Word); ++i)
    changes |= __atomic_load_n(reinterpret_cast<Word*>(p) + i, __ATOMIC_RELAXED) != words[i];
  if (changes) emu::note_change();
  if constexpr (sizeof(T) <= 8) {
    __atomic_store(p, &value, order);
  } else {
    for (size_t i = 0; i < sizeof(T) / sizeof(Word); ++i)
      __atomic_store_n(reinterpret_cast<Word*>(p) + i, words[i], order);
  }
}

}  // namespace detail

template <class T>
T load_relaxed(const T* p, Where at = Where()) {
  return detail::load<__ATOMIC_RELAXED>(p, at);
}
template <class T>
void store_relaxed(T* p, emu::same<T> value, Where at = Where()) {
  detail::store<__ATOMIC_RELAXED>(p, value, at);
}
inline uint32_t load_acquire(const uint32_t* p, Where at = Where()) { return detail::load<__ATOMIC_ACQUIRE>(p, at); }
inline void store_release(uint32_t* p, uint32_t v, Where at = Where()) { detail::store<__ATOMIC_RELEASE>(p, v, at); }
inline uint32_t load_acquire_system(const uint32_t* p, Where at = Where()) { return load_acquire(p, at); }
inline void store_release_system(uint32_t* p, uint32_t v, Where at = Where()) { store_release(p, v, at); }
inline void add_release(uint32_t* p, uint32_t v, Where at = Where()) {
  emu::modify<__ATOMIC_RELEASE>(p, [=](uint32_t old) { return old + v; }, at);
}
inline void fence_cluster() { emu::fence(); }

// ---- asynchronous copies

template <int bytes>
void copy_async(void* to, const void* from, bool valid = true, Where at = Where()) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
  auto move = [](const emu::Copy& copy) {
    struct alignas(bytes) Piece {
      unsigned char byte[bytes];
    };
    *static_cast<Piece*>(copy.to) = copy.valid ? *static_cast<const Piece*>(copy.from) : Piece{};
  };
  emu::copy_issue({to, from, bytes, valid, move, at});
}
inline void copy_async_commit() { emu::copy_commit(); }
template <int groups_left>
void copy_async_wait() {
  emu::copy_wait(groups_left);
}

// ---- matrix products

namespace detail {

struct Operands {
  uint32_t a[4], b[2];
  float d[4];
};

inline float bf16_of(uint32_t word, int i) { return from_bf16(static_cast<uint16_t>(word >> (16 * i))); }
inline float f16_of(uint32_t word, int i) { return from_f16(static_cast<uint16_t>(word >> (16 * i))); }
inline float tf32_of(uint32_t word, int) { return float_of(word); }

// d += a b, where d is 16 x 8 and each word holds `packed` consecutive k. Products are exact, and rounded once.
template <int packed, float (*value)(uint32_t, int)>
void multiply(emu::Slots& slots, uint32_t, Where at) {
  constexpr int k_size = 8 * packed;
  float a[16][k_size], b[k_size][8];
  for (int lane = 0; lane < emu::warp_lanes; ++lane) {
    const Operands& own = slots.at<Operands>(lane);
    const int row = lane / 4, word = lane % 4;
    for (int i = 0; i < 6; ++i)
      if (packed == 1 && (i < 4 ? own.a[i] : own.b[i - 4]) & tf32_dropped)
        emu::fail(at, "mma_tf32: an operand of lane %d was not rounded to tf32", lane);
    for (int part = 0; part < packed; ++part) {
      for (int i = 0; i < 4; ++i) a[row + i % 2 * 8][(word + i / 2 * 4) * packed + part] = value(own.a[i], part);
      for (int i = 0; i < 2; ++i) b[(word + i * 4) * packed + part][row] = value(own.b[i], part);
    }
  }
  for (int lane = 0; lane < emu::warp_lanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      double sum = 0;
      for (int k = 0; k < k_size; ++k) sum += static_cast<double>(a[row][k]) * b[k][column];
      float& d = slots.at<Operands>(lane).d[i];
      d = static_cast<float>(d + sum);
    }
  }
}

template <int packed, float (*value)(uint32_t, int)>
void mma(const char* name, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where at) {
  Operands in = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {d[0], d[1], d[2], d[3]}}, out;
  emu::collect(name, ~0u, &in, sizeof in, &out, sizeof out, -1, multiply<packed, value>, at);
  std::memcpy(d, out.d, sizeof d);
}

}  // namespace detail

inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where at = Where()) {
  detail::mma<2, detail::bf16_of>("mma_bf16", d, a, b, at);
}
inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where at = Where()) {
  detail::mma<2, detail::f16_of>("mma_f16", d, a, b, at);
}
inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where at = Where()) {
  detail::mma<1, detail::tf32_of>("mma_tf32", d, a, b, at);
}

inline void load_matrix_x4(uint32_t (&d)[4], const void* row, Where at = Where()) {
  emu::check_shared(row, 16, "load_matrix_x4", at);
  const uint4 own = *static_cast<const uint4*>(row);
  auto distribute = [](emu::Slots& slots, uint32_t, Where) {
    uint32_t rows[emu::warp_lanes][4];
    for (int lane = 0; lane < emu::warp_lanes; ++lane) std::memcpy(rows[lane], slots.of_lane[lane], 16);
    for (int lane = 0; lane < emu::warp_lanes; ++lane)
      for (int matrix = 0; matrix < 4; ++matrix)
        slots.at<uint32_t[4]>(lane)[matrix] = rows[matrix * 8 + lane / 4][lane % 4];
  };
  emu::collect("load_matrix_x4", ~0u, &own, sizeof own, d, sizeof d, -1, distribute, at);
}

// ---- clusters

inline unsigned cluster_rank() { return emu::cluster_rank(); }
inline unsigned cluster_size() { return emu::cluster_size(); }
inline void cluster_arrive(Where at = Where()) { emu::cluster_arrive(at); }
inline void cluster_wait(Where at = Where()) { emu::cluster_wait(at); }

template <class T>
T load_peer(const T* p, unsigned rank, Where at = Where()) {
  return *static_cast<const T*>(emu::peer_shared(p, sizeof(T), rank, "load_peer", at));
}
template <class T>
void store_peer(T* p, unsigned rank, emu::same<T> value, Where at = Where()) {
  *static_cast<T*>(emu::peer_shared(p, sizeof(T), rank, "store_peer", at)) = value;
}

inline void mbarrier_init(uint64_t* mbarrier, uint32_t count, Where at = Where()) {
  emu::mbarrier_init(mbarrier, count, at);
}
inline void fence_mbarrier_init() {}  // the barrier of the cluster that must follow orders all here
inline void mbarrier_arrive(uint64_t* mbarrier, Where at = Where()) { emu::mbarrier_arrive(mbarrier, 0, at); }
inline void mbarrier_arrive_expect(uint64_t* mbarrier, uint32_t bytes, Where at = Where()) {
  emu::mbarrier_arrive(mbarrier, bytes, at);
}
inline void mbarrier_arrive_peer(uint64_t* mbarrier, unsigned rank, Where at = Where()) {
  emu::mbarrier_arrive_peer(mbarrier, rank, at);
}
inline bool mbarrier_done(uint64_t* mbarrier, uint32_t parity, Where at = Where()) {
  emu::yield(at);
  return emu::mbarrier_done(mbarrier, parity, at);
}
template <class T>
void store_async(T* p, unsigned rank, emu::same<T> value, uint64_t* mbarrier, Where at = Where()) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  auto move = [](const emu::Store& store) { std::memcpy(store.to, store.value, sizeof(T)); };
  emu::Store store = {p, {}, sizeof(T), move, at};
  std::memcpy(store.value, &value, sizeof value);
  emu::store_later(store, mbarrier, rank);
}

// ---- the rest

inline uint64_t clock_cycles() { return emu::clock(); }
inline uint64_t global_nanoseconds() { return emu::clock(); }
[[noreturn]] inline void trap(Where at = Where()) { emu::fail(at, "trap"); }
inline void require_cooperative(Where at) { emu::require_cooperative(at); }

class SharedMemory {
 public:
  template <class T>
  T* take(size_t count, Where at = Where()) {
    constexpr size_t alignment = alignof(T) < 16 ? 16 : alignof(T);
    return static_cast<T*>(emu::take_shared(next_++, count * sizeof(T), alignment, at));
  }

 private:
  unsigned next_ = 0;
};

}  // namespace rnnkernels::cuda
