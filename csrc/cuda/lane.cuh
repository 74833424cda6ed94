// The lane type of a CUDA thread: one float, with what csrc/core/math.h asks of a lane. Its operations are those of the vector
// types of the CPU, fma in one rounding, so that where nvcc contracts nothing (--fmad=false) its bits are theirs.
#pragma once

#include "device.cuh"

namespace rnnkernels::cuda {

struct Lane {
  using Real = float;

  float v;
  Lane() = default;
  __device__ __forceinline__ explicit Lane(float x) : v(x) {}
  __device__ __forceinline__ explicit Lane(int x) : v(static_cast<float>(x)) {}

  friend __device__ __forceinline__ Lane operator+(Lane a, Lane b) { return Lane(a.v + b.v); }
  friend __device__ __forceinline__ Lane operator-(Lane a, Lane b) { return Lane(a.v - b.v); }
  friend __device__ __forceinline__ Lane operator*(Lane a, Lane b) { return Lane(a.v * b.v); }
  friend __device__ __forceinline__ Lane operator/(Lane a, Lane b) { return Lane(a.v / b.v); }
  friend __device__ __forceinline__ Lane fma(Lane a, Lane b, Lane c) { return Lane(fmaf(a.v, b.v, c.v)); }
  friend __device__ __forceinline__ Lane max(Lane a, Lane b) { return a.v > b.v ? a : b; }
  friend __device__ __forceinline__ Lane min(Lane a, Lane b) { return a.v < b.v ? a : b; }
  friend __device__ __forceinline__ Lane abs(Lane a) { return Lane(fabsf(a.v)); }
  friend __device__ __forceinline__ Lane copysign(Lane a, Lane sign) { return Lane(copysignf(a.v, sign.v)); }
  friend __device__ __forceinline__ Lane ldexp(Lane a, Lane n) {  // where n is NaN a is, too
    return Lane(ldexpf(a.v, n.v == n.v ? static_cast<int>(n.v) : 0));
  }
  friend __device__ __forceinline__ Lane power_of_two(Lane biased) {
    return Lane(__uint_as_float(__float_as_uint(biased.v) << 23));
  }
  friend __device__ __forceinline__ Lane zero_where_not_positive(Lane x, Lane a) { return x.v <= 0 ? Lane(0) : a; }
};

}  // namespace rnnkernels::cuda
