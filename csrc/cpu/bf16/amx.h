// Products of bfloat16 numbers by AMX. A sum takes its terms 32 at a time (isa/amx.h), in order; where the left operand is
// split, each part's high numbers before its low ones: whatever rows and panels share a tile, the bits are the same.
#pragma once

#include "pairs.h"

RNNKERNELS_BEGIN_NAMESPACE

constexpr int64_t group_size = bf16_group * Vec<float>::lanes;  // numbers of a right operand in a tile: of one vector

// The left operand: rows of K numbers, zeros up to a whole group, in one plane or two.
struct Bf16Rows {
  const uint16_t *high, *low;  // low: null for one
  int64_t stride;
};

// The right operand of a tile: pairs of neighbours in k, [lanes][2] each; and memory to bring near meanwhile.
struct Bf16Panels {
  const uint16_t* data;
  int64_t groups;                       // of k
  int64_t vector_stride, group_stride;  // numbers
  int64_t row_bytes;                    // from a pair to the next
  const uint16_t* ahead;                // null: nothing
  int ahead_vectors;

  Bf16Panels from_vector(int first) const {
    Bf16Panels rest = *this;
    rest.data += first * vector_stride;
    if (ahead) rest.ahead += first * vector_stride;
    return rest;
  }
};

// A vector of a panel along memory, 1 KiB a tile; of the panel to come as many vectors as are multiplied of this one.
inline Bf16Panels vectors_along(const uint16_t* data, int64_t groups, const uint16_t* ahead) {
  return {data, groups, groups * group_size, group_size, tile_row_bytes, ahead, max_vectors};
}

// What ForwardLayer asks of a matrix (matrix.h).
struct Bf16Products {
  using Weight = Bf16s;
  using Rows = Bf16Rows;
  using Panels = Bf16Panels;
  static constexpr bool vectors_apart = true;  // a vector of a panel lies along memory, 1 KiB a tile

  static Rows operand(const uint16_t* rows, int64_t stride) { return {rows, nullptr, stride}; }
  static Rows operand(SplitBf16s rows, int64_t stride) { return {rows.high, rows.low, stride}; }
  static Panels panels(const uint16_t* data, int64_t pairs, int N, Range all, const Tile& tile) {
    const int64_t size = pairs * N * 2 * Vec<float>::lanes;
    const int64_t next = tile.panel + 1 < all.end ? 1 : all.begin - tile.panel;
    const uint16_t* here = data + tile.panel * size;
    return vectors_along(here, 2 * pairs / bf16_group, tile.nth == 0 ? here + next * size : nullptr);
  }
  static int64_t K_in_blocks(int64_t) { return 0; }
};

template <>
constexpr int rows_per_tile<Bf16s>(int) {
  return 2 * tile_rows;
}
template <>
constexpr int rows_per_tile<Bf16Pair>(int) {
  return 2 * tile_rows;
}
template <>
constexpr int panels_per_row<Bf16s>(int) {
  return 1;
}
template <>
constexpr int panels_per_row<Bf16Pair>(int) {
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
    const int64_t a_bytes = a.stride * 2;
    const uint16_t* planes[2] = {a.high + row * a.stride, a.low ? a.low + row * a.stride : nullptr};
    const int ahead_vectors = b.ahead ? n < b.ahead_vectors ? n : b.ahead_vectors : 0;
    for (int64_t group = 0; group < b.groups; ++group) {
      for (int v = 0; v < ahead_vectors; ++v) {
        prefetch_group(b.ahead + v * b.vector_stride + group * group_size);
      }
      for (const uint16_t* plane : planes) {
        if (plane) add_group<first, n>(plane + group * bf16_group, a_bytes, b.data + group * b.group_stride, b);
      }
    }
  }

 private:
  static RNNKERNELS_INLINE void prefetch_group(const uint16_t* at) {
    for (int line = 0; line < bf16_group / 2; ++line) __builtin_prefetch(at + line * 2 * lanes, 0, 2);  // into L2
  }

  template <int first, int n>
  static RNNKERNELS_INLINE void add_group(const uint16_t* a, int64_t a_bytes, const uint16_t* right,
                                          const Bf16Panels& b) {
    const int64_t row_bytes = b.row_bytes, vector_stride = b.vector_stride;
    load_tile<4>(a, a_bytes);
    load_tile<6>(right, row_bytes);
    add_bf16_product<first, 4, 6>();
    if constexpr (n > 1) {
      load_tile<7>(right + vector_stride, row_bytes);
      add_bf16_product<first + 1, 4, 7>();
    }
    if constexpr (two) {
      load_tile<5>(a + tile_rows * a_bytes / 2, a_bytes);
      add_bf16_product<of_lower + first, 5, 6>();
      if constexpr (n > 1) add_bf16_product<of_lower + first + 1, 5, 7>();
    }
    if constexpr (n > 2) {
      load_tile<6>(right + 2 * vector_stride, row_bytes);
      add_bf16_product<first + 2, 4, 6>();
    }
    if constexpr (n > 3) {
      load_tile<7>(right + 3 * vector_stride, row_bytes);
      add_bf16_product<first + 3, 4, 7>();
    }
  }
};

