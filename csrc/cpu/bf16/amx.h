// Products of bfloat16 numbers by AMX. A sum takes its terms 32 at a time (isa/amx.h), in order; where the left operand is
// split, each part's high numbers before its low ones: whatever rows and panels share a tile, the bits are the same.
#pragma once

#include "../backward.h"
#include "numbers.h"

RNNKERNELS_BEGIN_NAMESPACE

constexpr int bf16_group = 32;  // terms of a tile

// The left operand: rows of K numbers, zeros up to a whole group, in one plane or two.
struct Bf16Rows {
  const uint16_t *high, *low;  // low: null for one
  int64_t stride;
  TileShapes* shapes;
};

// The right operand of a tile, [N][pairs of neighbours in k][lanes][2], and how far on that of the next tile lies; 0: near.
struct Bf16Panels {
  const uint16_t* data;
  int64_t groups;  // of k
  int64_t ahead;

  int64_t vector_size() const { return groups * bf16_group * Vec<float>::lanes; }
};

// What ForwardLayer asks of a matrix (matrix.h).
struct Bf16Products {
  using Weight = Bf16s;
  using Rows = Bf16Rows;
  using Panels = Bf16Panels;
  using Multiplier = TileShapes;
  static constexpr int group = bf16_group;
  static constexpr bool vectors_apart = true;  // a vector of a panel lies along memory, 1 KiB a tile

  static Rows operand(const uint16_t* rows, int64_t stride, Multiplier& multiplier) {
    return {rows, nullptr, stride, &multiplier};
  }
  static Rows operand(SplitBf16s rows, int64_t stride, Multiplier& multiplier) {
    return {rows.high, rows.low, stride, &multiplier};
  }
  static Panels panels(const uint16_t* data, int64_t pairs, int N, Range all, const Tile& tile) {
    const int64_t size = pairs * N * 2 * Vec<float>::lanes;
    const int64_t next = tile.panel + 1 < all.end ? 1 : all.begin - tile.panel;
    return {data + tile.panel * size, pairs / (group / 2), tile.nth == 0 ? next * size : 0};
  }
  static int64_t K_in_blocks(int64_t) { return 0; }
};

template <class Cell>
using Bf16Backward = BackwardLayer<float, Cell, Half>;

template <>
constexpr int rows_per_tile<Bf16s>(int) {
  return 2 * tile_rows;
}
template <>
constexpr int panels_per_row<Bf16s>(int) {
  return 1;
}

// Sums of a tile in registers: of `two` tiles of rows and up to two vectors, or of one and up to four.
template <bool two, int count>
struct Bf16Sums {
  static constexpr int lanes = Vec<float>::lanes, of_lower = 2;

  // Calls body(number of the register, row, vector) for each.
  template <class Body>
  static RNNKERNELS_INLINE void for_each(const Body& body) {
    body(Constant<0>(), 0, 0);
    if constexpr (count > 1) body(Constant<1>(), 0, 1);
    if constexpr (count > 2) body(Constant<2>(), 0, 2);
    if constexpr (count > 3) body(Constant<3>(), 0, 3);
    if constexpr (two) body(Constant<of_lower>(), tile_rows, 0);
    if constexpr (two && count > 1) body(Constant<of_lower + 1>(), tile_rows, 1);
  }

  static RNNKERNELS_INLINE void load(const float* from, int64_t row_stride) {
    for_each([&](auto t, int row, int vector) {
      load_tile<decltype(t)::value>(from + row * row_stride + vector * lanes, row_stride * 4);
    });
  }
  static RNNKERNELS_INLINE void store(float* to, int64_t row_stride) {
    for_each([&](auto t, int row, int vector) {
      store_tile<decltype(t)::value>(to + row * row_stride + vector * lanes, row_stride * 4);
    });
  }

  // Those of vectors first .. first + n - 1 += rows of a, from `row` on, times n vectors of b.
  template <int first, int n>
  static RNNKERNELS_INLINE void add(const Bf16Rows& a, int64_t row, const Bf16Panels& b) {
    const int64_t a_bytes = a.stride * 2, vector_size = b.vector_size(), ahead = b.ahead;
    const uint16_t* planes[2] = {a.high + row * a.stride, a.low ? a.low + row * a.stride : nullptr};
    const uint16_t* right = b.data;
    for (int64_t group = 0; group < b.groups; ++group, right += bf16_group * lanes) {
      for (int line = 0; ahead && line < bf16_group / 2; ++line) {
        for (int v = 0; v < n; ++v) __builtin_prefetch(right + ahead + v * vector_size + line * 2 * lanes, 0, 2);
      }
      add_group<first, n>(planes[0] + group * bf16_group, a_bytes, right, vector_size);
      if (planes[1]) add_group<first, n>(planes[1] + group * bf16_group, a_bytes, right, vector_size);
    }
  }

