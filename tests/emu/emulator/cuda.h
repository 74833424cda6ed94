// CUDA C++ as our kernels use it: keywords, variables, and functions of the language, on the emulator's hooks.
// Templates here are compiled with the kernels, so that sanitizers see what they read and write.
#pragma once

#include <math.h>  // all overloads of the global functions, as nvcc has them

#include <cstring>
#include <type_traits>

#include "hooks.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

extern uint3 threadIdx, blockIdx;  // set at every switch
extern dim3 blockDim, gridDim;

// ---- barriers and fences

inline void __syncthreads(emu::Where at = emu::Where()) { emu::block_barrier("__syncthreads", false, at); }
inline int __syncthreads_or(int p, emu::Where at = emu::Where()) {
  return emu::block_barrier("__syncthreads_or", p != 0, at).yes > 0;
}
inline int __syncthreads_and(int p, emu::Where at = emu::Where()) {
  const emu::Votes votes = emu::block_barrier("__syncthreads_and", p != 0, at);
  return votes.yes == votes.all;
}
inline int __syncthreads_count(int p, emu::Where at = emu::Where()) {
  return emu::block_barrier("__syncthreads_count", p != 0, at).yes;
}
inline void __syncwarp(unsigned mask = ~0u, emu::Where at = emu::Where()) {
  emu::collect("__syncwarp", mask, nullptr, 0, nullptr, 0, -1, nullptr, at);
}
inline void __threadfence_block() { emu::fence(); }
inline void __threadfence() { emu::fence(); }
inline void __threadfence_system() { emu::fence(); }
inline void __nanosleep(unsigned, emu::Where at = emu::Where()) { emu::yield(at); }

// ---- shuffles and votes

namespace emu {

template <class T>
T shuffle(const char* name, unsigned mask, T value, int from, Where at) {
  static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= 8);
  T result;
  collect(name, mask, &value, sizeof value, &result, sizeof result, from, nullptr, at);
  return result;
}

}  // namespace emu

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, emu::Where at = emu::Where()) {
  const int lane = static_cast<int>(emu::lane_index());
  return emu::shuffle("__shfl_sync", mask, value, (lane & ~(width - 1)) | (from & (width - 1)), at);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, emu::Where at = emu::Where()) {
  const int lane = static_cast<int>(emu::lane_index()), down = static_cast<int>(by);
  return emu::shuffle("__shfl_up_sync", mask, value, (lane & (width - 1)) >= down ? lane - down : lane, at);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, emu::Where at = emu::Where()) {
  const int lane = static_cast<int>(emu::lane_index()), up = static_cast<int>(by);
  return emu::shuffle("__shfl_down_sync", mask, value, (lane & (width - 1)) + up < width ? lane + up : lane, at);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, emu::Where at = emu::Where()) {
  const int lane = static_cast<int>(emu::lane_index()), other = lane ^ with;
  return emu::shuffle("__shfl_xor_sync", mask, value, other < (lane | (width - 1)) + 1 ? other : lane, at);
}

inline unsigned __ballot_sync(unsigned mask, int p, emu::Where at = emu::Where()) {
  const unsigned vote = p != 0;
  unsigned votes;
  auto gather = [](emu::Slots& slots, uint32_t lanes, emu::Where) {
    unsigned all = 0;
    for (int i = 0; i < emu::warp_lanes; ++i)
      if (lanes >> i & 1) all |= slots.at<unsigned>(i) << i;
    for (int i = 0; i < emu::warp_lanes; ++i) slots.at<unsigned>(i) = all;
  };
  emu::collect("__ballot_sync", mask, &vote, sizeof vote, &votes, sizeof votes, -1, gather, at);
  return votes;
}
inline int __any_sync(unsigned mask, int p, emu::Where at = emu::Where()) { return __ballot_sync(mask, p, at) != 0; }
inline int __all_sync(unsigned mask, int p, emu::Where at = emu::Where()) { return __ballot_sync(mask, p, at) == mask; }

// ---- atomics. Others may run before each; ThreadSanitizer sees the order that CUDA gives them

namespace emu {

template <class T>
struct Same {
  using type = T;
};
template <class T>
using same = typename Same<T>::type;  // of the pointer, whatever the other arguments are

template <int order, class T, class Change>
T modify(T* p, Change change, Where at) {
  yield(at);
  before_relaxed_write(p);
  T old, changed;
  __atomic_load(p, &old, __ATOMIC_RELAXED);
  do changed = change(old);
  while (!__atomic_compare_exchange(p, &old, &changed, false, order, __ATOMIC_RELAXED));
  if (std::memcmp(&old, &changed, sizeof old)) note_change();
  after_relaxed_read(p);
  return old;
}

}  // namespace emu

template <class T>
T atomicAdd(T* p, emu::same<T> v, emu::Where at = emu::Where()) {
  return emu::modify<__ATOMIC_RELAXED>(p, [=](T old) { return T(old + v); }, at);
}
template <class T>
T atomicMax(T* p, emu::same<T> v, emu::Where at = emu::Where()) {
  return emu::modify<__ATOMIC_RELAXED>(p, [=](T old) { return old > v ? old : v; }, at);
}
template <class T>
T atomicMin(T* p, emu::same<T> v, emu::Where at = emu::Where()) {
  return emu::modify<__ATOMIC_RELAXED>(p, [=](T old) { return old < v ? old : v; }, at);
}
template <class T>
T atomicOr(T* p, emu::same<T> v, emu::Where at = emu::Where()) {
  return emu::modify<__ATOMIC_RELAXED>(p, [=](T old) { return T(old | v); }, at);
}
template <class T>
T atomicAnd(T* p, emu::same<T> v, emu::Where at = emu::Where()) {
  return emu::modify<__ATOMIC_RELAXED>(p, [=](T old) { return T(old & v); }, at);
}
template <class T>
T atomicExch(T* p, emu::same<T> v, emu::Where at = emu::Where()) {
  return emu::modify<__ATOMIC_RELAXED>(p, [=](T) { return v; }, at);
}
template <class T>
T atomicCAS(T* p, emu::same<T> expected, emu::same<T> v, emu::Where at = emu::Where()) {
  return emu::modify<__ATOMIC_RELAXED>(p, [=](T old) { return old == expected ? v : old; }, at);
}

// ---- memory

template <class T>
T __ldg(const T* p, emu::Where at = emu::Where()) {
  const T value = *p;
  emu::check_read_only(p, sizeof(T), at);
  return value;
}

inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline long long __double_as_longlong(double x) {
  long long bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline double __longlong_as_double(long long bits) {
  double x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
