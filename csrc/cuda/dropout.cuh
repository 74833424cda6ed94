// Dropout between layers, by the same counters as elsewhere: a thread takes a block of four elements.
#pragma once

#include "../core/philox.h"
#include "arrays.cuh"

namespace rnnkernels::cuda {

template <class T>
__global__ void __launch_bounds__(array_threads)
    drop(T* y, int64_t n, uint32_t threshold, Wide<T> scale, uint64_t key, uint32_t layer) {
  const int64_t block = static_cast<int64_t>(blockIdx.x) * array_threads + threadIdx.x;
  const Philox random = dropout_block(key, static_cast<uint64_t>(block), layer);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t e = 4 * block + i;
    if (e < n) narrow(dropout_keeps(random.word[i], threshold) ? widen(y[e]) * scale : Wide<T>(0), y[e]);
  }
}

}  // namespace rnnkernels::cuda