 private:
  template <int first, int n>
  static RNNKERNELS_INLINE void add_group(const uint16_t* a, int64_t a_bytes, const uint16_t* b, int64_t vector_size) {
    load_tile<4>(a, a_bytes);
    load_tile<6>(b, tile_row_bytes);
    add_bf16_product<first, 4, 6>();
    if constexpr (n > 1) {
      load_tile<7>(b + vector_size, tile_row_bytes);
      add_bf16_product<first + 1, 4, 7>();
    }
    if constexpr (two) {
      load_tile<5>(a + tile_rows * a_bytes / 2, a_bytes);
      add_bf16_product<of_lower + first, 5, 6>();
      if constexpr (n > 1) add_bf16_product<of_lower + first + 1, 5, 7>();
    }
    if constexpr (n > 2) {
      load_tile<6>(b + 2 * vector_size, tile_row_bytes);
      add_bf16_product<first + 2, 4, 6>();
    }
    if constexpr (n > 3) {
      load_tile<7>(b + 3 * vector_size, tile_row_bytes);
      add_bf16_product<first + 3, 4, 7>();
    }
  }
};

// Products of one panel: of N vectors of sums the first product has a_count from a_first on, the second b_count from b_first on.
template <int N, int a_first, int a_count, int b_first, int b_count>
struct TileProducts {
  const Bf16Rows &a, &b;
  Bf16Panels a_panel, b_panel;
  int64_t row;

  void add_to(int rows, const Sums<float>& c) const {
    if (rows <= tile_rows) {
      a.shapes->set(rows, rows);
      add_part<false, 0, N>(c);
    } else {
      a.shapes->set(tile_rows, rows - tile_rows);
      add_part<true, 0, (N < 2 ? N : 2)>(c);
      if constexpr (N > 2) add_part<true, 2, N - 2>(c);
    }
  }

 private:
  template <bool two, int first, int count>
  RNNKERNELS_INLINE void add_part(const Sums<float>& all) const {
    using Part = Bf16Sums<two, count>;
    const Sums<float> c = all.vectors_from(first);
    Part::load(c.from, c.from_row_stride);
    add_product<Part, first, count, a_first, a_count>(a, a_panel);
    if constexpr (b_count > 0) add_product<Part, first, count, b_first, b_count>(b, b_panel);
    Part::store(c.to, c.row_stride);
  }

  // Vectors of a product, from its `first_of` on, as far as they are among a part's.
  template <class Part, int first, int count, int first_of, int count_of>
  RNNKERNELS_INLINE void add_product(const Bf16Rows& left, Bf16Panels right) const {
    constexpr int begin = first > first_of ? first : first_of;
    constexpr int end = first + count < first_of + count_of ? first + count : first_of + count_of;
    if constexpr (begin < end) {
      right.data += (begin - first_of) * right.vector_size();
      Part::template add<begin - first, end - begin>(left, row, right);
    }
  }
};

// As accumulate of gemm.h, of one panel.
template <class Real>
void accumulate(int N, int rows, int /*panels*/, const Sums<Real>& c, const Bf16Rows& a, int64_t row,
                const Bf16Panels& b) {
  with_constant<max_vectors>(N, [&](auto n) {
    constexpr int count = decltype(n)::value;
    TileProducts<count, 0, count, 0, 0>{a, a, b, b, row}.add_to(rows, c);
  });
}

template <int N, int a_first, int a_count, int b_first, int b_count, class Real>
void accumulate_two(int rows, const Sums<Real>& c, const Bf16Rows& a, const Bf16Panels& a_panel, const Bf16Rows& b,
                    const Bf16Panels& b_panel, int64_t row) {
  TileProducts<N, a_first, a_count, b_first, b_count>{a, b, a_panel, b_panel, row}.add_to(rows, c);
}

RNNKERNELS_END_NAMESPACE
