// Products of bfloat16 numbers with sums in float32, on AMX: Bf16Matrix is to ForwardLayer what RealMatrix is.
//
// Weights, rows of x and states are bfloat16 in the caller's arrays, and are multiplied as they are. What is not (r*h of a GRU,
// gradients of gates) is split into two numbers of bfloat16, whose sum has 16 bits or more, and multiplied as those one
// after the other. A sum takes its terms 32 at a time (isa/amx.h), in order, each part's high numbers before its low ones:
// whatever rows and panels share a tile, the bits are the same.
#pragma once

#include "layer.h"

RNNKERNELS_BEGIN_NAMESPACE

constexpr int bf16_group = 32;  // terms of a tile

// Numbers of bfloat16, as states and operands hold them; what is written has been rounded, or is.
struct Bf16s {
  uint16_t* data = nullptr;

  Bf16s operator+(int64_t n) const { return {data + n}; }
};
inline Vec<float> read(Bf16s p) { return from_bf16(Vec<uint16_t>::load(p.data, Vec<uint16_t>::lanes)); }
inline void write(Vec<float> value, Bf16s p, int n) { Vec<uint16_t>::to_bf16(value).store(p.data, n); }
inline void write(Vec<float> value, Bf16s p) { write(value, p, Vec<uint16_t>::lanes); }
inline void prefetch(Bf16s p, int64_t n) { prefetch(p.data, n); }
inline void take(Arena& arena, int64_t n, Bf16s& piece) { take(arena, n, piece.data); }

// The same in two parts: high + low. Infinity has no low part.
struct SplitBf16s {
  uint16_t *high = nullptr, *low = nullptr;

  SplitBf16s operator+(int64_t n) const { return {high + n, low + n}; }
};
inline void write(Vec<float> value, SplitBf16s p, int n) {
  const Vec<uint16_t> high = Vec<uint16_t>::to_bf16(value);
  high.store(p.high, n);
  Vec<uint16_t>::to_bf16(difference_if_finite(value, from_bf16(high))).store(p.low, n);
}
inline void write(Vec<float> value, SplitBf16s p) { write(value, p, Vec<uint16_t>::lanes); }
inline void take(Arena& arena, int64_t n, SplitBf16s& piece) {
  take(arena, n, piece.high);
  take(arena, n, piece.low);
}

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
struct Bf16Products {
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
    Bf16Products<count, 0, count, 0, 0>{a, a, b, b, row}.add_to(rows, c);
  });
}

template <class Real, int N, int a_first, int a_count, int b_first, int b_count>
void accumulate_two(int rows, const Sums<Real>& c, const Bf16Rows& a, const Bf16Panels& a_panel, const Bf16Rows& b,
                    const Bf16Panels& b_panel, int64_t row) {
  Bf16Products<N, a_first, a_count, b_first, b_count>{a, b, a_panel, b_panel, row}.add_to(rows, c);
}

// One matrix of a layer in panels of [N][pairs][lanes][2].
struct Bf16Matrix {
  using V = Vec<float>;
  using Weight = Bf16s;
  using Rows = Bf16Rows;
  using Number = uint16_t;
  using State = Bf16s;
  using Reset = SplitBf16s;
  using Multiplier = TileShapes;
  static constexpr int group = bf16_group;
  static constexpr bool rounds = false, fuses = true;
  template <class Storage>
  static constexpr bool multiplies = true;

  int64_t columns, groups;
  int N;
  uint16_t* data;

  Bf16Matrix(int64_t K, int N_, int64_t panels, Arena& arena)
      : columns(K), groups(ceil_div(K, group)), N(N_), data(arena.take<uint16_t>(panels * panel_size())) {}

  int64_t panel_size() const { return groups * group * N * V::lanes; }
  uint16_t* at(int64_t panel, int64_t pair, int vector) const {
    return data + panel * panel_size() + (vector * groups * (group / 2) + pair) * 2 * V::lanes;
  }

  V row(int64_t panel, int64_t k, int vector) const {
    const V pairs = V::load(reinterpret_cast<const float*>(at(panel, k / 2, vector)));
    return k % 2 ? second_of_pairs(pairs) : first_of_pairs(pairs);
  }

  Bf16Panels panels(Range all, const Tile& tile) const {
    const int64_t next = tile.panel + 1 < all.end ? 1 : all.begin - tile.panel;
    return {at(tile.panel, 0, 0), groups, tile.nth == 0 ? next * panel_size() : 0};
  }
  int64_t K_in_blocks() const { return 0; }
  bool in_whole_groups() const { return columns % group == 0; }

  static Rows operand(Halves rows, int64_t stride, Multiplier& multiplier) {
    return {rows.data, nullptr, stride, &multiplier};
  }
  static Rows operand(Bf16s rows, int64_t stride, Multiplier& multiplier) {
    return {rows.data, nullptr, stride, &multiplier};
  }
  static Rows operand(SplitBf16s rows, int64_t stride, Multiplier& multiplier) {
    return {rows.high, rows.low, stride, &multiplier};
  }

  // Lane l of a vector is the row of `columns` numbers from[l*across + k*along] for l < count, else 0. Along memory a pair is
  // moved as one float.
  void pack(int64_t panel, int vector, Halves from, int64_t across, int64_t along, int64_t count) const {
    for (int64_t k = 0; k < groups * group; k += group) {
      V pairs[V::lanes];
      for (int l = 0; l < V::lanes; ++l) pairs[l] = l < count ? pairs_of(from + l * across, along, k) : V(0);
      transpose(pairs);
      for (int i = 0; i < V::lanes; ++i) pairs[i].store(reinterpret_cast<float*>(at(panel, k / 2 + i, vector)));
    }
  }

  // Rows of x in the order of work.
  struct Copies {
    int64_t K;
    uint16_t* data;

    Copies(int64_t rows, int64_t K_, Arena& arena) : K(K_), data(arena.take<uint16_t>(rows * stride())) {}
    int64_t stride() const { return padded_stride<uint16_t>(round_up(K, group)); }
    Rows from(int64_t row, Multiplier& multiplier) const {
      return {data + row * stride(), nullptr, stride(), &multiplier};
    }
    void set(int64_t row, Halves from) const {
      uint16_t* const to = data + row * stride();
      for (int64_t k = 0; k < K; ++k) to[k] = from.data[k];
      for (int64_t k = K; k < round_up(K, group); ++k) to[k] = 0;
    }
  };

 private:
  V pairs_of(Halves row, int64_t along, int64_t k) const {
    const int n = static_cast<int>(smaller(group, columns - k));
    if (along == 1) return load_pairs(row.data + k, n);
    uint16_t gathered[group] = {};
    for (int i = 0; i < n; ++i) gathered[i] = row.data[(k + i) * along];
    return load_pairs(gathered, group);
  }
};

RNNKERNELS_END_NAMESPACE
