// The one matrix product of the stepwise tier: rows of a times rows of b, both k-contiguous, through a ring of tiles that
// cp.async fills while the block multiplies.
//
// Rows begin at multiples of 16 bytes, and from K to the next such multiple they hold zeros: whoever makes an operand
// sees to it (copy_rows and transpose in arrays.cuh). So no edge needs code here but the last tile's.
#pragma once

#include "number.cuh"

namespace rnnkernels::cuda {

// `count` rows, one every `stride` elements.
template <class E>
struct Rows {
  const E* data;
  int64_t stride, count;

  __device__ __forceinline__ Rows from(int64_t first) const { return {data + first * stride, stride, count - first}; }
  __device__ __forceinline__ const E* row(int i) const { return i < count ? data + i * stride : nullptr; }
};

template <class Math, int groups, int tiles>
struct Product {
  using Element = typename Math::Element;
  using Sum = typename Math::Sum;

  static constexpr int threads = 128, stages = 4;
  static constexpr int rows = 16 * groups, columns = 8 * tiles * threads / 32;
  static constexpr size_t shared_words = static_cast<size_t>(stages) * (rows + columns) * row_words;
  static constexpr size_t shared_bytes = shared_words * sizeof(uint32_t);

  Sum sum[groups][tiles][4];

  // sum += a b^T over k < K. A and B: row(i), null for a row of zeros.
  template <class A, class B>
  __device__ __forceinline__ void add(const A& a, const B& b, int64_t K, uint32_t* shared) {
    constexpr int depth = words_of_depth * sizeof(uint32_t) / sizeof(Element);
    const int64_t steps = (K + depth - 1) / depth;
    auto fill = [&](int64_t step) {
      if (step < steps) {
        uint32_t* tile = shared + step % stages * (rows + columns) * row_words;
        fill_tile<rows>(tile, a, step * depth, K);
        fill_tile<columns>(tile + rows * row_words, b, step * depth, K);
      }
      copy_async_commit();
    };
    __syncthreads();  // the product before this one has read its tiles
    for (int step = 0; step < stages - 1; ++step) fill(step);
    for (int64_t step = 0; step < steps; ++step) {
      copy_async_wait<stages - 2>();
      __syncthreads();  // everybody's copies for this step are there, and nobody reads the tile before it
      fill(step + stages - 1);
      const uint32_t* tile = shared + step % stages * (rows + columns) * row_words;
      Math::multiply(sum, tile, tile + rows * row_words);
    }
    copy_async_wait<0>();
  }

  // act(sum, row, column) of each of the thread's sums, its place in the block.
  template <class Act>
  __device__ __forceinline__ void for_each(Act act) {
    const LanePlace place;
#pragma unroll
    for (int group = 0; group < groups; ++group)
#pragma unroll
      for (int tile = 0; tile < tiles; ++tile)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          act(sum[group][tile][e], group * 16 + place.row + e / 2 * 8,
              (place.warp * tiles + tile) * 8 + place.pair * 2 + e % 2);
  }

  // act(tile, e, row, column) of each sum of group 0; the other groups' stand at the same place 16 rows further on.
  template <class Act>
  static __device__ __forceinline__ void for_each_place(Act act) {
    const LanePlace place;
#pragma unroll
    for (int tile = 0; tile < tiles; ++tile)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        act(tile, e, place.row + e / 2 * 8, (place.warp * tiles + tile) * 8 + place.pair * 2 + e % 2);
  }

 private:
  template <int tile_rows, class Operand>
  static __device__ __forceinline__ void fill_tile(uint32_t* tile, const Operand& operand, int64_t k, int64_t K) {
    constexpr int chunks = words_of_depth / 4, width = sizeof(Chunk) / sizeof(Element);
#pragma unroll
    for (int i = static_cast<int>(threadIdx.x); i < tile_rows * chunks; i += threads) {
      const int row = i / chunks, chunk = i % chunks;
      const Element* from = operand.row(row);
      const int64_t at = k + chunk * width;
      const bool valid = from && at < K;
      copy_async<16>(tile + row * row_words + chunk * 4, valid ? from + at : operand.data, valid);
    }
  }
};

// out(m, n) = what it begins with + sum over k of a(m, k) b(n, k).
template <class Math, class Out>
__global__ void __launch_bounds__(128, 1) gemm(Rows<typename Math::Element> a, Rows<typename Math::Element> b, int64_t K,
                                            Out out) {
  using Block = Product<Math, 4, 2>;
  SharedMemory memory;
  uint32_t* shared = memory.take<uint32_t>(Block::shared_words);
  const int64_t first_m = static_cast<int64_t>(blockIdx.y) * Block::rows;
  const int64_t first_n = static_cast<int64_t>(blockIdx.x) * Block::columns;
  Block block;
  block.for_each([&](auto& sum, int row, int column) {
    const int64_t m = first_m + row, n = first_n + column;
    sum = m < a.count && n < b.count ? out.begin(m, n) : 0;
  });
  block.add(a.from(first_m), b.from(first_n), K, shared);
  block.for_each([&](auto& sum, int row, int column) {
    const int64_t m = first_m + row, n = first_n + column;
    if (m < a.count && n < b.count) out.end(m, n, sum);
  });
}

}  // namespace rnnkernels::cuda
