// Softmax cross-entropy of rows of logits, a block a row, and its gradient. Sums have a fixed order: a thread takes every
// 256th column, the threads of a warp are added up as a tree, and warps one after the other.
#pragma once

#include "../core/math.h"
#include "arrays.cuh"

namespace rnnkernels::cuda {

// What each row is compared with. As with ids, nobody can look at them before a call: one that is neither a class nor ignored
// makes the loss of its row NaN, and the gradient.
struct Targets {
  const int64_t* class_of_row;  // in [0, V), or ignore_index
  int64_t ignore_index;

  __device__ __forceinline__ bool ignores(int64_t row) const { return class_of_row[row] == ignore_index; }
  __device__ __forceinline__ bool known(int64_t row, int64_t classes) const {
    return class_of_row[row] >= 0 && class_of_row[row] < classes;
  }
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
  const Real of_target = targets.known(n, columns) ? widen(row[targets.class_of_row[n]]) : static_cast<Real>(NAN);
  loss[n] = targets.ignores(n) ? 0 : of_row - of_target;
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
    if (!targets.known(n, columns)) d = static_cast<Real>(NAN);
  }
  narrow(d, dlogits[n * to_stride + v]);
}

// ---- what a loss is of the losses of rows

// Of all rows by one block: how many have a target, and the sum of their losses, in double whatever they are.
template <class Real>
__global__ void __launch_bounds__(array_threads)
    reduce_losses(const Real* losses, Targets targets, int64_t N, bool mean, Real* loss, int64_t* count) {
  SharedMemory memory;
  double* sums = memory.take<double>(array_warps);
  int64_t* counts = memory.take<int64_t>(array_warps);
  double sum = 0;
  int64_t with_target = 0;
  for (int64_t n = threadIdx.x; n < N; n += array_threads) {
    if (targets.ignores(n)) continue;
    ++with_target;
    if (losses) sum += static_cast<double>(losses[n]);
  }
  sum = reduce_block(sum, sums, [](double a, double b) { return a + b; });
  with_target = reduce_block(with_target, counts, [](int64_t a, int64_t b) { return a + b; });
  if (threadIdx.x) return;
  *count = with_target;
  if (loss) *loss = static_cast<Real>(mean ? sum / static_cast<double>(with_target) : sum);
}

// What each row's own loss has for a gradient, from that of the loss: `each` of the rows, or `one` of all, or a value.
template <class Real>
__global__ void __launch_bounds__(array_threads)
    spread_gradient(Real* rows, const Real* each, const Real* one, double value, const int64_t* count, int64_t N) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * array_threads + threadIdx.x;
  if (n >= N) return;
  const Real d = each ? each[n] : one ? *one : static_cast<Real>(value);
  const int64_t divisor = count && *count > 1 ? *count : 1;  // count: for a mean
  rows[n] = d / static_cast<Real>(divisor);
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
  To* first() const { return to; }
  int64_t row_stride() const { return stride; }
  bool begins() const { return bias != nullptr; }
  bool adds() const { return begins(); }
};

}  // namespace rnnkernels::cuda
