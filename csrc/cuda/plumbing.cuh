// Kernels that bring arrays into the form that calls take, and back: strided arrays, integers of 32 bits, values of the host.
// For dispatch.cu alone.
#pragma once

#include "arrays.cuh"

namespace rnnkernels::cuda {

constexpr int most_strided_dimensions = 8;

// Of elements of any strides, counted in elements.
struct Strides {
  int64_t of[most_strided_dimensions];
};
struct Sizes {
  int rank;
  int64_t of[most_strided_dimensions];
};

template <class E>
__global__ void __launch_bounds__(array_threads)
    copy_strided(E* to, Strides to_strides, const E* from, Strides from_strides, Sizes sizes, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * array_threads + threadIdx.x;
  if (i >= count) return;
  int64_t left = i, at = 0, from_at = 0;
#pragma unroll
  for (int d = most_strided_dimensions - 1; d >= 0; --d) {
    if (d >= sizes.rank) continue;
    const int64_t index = left % sizes.of[d];
    left /= sizes.of[d];
    at += index * to_strides.of[d], from_at += index * from_strides.of[d];
  }
  to[at] = from[from_at];
}

__global__ void __launch_bounds__(array_threads) widen_int32(int64_t* to, const int32_t* from, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * array_threads + threadIdx.x;
  if (i < count) to[i] = from[i];
}

// Values of the host travel as arguments of a launch: a graph that was captured keeps those, but no memory of the host.
struct Values {
  static constexpr int most = 256;
  int64_t value[most];
};

__global__ void __launch_bounds__(Values::most) put_values(int64_t* to, Values values, int count) {
  if (static_cast<int>(threadIdx.x) < count) to[threadIdx.x] = values.value[threadIdx.x];
}

template <class E>
__global__ void __launch_bounds__(array_threads) add_elements(E* sum, const E* term, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * array_threads + threadIdx.x;
  if (i < count) narrow(widen(sum[i]) + widen(term[i]), sum[i]);
}

}  // namespace rnnkernels::cuda
