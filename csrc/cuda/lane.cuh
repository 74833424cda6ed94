// The lane type of a CUDA thread: one number, with what csrc/core/math.h asks of a lane. Its operations are those of the vector
// types of the CPU, fma in one rounding, so that where nvcc contracts nothing (--fmad=false) its bits are theirs.
#pragma once

#include "device.cuh"

namespace rnnkernels::cuda {

__device__ __forceinline__ float exponent_to_number(float biased) {
  return __uint_as_float(__float_as_uint(biased) << 23);
}
__device__ __forceinline__ double exponent_to_number(double biased) {
  return __longlong_as_double(static_cast<long long>(static_cast<uint64_t>(__double_as_longlong(biased)) << 52));
}

template <class RealType>
struct Lane {
  using Real = RealType;

  Real v;
  Lane() = default;
  __device__ __forceinline__ explicit Lane(Real x) : v(x) {}
  __device__ __forceinline__ explicit Lane(int x) : v(static_cast<Real>(x)) {}

  friend __device__ __forceinline__ Lane operator+(Lane a, Lane b) { return Lane(a.v + b.v); }
  friend __device__ __forceinline__ Lane operator-(Lane a, Lane b) { return Lane(a.v - b.v); }
  friend __device__ __forceinline__ Lane operator*(Lane a, Lane b) { return Lane(a.v * b.v); }
  friend __device__ __forceinline__ Lane operator/(Lane a, Lane b) { return Lane(a.v / b.v); }
  friend __device__ __forceinline__ Lane fma(Lane a, Lane b, Lane c) { return Lane(::fma(a.v, b.v, c.v)); }
  friend __device__ __forceinline__ Lane max(Lane a, Lane b) { return a.v > b.v ? a : b; }
  friend __device__ __forceinline__ Lane min(Lane a, Lane b) { return a.v < b.v ? a : b; }
  friend __device__ __forceinline__ Lane abs(Lane a) { return Lane(::fabs(a.v)); }
  friend __device__ __forceinline__ Lane copysign(Lane a, Lane sign) { return Lane(::copysign(a.v, sign.v)); }
  friend __device__ __forceinline__ Lane ldexp(Lane a, Lane n) {  // where n is NaN a is, too
    return Lane(::ldexp(a.v, n.v == n.v ? static_cast<int>(n.v) : 0));
  }
  friend __device__ __forceinline__ Lane power_of_two(Lane biased) { return Lane(exponent_to_number(biased.v)); }
  friend __device__ __forceinline__ Lane zero_where_not_positive(Lane x, Lane a) { return x.v <= 0 ? Lane(0) : a; }
};

}  // namespace rnnkernels::cuda
