// Softmax cross-entropy of rows of logits, a block a row, and its gradient. Sums have a fixed order: a thread takes every
// 256th column, the threads of a warp are added up as a tree, and warps one after the other.
#pragma once

#include "../core/math.h"
#include "arrays.cuh"

namespace rnnkernels::cuda {

// What each row is compared with.
struct Targets {
  const int64_t* class_of_row;  // in [0, V), or ignore_index
  int64_t ignore_index;

  __device__ __forceinline__ bool ignores(int64_t row) const { return class_of_row[row] == ignore_index; }
};

// Rows of h that have a target: whatever an ignored one holds is not read.
template <class E>
struct RowsWithTarget {
  const E* data;
  int64_t stride;
  Targets targets;
  __device__ __forceinline__ const E* row(uint32_t i) const { return targets.ignores(i) ? nullptr : data + i * stride; }
};

__device__ __forceinline__ float logarithm(float x) { return ::logf(x); }
__device__ __forceinline__ double logarithm(double x) { return ::log(x); }

constexpr int array_warps = array_threads / 32;

// merge of the values of all threads, for all of them. `parts` holds one a warp.
template <class Real, class Merge>
__device__ __forceinline__ Real reduce_block(Real value, Real* parts, Merge merge) {
  for (int apart = 16; apart > 0; apart /= 2) value = merge(value, __shfl_xor_sync(0xffffffffu, value, apart));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  value = parts[0];
  for (int warp = 1; warp < array_warps; ++warp) value = merge(value, parts[warp]);
  return value;
}

// loss = lse - logits[target], 0 where the target is ignored; lse = log(sum(exp(logits))), shifted by the greatest logit. NaN
// passes through; a greatest that is infinite gives NaN.
template <class E>
__global__ void __launch_bounds__(array_threads)
    cross_entropy_rows(const E* logits, int64_t stride, int64_t columns, Targets targets, Wide<E>* loss, Wide<E>* lse) {
  using Real = Wide<E>;
  SharedMemory memory;
  Real* parts = memory.take<Real>(2 * array_warps);  // of either reduction
  const int64_t n = blockIdx.x;
  const E* row = logits + n * stride;
  Real greatest = widen(row[0]), sum = 0;
  for (int64_t v = threadIdx.x; v < columns; v += array_threads) {
    const Real logit = widen(row[v]);
    greatest = greatest > logit ? greatest : logit;
  }
  greatest = reduce_block(greatest, parts, [](Real a, Real b) { return a > b ? a : b; });
  for (int64_t v = threadIdx.x; v < columns; v += array_threads) {
    sum += exp(Lane<Real>(widen(row[v]) - greatest)).v;
  }
  sum = reduce_block(sum, parts + array_warps, [](Real a, Real b) { return a + b; });
  if (threadIdx.x) return;
  const Real of_row = greatest + logarithm(sum);
  lse[n] = of_row;
  loss[n] = targets.ignores(n) ? 0 : of_row - widen(row[targets.class_of_row[n]]);
}

// dlogits = dloss (exp(logits - lse) - onehot(target)), exact zeros where the target is ignored; they may stand where the
// logits do.
template <class E, class To>
__global__ void __launch_bounds__(array_threads)
    cross_entropy_rows_backward(const E* logits, int64_t stride, int64_t columns, Targets targets, const Wide<E>* lse,
                                const Wide<E>* dloss, To* dlogits, int64_t to_stride) {
  using Real = Wide<E>;
  const int64_t n = blockIdx.x, v = static_cast<int64_t>(blockIdx.y) * array_threads + threadIdx.x;
  if (v >= columns) return;
  Real d = 0;
  if (!targets.ignores(n)) {
    d = dloss[n] * exp(Lane<Real>(widen(logits[n * stride + v]) - lse[n])).v;
    if (v == targets.class_of_row[n]) d -= dloss[n];
  }
  narrow(d, dlogits[n * to_stride + v]);
}

// A product's result with a bias: y[n][m].
template <class T, class To>
struct StoreWithBias {
  To* to;
  int64_t stride;
  const T* bias;  // or null
  __device__ __forceinline__ Wide<T> begin(int64_t, int64_t) const { return 0; }
  __device__ __forceinline__ void end(int64_t m, int64_t n, Wide<T> sum) const {
    narrow(bias ? sum + widen(bias[m]) : sum, to[n * stride + m]);
  }
};

}  // namespace rnnkernels::cuda
