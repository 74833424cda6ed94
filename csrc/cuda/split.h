// How a product is cut: into tiles of a shape, and along k into parts of whole depths, so that it fills a device. By the sizes
// alone, so that sums are the same on all of them.
#pragma once

#include <algorithm>

#include "product.cuh"

namespace rnnkernels::cuda {

enum class TileShape { narrow, small, large };

struct Split {
  TileShape shape;
  int parts, part;  // along k: how many, of how many k
};

inline int64_t pieces(int64_t count, int64_t each) { return (count + each - 1) / each; }

// The tiles of one shape, in parts if somebody adds those up.
template <class Shape>
Split split_into(TileShape shape, int64_t M, int64_t N, int64_t K, int64_t depth, bool in_parts) {
  constexpr int64_t enough_blocks = 128, most_parts = 16;
  const int64_t blocks = std::max<int64_t>(1, pieces(M, Shape::rows) * pieces(N, Shape::columns));
  const int64_t depths = std::max<int64_t>(1, pieces(K, depth));
  const int64_t wanted = std::min({std::max<int64_t>(1, enough_blocks / blocks), most_parts, depths});
  const int64_t part = in_parts ? pieces(depths, wanted) : depths;
  return {shape, static_cast<int>(pieces(depths, part)), static_cast<int>(part * depth)};
}

// Large tiles read an operand fewer times, where they give all multiprocessors work and are not mostly empty.
inline Split split(int64_t M, int64_t N, int64_t K, int64_t depth, bool in_parts) {
  constexpr int64_t enough_blocks = 96, deep = 8;
  const Split large = split_into<LargeShape>(TileShape::large, M, N, K, depth, in_parts);
  const int64_t blocks = pieces(M, LargeShape::rows) * pieces(N, LargeShape::columns) * large.parts;
  const bool fits = M > LargeShape::rows / 2 && N > LargeShape::columns / 2;
  if (fits && blocks >= enough_blocks && (large.parts == 1 || large.part >= deep * depth)) return large;
  if (N > NarrowShape::columns) return split_into<SmallShape>(TileShape::small, M, N, K, depth, in_parts);
  return split_into<NarrowShape>(TileShape::narrow, M, N, K, depth, in_parts);
}

}  // namespace rnnkernels::cuda