alignas(cache_line) inline constexpr float no_sums[max_vectors * Vec<float>::lanes] = {};

// Products of one panel: of N vectors of sums the first product has a_count from a_first on, the second b_count from b_first on.
template <int N, int a_first, int a_count, int b_first, int b_count>
struct TileProducts {
  const Bf16Rows &a, &b;
  Bf16Panels a_panel, b_panel;
  int64_t row;

  void add_to(int rows, const Sums<float>& c) const {
    if (rows <= tile_rows) {
      shape_tiles(rows, rows);
      add_part<false, 0, N>(c);
    } else {
      shape_tiles(tile_rows, rows - tile_rows);
      add_part<true, 0, (N < 2 ? N : 2)>(c);
      if constexpr (N > 2) add_part<true, 2, N - 2>(c);
    }
  }

 private:
  template <bool two, int first, int count>
  RNNKERNELS_INLINE void add_part(const Sums<float>& all) const {
    using Part = Bf16Sums<two, count>;
    const Sums<float> c = all.vectors_from(first);
    if (c.add) {
      Part::load(c.to, c.row_stride);
    } else if (c.from) {
      Part::load(c.from, c.from_row_stride);
    } else {
      Part::load(no_sums, 0);
    }
    add_product<Part, first, count, a_first, a_count>(a, a_panel);
    if constexpr (b_count > 0) add_product<Part, first, count, b_first, b_count>(b, b_panel);
    Part::store(c.to, c.row_stride);
  }

  // Vectors of a product, from its `first_of` on, as far as they are among a part's.
  template <class Part, int first, int count, int first_of, int count_of>
  RNNKERNELS_INLINE void add_product(const Bf16Rows& left, const Bf16Panels& right) const {
    constexpr int begin = first > first_of ? first : first_of;
    constexpr int end = first + count < first_of + count_of ? first + count : first_of + count_of;
    if constexpr (begin < end) {
      Part::template add<begin - first, end - begin>(left, row, right.from_vector(begin - first_of));
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

// Of pairs that gemm.h packed, where those of a panel's vectors stand side by side.
template <class Real>
void accumulate(int N, int rows, int panels, const Sums<Real>& c, const Operand<Bf16Pair>& a, int64_t row,
                const Panels<Bf16Pair>& b, bool half_empty = false) {
  const auto numbers = [](const Bf16Pair* pairs) { return reinterpret_cast<const uint16_t*>(pairs); };
  const uint16_t* ahead = b.ahead == b.data ? nullptr : numbers(b.ahead);
  const Bf16Panels right{
      numbers(b.data), 2 * b.k.size() / bf16_group, tile_row_bytes / 2, N * group_size, N * tile_row_bytes, ahead, 1};
  accumulate(half_empty ? 1 : N, rows, panels, c, Bf16Rows{numbers(a.data), nullptr, 2 * a.stride}, row, right);
}

template <int N, int a_first, int a_count, int b_first, int b_count, class Real>
void accumulate_two(int rows, const Sums<Real>& c, const Bf16Rows& a, const Bf16Panels& a_panel, const Bf16Rows& b,
                    const Bf16Panels& b_panel, int64_t row) {
  TileProducts<N, a_first, a_count, b_first, b_count>{a, b, a_panel, b_panel, row}.add_to(rows, c);
}

RNNKERNELS_END_NAMESPACE
