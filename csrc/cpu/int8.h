// Weights of 8 bits for inference: Int8Matrix is to ForwardLayer what RealMatrix is, with rows of float32.
//
// Each row of a matrix, and each row of x or of a state when it is multiplied, is rounded to integers of at most 127 in
// magnitude and one float, its step. Dot products of the integers are exact, so no order of summation matters; step times step
// times dot product is added to what the slot holds in one fma. A row of x or of a state that is not finite has the step
// NaN: it makes its own sequence NaN and no other (docs/accuracy.md; in NumPy reference/int8.py).
//
// Where products are of unsigned and signed bytes, the left operand holds the integers of x and states plus 128, and sums start
// at -128 times the sum of the weights (Vec<int8_t>::offset): the dot product is the same.
#pragma once

#include "layer.h"

RNNKERNELS_BEGIN_NAMESPACE

// What a row is rounded by: q = rint(x * inverse) stands for q * size. Both are 0 for a row of (almost) zeros.
struct Step {
  float size, inverse;
};

inline int32_t bits_of(float x) {
  int32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

// The bits of magnitudes are in the order of the magnitudes, with infinity and then NaN above all.
inline int32_t magnitude_bits(float x) { return bits_of(x) & 0x7fffffff; }

// Of n elements, `along` apart.
inline Step step_of(const float* from, int64_t along, int64_t n) {
  int32_t largest_bits = 0;
  for (int64_t k = 0; k < n; ++k) {
    const int32_t bits = magnitude_bits(from[k * along]);
    largest_bits = bits > largest_bits ? bits : largest_bits;
  }
  constexpr int32_t infinity = 0x7f800000;
  constexpr float most = 127, negligible = 0x1p-100f;  // below, `inverse` might overflow
  float largest;
  __builtin_memcpy(&largest, &largest_bits, sizeof largest);
  if (largest_bits >= infinity) return {__builtin_nanf(""), 0};
  if (largest < negligible) return {0, 0};
  return {largest / most, most / largest};
}

// To nearest, ties to even: added to 1.5 * 2^23, the integer stands in the lowest bits. Unlike a conversion it is defined for
// every x, and becomes vector code for any ISA.
inline int16_t to_integer(float x, Step step) { return static_cast<int16_t>(bits_of(x * step.inverse + 12582912.0f)); }

constexpr int64_t round_to_groups(int64_t k) { return round_up(k, Vec<int8_t>::group); }

// Rounded rows, the left operand of a product; up to a whole group they end in zeros, which meet weights of 0.
struct Int8Rows {
  using Left = Vec<int8_t>::Left;

  int64_t K;
  Left* data;
  float* step;

  Int8Rows(int64_t rows, int64_t K_, Arena& arena)
      : K(K_), data(arena.take<Left>(rows * stride())), step(arena.take<float>(rows)) {}
  Int8Rows(int64_t K_, Left* data_, float* step_) : K(K_), data(data_), step(step_) {}

  int64_t stride() const { return padded_stride<Left>(K); }
  Left* at(int64_t row) const { return data + row * stride(); }
  Int8Rows from(int64_t row) const { return {K, at(row), step + row}; }

  void set(int64_t row, const float* from) const {
    constexpr int offset = Vec<int8_t>::offset;
    Left* to = at(row);
    const Step by = step_of(from, 1, K);
    step[row] = by.size;
    if (by.inverse == 0) {
      for (int64_t k = 0; k < K; ++k) to[k] = offset;
    } else {
      for (int64_t k = 0; k < K; ++k) to[k] = static_cast<Left>(to_integer(from[k], by) + offset);
    }
    for (int64_t k = K; k < round_to_groups(K); ++k) to[k] = 0;
  }
};

// The right operand of a tile; what sums start at, and the steps of its vectors: [panel][N][lanes].
struct Int8Panels {
  Panels<int8_t> weights;
  const int32_t* start;
  const float* step;
};

// c += step of the row * steps of the weights * dot products, for a tile of R rows or P panels.
template <int P, int R, int N>
void int8_tile(const Sums<float>& c, const Int8Rows& a, int64_t row, const Int8Panels& b) {
  using V = Vec<float>;
  using W = Vec<int8_t>;
  constexpr int line = W::lanes * W::group;
  Vec<int32_t> dot[P][R][N];
  RNNKERNELS_UNROLL
  for (int p = 0; p < P; ++p) {
    RNNKERNELS_UNROLL
    for (int r = 0; r < R; ++r) {
      RNNKERNELS_UNROLL
      for (int v = 0; v < N; ++v) dot[p][r][v] = Vec<int32_t>::load(b.start + (p * N + v) * V::lanes);
    }
  }
  const int64_t stride = a.stride();
  const W::Left* left = a.at(row);
  const int8_t *right = b.weights.data, *ahead = b.weights.ahead;
  for (int64_t k = 0; k < b.weights.k.end; k += W::group, left += W::group, right += N * line, ahead += line) {
    __builtin_prefetch(ahead, 0, 2);  // into L2
    RNNKERNELS_UNROLL
    for (int p = 0; p < P; ++p) {
      RNNKERNELS_UNROLL
      for (int r = 0; r < R; ++r) {
        const W x = W::broadcast(left + r * stride);
        RNNKERNELS_UNROLL
        for (int v = 0; v < N; ++v)
          dot[p][r][v] = add_products(dot[p][r][v], x, W::load(right + p * b.weights.stride + v * line));
      }
    }
  }
  RNNKERNELS_UNROLL
  for (int p = 0; p < P; ++p) {
    RNNKERNELS_UNROLL
    for (int r = 0; r < R; ++r) {
      float* sums = c.at(p, r);
      const V of_row(a.step[row + r]);
      RNNKERNELS_UNROLL
      for (int v = 0; v < N; ++v) {
        const V step = of_row * V::load(b.step + (p * N + v) * V::lanes);
        fma(step, dot[p][r][v].to_float(), V::load(sums + v * V::lanes)).store(sums + v * V::lanes);
      }
    }
  }
}

template <int N>
void int8_accumulate(int rows, int panels, const Sums<float>& c, const Int8Rows& a, int64_t row, const Int8Panels& b) {
  if (panels > 1) {
    return with_constant<panels_per_row<int8_t>(N)>(panels,
                                                    [&](auto P) { int8_tile<decltype(P)::value, 1, N>(c, a, row, b); });
  }
  with_constant<rows_per_tile<int8_t>(N)>(rows, [&](auto R) { int8_tile<1, decltype(R)::value, N>(c, a, row, b); });
}

// As accumulate of gemm.h; the sums are in place.
template <class Real>
void accumulate(int N, int rows, int panels, const Sums<Real>& c, const Int8Rows& a, int64_t row, const Int8Panels& b) {
  switch (N) {
    case 1: return int8_accumulate<1>(rows, panels, c, a, row, b);
    case 2: return int8_accumulate<2>(rows, panels, c, a, row, b);
    case 3: return int8_accumulate<3>(rows, panels, c, a, row, b);
    case 4: return int8_accumulate<4>(rows, panels, c, a, row, b);
  }
}

// One matrix of a layer in panels of [k / group][N][lanes][group].
struct Int8Matrix {
  using V = Vec<float>;
  using Weight = int8_t;
  using Rows = Int8Rows;
  using Copies = Int8Rows;
  using Number = float;  // of a state
  using State = float*;
  using Reset = float*;
  struct Multiplier {};
  static constexpr bool rounds = true, fuses = false;
  template <class Storage>
  static constexpr bool multiplies = false;
  static constexpr int group = Vec<int8_t>::group;

  int64_t K;  // of whole groups
  int N;
  int8_t* data;
  int32_t* start;  // [panels][N][lanes], as step
  float* step;

  Int8Matrix(int64_t K_, int N_, int64_t panels, Arena& arena)
      : K(round_to_groups(K_)),
        N(N_),
        data(arena.take<int8_t>(panels * K * N * V::lanes)),
        start(arena.take<int32_t>(panels * N * V::lanes)),
        step(arena.take<float>(panels * N * V::lanes)),
        columns(K_) {}

  // Row k of a panel: of the group that it is in, the products with 1 for k and 0 for the others.
  V row(int64_t panel, int64_t k, int vector) const {
    Int8Rows::Left one_hot[group] = {};  // without the offset
    one_hot[k % group] = 1;
    const Vec<int8_t> weights = Vec<int8_t>::load(at(panel, k / group, vector));
    const Vec<int32_t> q = add_products(Vec<int32_t>(0), Vec<int8_t>::broadcast(one_hot), weights);
    return q.to_float() * V::load(step + first_lane(panel, vector));
  }

  Int8Panels panels(Range all, const Tile& tile) const {
    const int64_t first = first_lane(tile.panel, 0);
    return {panels_at(data, K, N, all, tile), start + first, step + first};
  }
  int64_t K_in_blocks() const { return 0; }  // sums of integers are scaled once, at their end
  bool in_whole_groups() const { return false; }

  // Lane l of a vector is the row from[l*across + k*along] for l < count, else 0.
  void pack(int64_t panel, int vector, const float* from, int64_t across, int64_t along, int64_t count) const {
    for (int l = 0; l < V::lanes; ++l) {
      const int64_t filled = l < count ? columns : 0;
      const Step by = step_of(from + l * across, along, filled);
      int64_t sum = 0;
      for (int64_t k = 0; k < K; ++k) {
        const int16_t weight = k < filled ? to_integer(from[l * across + k * along], by) : int16_t(0);
        at(panel, k / group, vector)[l * group + k % group] = static_cast<int8_t>(weight);
        sum += weight;
      }
      step[first_lane(panel, vector) + l] = by.size;
      start[first_lane(panel, vector) + l] =
          static_cast<int32_t>(-sum * Vec<int8_t>::offset);  // modulo 2^32, as all sums
    }
  }

 private:
  int64_t columns;

  int8_t* at(int64_t panel, int64_t k_group, int vector) const {
    return data + ((panel * (K / group) + k_group) * N + vector) * V::lanes * group;
  }
  int64_t first_lane(int64_t panel, int vector) const { return (panel * N + vector) * V::lanes; }
};

RNNKERNELS_END_NAMESPACE
