// The one matrix product of the stepwise tier: rows of a times rows of b, both k-contiguous, through a ring of tiles that
// cp.async fills while the block multiplies.
//
// Rows begin at multiples of 16 bytes, and from K to the next such multiple they hold zeros: whoever makes an operand
// sees to it (copy_rows and transpose in arrays.cuh). So no edge needs code here but the end of k.
#pragma once

#include "number.cuh"

namespace rnnkernels::cuda {

// `count` rows, one every `stride` elements.
template <class E>
struct Rows {
  const E* data;
  int64_t stride, count;
};

// The tile of a block: warps side by side, each of so many groups of 16 rows and tiles of 8 columns.
template <int groups_, int tiles_, int warp_rows_, int warp_columns_, int stages_>
struct Shape {
  static constexpr int groups = groups_, tiles = tiles_, warp_rows = warp_rows_, warp_columns = warp_columns_;
  static constexpr int stages = stages_, threads = 32 * warp_rows * warp_columns;
  static constexpr int rows = 16 * groups * warp_rows, columns = 8 * tiles * warp_columns;
};

using NarrowShape = Shape<4, 1, 1, 4, 4>;  // 64 x 32: a step of few sequences
using SmallShape = Shape<4, 2, 1, 4, 4>;   // 64 x 64
using LargeShape = Shape<4, 4, 2, 4, 3>;   // 128 x 128: where there is work for all multiprocessors

template <class Math, class Shape>
struct Product {
  using Element = typename Math::Element;
  using Sum = typename Math::Sum;

  static constexpr int groups = Shape::groups, tiles = Shape::tiles, stages = Shape::stages;
  static constexpr int rows = Shape::rows, columns = Shape::columns, threads = Shape::threads;
  static constexpr int depth = words_of_depth * sizeof(uint32_t) / sizeof(Element);  // of k
  static constexpr int stage_words = (rows + columns) * row_words;
  static constexpr size_t shared_words = static_cast<size_t>(stages) * stage_words;
  static constexpr size_t shared_bytes = shared_words * sizeof(uint32_t);

  Sum sum[groups][tiles][4];

  // sum += a b^T over k in [first, end), from row m of a and row n of b on.
  __device__ __forceinline__ void add(const Rows<Element>& a, int64_t m, const Rows<Element>& b, int64_t n, int first,
                                      int end, uint32_t* shared) {
    const Feed<rows> feed_a(a, m);
    const Feed<columns> feed_b(b, n);
    const int steps = (end - first + depth - 1) / depth, warp = static_cast<int>(threadIdx.x) / 32;
    const uint32_t* warp_a = shared + warp / Shape::warp_columns * groups * 16 * row_words;
    const uint32_t* warp_b = shared + (rows + warp % Shape::warp_columns * tiles * 8) * row_words;
    auto fill = [&](int step) {
      if (step < steps) {
        uint32_t* tile = shared + step % stages * stage_words;
        feed_a.fill(tile, first + step * depth, end);
        feed_b.fill(tile + rows * row_words, first + step * depth, end);
      }
      copy_async_commit();
    };
    for (int step = 0; step < stages - 1; ++step) fill(step);
    for (int step = 0; step < steps; ++step) {
      copy_async_wait<stages - 2>();
      __syncthreads();  // everybody's copies for this step are there, and nobody reads the tile before it
      fill(step + stages - 1);
      Math::multiply(sum, warp_a + step % stages * stage_words, warp_b + step % stages * stage_words);
    }
  }

  // act(sum, row, column) of each of the thread's sums, its place in the block.
  template <class Act>
  __device__ __forceinline__ void for_each(Act act) {
    const LanePlace place;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int row = warp / Shape::warp_columns * groups * 16 + place.row;
    const int column = warp % Shape::warp_columns * tiles * 8 + place.pair * 2;
#pragma unroll
    for (int group = 0; group < groups; ++group)
#pragma unroll
      for (int tile = 0; tile < tiles; ++tile)
#pragma unroll
        for (int e = 0; e < 4; ++e) act(sum[group][tile][e], row + group * 16 + e / 2 * 8, column + tile * 8 + e % 2);
  }

 private:
  // The copies that a thread makes for an operand: one chunk of every 16th row. Beyond the last row it takes the last once
  // more, whose sums nobody looks at.
  template <int tile_rows>
  struct Feed {
    static constexpr int chunks = words_of_depth / 4, width = sizeof(Chunk) / sizeof(Element);
    static constexpr int step = threads / chunks, count = tile_rows / step;

    __device__ __forceinline__ Feed(const Rows<Element>& operand, int64_t first) {
#pragma unroll
      for (int i = 0; i < count; ++i) {
        const int64_t row = first + static_cast<int>(threadIdx.x) / chunks + i * step;
        from[i] = operand.data + (row < operand.count ? row : operand.count - 1) * operand.stride;
      }
    }
    __device__ __forceinline__ void fill(uint32_t* tile, int k, int end) const {
      const int chunk = static_cast<int>(threadIdx.x) % chunks, at = k + chunk * width;
      uint32_t* to = tile + static_cast<int>(threadIdx.x) / chunks * row_words + chunk * 4;
#pragma unroll
      for (int i = 0; i < count; ++i)
        copy_async<16>(to + i * step * row_words, from[i] + (at < end ? at : 0), at < end);
    }

    const Element* from[count];
  };
};

// out(m, n) of each part of k = what it begins with + sum of a(m, k) b(n, k). The parts, of `part` k each, are the grid's z.
template <class Math, class Shape, class Out>
__global__ void __launch_bounds__(Shape::threads, Math::blocks_at_once)
    gemm(Rows<typename Math::Element> a, Rows<typename Math::Element> b, int K, int part, Out out) {
  using Block = Product<Math, Shape>;
  SharedMemory memory;
  uint32_t* shared = memory.take<uint32_t>(Block::shared_words);
  const int64_t first_m = static_cast<int64_t>(blockIdx.y) * Block::rows;
  const int64_t first_n = static_cast<int64_t>(blockIdx.x) * Block::columns;
  const int first_k = static_cast<int>(blockIdx.z) * part, end_k = K - first_k < part ? K : first_k + part;
  Block block;
  block.for_each([&](auto& sum, int row, int column) {
    const int64_t m = first_m + row, n = first_n + column;
    sum = m < a.count && n < b.count ? out.begin(m, n) : 0;
  });
  block.add(a, first_m, b, first_n, first_k, end_k, shared);
  block.for_each([&](auto& sum, int row, int column) {
    const int64_t m = first_m + row, n = first_n + column;
    if (m < a.count && n < b.count) out.end(m, n, sum);
  });
}

}  // namespace rnnkernels::cuda
