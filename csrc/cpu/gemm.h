// Packed panels and the one micro-kernel that every matrix product of the library runs on.
//
// A panel holds N vectors of output columns for every k: panel[k][N][lanes]. A tile is R rows of a against P panels, kept in
// registers while k runs. Each output has one accumulator and takes its terms in ascending k, whatever R, P, the row it
// stands in and the ISA: that is what makes a sequence's bits the same alone, in a batch, and for any number of threads.
// Operands are of Numbers: the Real that sums are, or pairs of smaller ones, whose two products fma adds (isa/avx512bf16.h);
// then k counts pairs.
// Over many k, a panel is taken in blocks, which all rows find in cache; between them sums wait in memory, unrounded.
#pragma once

#include <cstdint>

#include "vec.h"

RNNKERNELS_BEGIN_NAMESPACE

constexpr int max_rows = 12;    // address registers run out above
constexpr int max_vectors = 4;  // N
constexpr int max_panels = 4;   // P
constexpr int cache_line = 64;

// Of a product over more than twice this many k, and of the rows that wait for a block's turn.
constexpr int64_t k_block = 512;
constexpr int tiles_of_block = 16;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

template <class Number>
constexpr int rows_per_tile(int vectors) {
  return static_cast<int>(smaller(max_rows, Vec<Number>::accumulators / vectors));
}

template <class Number>
constexpr int panels_per_row(int vectors) {  // with a single row, several panels at once hide the latency of fma
  return static_cast<int>(smaller(max_panels, Vec<Number>::accumulators / vectors));
}

// Vectors of the largest tile, but of one that takes several panels.
template <class Number>
constexpr int tile_vectors = static_cast<int>(larger(rows_per_tile<Number>(1), 2 * rows_per_tile<Number>(2)));

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// The left operand: element (row, k) at data[row*stride + k]. Of a transpose the rows are adjacent: k_stride apart for each k,
// or by tiles, [k][rows of the tile] from the tile's first row on.
template <class Number>
struct Operand {
  const Number* data;
  int64_t stride;
  bool adjacent = false;
  int64_t k_stride = 0;  // 0: by tiles

  static Operand transpose(const Number* data, int64_t stride) { return {data, 1, true, stride}; }
  static Operand tiles(const Number* data, int64_t K) { return {data, K, true}; }

  const Number* at(int64_t row) const { return data + row * stride; }
};

// The right operand of a tile, for some k, and memory to bring near meanwhile: one vector for each k.
template <class Number>
struct Panels {
  const Number* data;  // from k.begin on
  int64_t stride;      // from one panel to the next
  Range k;
  const Number* ahead;
};

// Where a tile's sums end and start: vector v of row r of panel p at p*panel_stride + r*row_stride + v*lanes.
template <class Real>
struct Sums {
  Real* to;
  int64_t row_stride, panel_stride;
  const Real* from;         // null: zeros
  int64_t from_row_stride;  // 0: one row for all
  bool add = false;         // to what is at `to`

  static Sums in_place(Real* at, int64_t row_stride, int64_t panel_stride) {
    return {at, row_stride, panel_stride, at, row_stride};
  }
  Sums vectors_from(int first) const {
    const int64_t offset = first * Vec<Real>::lanes;
    return {to + offset, row_stride, panel_stride, from ? from + offset : nullptr, from_row_stride, add};
  }
  Real* at(int64_t panel, int64_t row) const { return to + panel * panel_stride + row * row_stride; }
};

template <class Real, int P, int R, int N>
RNNKERNELS_INLINE void start_sums(Vec<Real> (&sum)[P][R][N], const Sums<Real>& c) {
  using V = Vec<Real>;
  if (c.from) {
    RNNKERNELS_UNROLL
    for (int p = 0; p < P; ++p) {
      RNNKERNELS_UNROLL
      for (int r = 0; r < R; ++r) {
        const Real* from = c.from + p * c.panel_stride + r * c.from_row_stride;
        RNNKERNELS_UNROLL
        for (int v = 0; v < N; ++v) sum[p][r][v] = V::load(from + v * V::lanes);
      }
    }
  } else {
    RNNKERNELS_UNROLL
    for (int p = 0; p < P; ++p) {
      RNNKERNELS_UNROLL
      for (int r = 0; r < R; ++r) {
        RNNKERNELS_UNROLL
        for (int v = 0; v < N; ++v) sum[p][r][v] = V(0);
      }
    }
  }
}

// Vectors first .. first + count - 1 of the sums += a b; b is the first `count` of the `of` vectors in a panel.
template <int first, int count, bool adjacent, int of = count, class Real, class Number, int P, int R, int N>
RNNKERNELS_INLINE void add_products(Vec<Real> (&sum)[P][R][N], const Number* a, int64_t a_stride,
                                    const Panels<Number>& panels) {
  using V = Vec<Number>;
  const int64_t a_row = adjacent ? 1 : a_stride, a_k = adjacent ? a_stride : 1;
  const Number *b = panels.data, *ahead = panels.ahead;
  for (int64_t k = panels.k.begin; k < panels.k.end; ++k, a += a_k, b += of * V::lanes, ahead += V::lanes) {
    __builtin_prefetch(ahead, 0, 2);  // into L2
    RNNKERNELS_UNROLL
    for (int p = 0; p < P; ++p) {
      V weight[count];
      RNNKERNELS_UNROLL
      for (int v = 0; v < count; ++v) weight[v] = V::load(b + p * panels.stride + v * V::lanes);
      RNNKERNELS_UNROLL
      for (int r = 0; r < R; ++r) {
        const V x(a[r * a_row]);
        RNNKERNELS_UNROLL
        for (int v = 0; v < count; ++v) sum[p][r][first + v] = fma(x, weight[v], sum[p][r][first + v]);
      }
    }
  }
}

template <class Real, int P, int R, int N>
RNNKERNELS_INLINE void store_sums(const Vec<Real> (&sum)[P][R][N], const Sums<Real>& c) {
  using V = Vec<Real>;
  RNNKERNELS_UNROLL
  for (int p = 0; p < P; ++p) {
    RNNKERNELS_UNROLL
    for (int r = 0; r < R; ++r) {
      Real* to = c.at(p, r);
      RNNKERNELS_UNROLL
      for (int v = 0; v < N; ++v)
        (c.add ? V::load(to + v * V::lanes) + sum[p][r][v] : sum[p][r][v]).store(to + v * V::lanes);
    }
  }
}

template <int n>
struct Constant {
  static constexpr int value = n;
};

// Calls body(Constant<n>()), where n lies in 1 .. most.
template <int most, class Body>
inline void with_constant(int n, const Body& body) {
  if (n == most) return body(Constant<most>());
  if constexpr (most > 1) with_constant<most - 1>(n, body);
}

template <int P, int R, int N, bool adjacent, int of, class Real, class Number>
void tile(const Sums<Real>& c, const Number* a, int64_t a_stride, const Panels<Number>& b) {
  Vec<Real> sum[P][R][N];
  start_sums(sum, c);
  add_products<0, N, adjacent, of>(sum, a, a_stride, b);
  store_sums(sum, c);
}

template <int N, bool adjacent, int of = N, class Real, class Number>
void accumulate_n(int rows, int panels, const Sums<Real>& c, const Number* a, int64_t a_stride,
                  const Panels<Number>& b) {
  if (panels > 1) {
    return with_constant<panels_per_row<Number>(N)>(
        panels, [&](auto P) { tile<decltype(P)::value, 1, N, adjacent, of>(c, a, a_stride, b); });
  }
  with_constant<rows_per_tile<Number>(of)>(
      rows, [&](auto R) { tile<1, decltype(R)::value, N, adjacent, of>(c, a, a_stride, b); });
}

// Sums of a b for one tile: N vectors, and either `rows` rows of `a` from `row` on, or one row and up to panels_per_row `panels`.
// A tile that is half empty is of one panel of two vectors, of which the second is left out.
template <class Real, class Number>
void accumulate(int N, int rows, int panels, const Sums<Real>& c, const Operand<Number>& a, int64_t row,
                const Panels<Number>& b, bool half_empty = false) {
  if (a.adjacent) {  // in the gradients of weights, whose right operands are PackedMatrix
    const int64_t k_stride = a.k_stride ? a.k_stride : rows;
    const Number* start = a.at(row) + b.k.begin * k_stride;
    if (half_empty) return accumulate_n<1, true, 2>(rows, panels, c, start, k_stride, b);
    return N == 1 ? accumulate_n<1, true>(rows, panels, c, start, k_stride, b)
                  : accumulate_n<2, true>(rows, panels, c, start, k_stride, b);
  }
  const Number* start = a.at(row) + b.k.begin;
  if (half_empty) return accumulate_n<1, false, 2>(rows, panels, c, start, a.stride, b);
  switch (N) {
    case 1: return accumulate_n<1, false>(rows, panels, c, start, a.stride, b);
    case 2: return accumulate_n<2, false>(rows, panels, c, start, a.stride, b);
    case 3: return accumulate_n<3, false>(rows, panels, c, start, a.stride, b);
    case 4: return accumulate_n<4, false>(rows, panels, c, start, a.stride, b);
  }
}

// Sums of two products in a row, for one tile of one panel: of N vectors the first product has a_count from a_first on, and
// the second b_count from b_first on.
template <int N, int a_first, int a_count, int b_first, int b_count, class Real, class Number>
void accumulate_two(int rows, const Sums<Real>& c, const Operand<Number>& a, const Panels<Number>& a_panel,
                    const Operand<Number>& b, const Panels<Number>& b_panel, int64_t row) {
  with_constant<rows_per_tile<Number>(N)>(rows, [&](auto R) {
    Vec<Real> sum[1][decltype(R)::value][N];
    start_sums(sum, c);
    add_products<a_first, a_count, false>(sum, a.at(row), a.stride, a_panel);
    add_products<b_first, b_count, false>(sum, b.at(row), b.stride, b_panel);
    store_sums(sum, c);
  });
}

// One visit to a tile: all of its k, or the `block`th of so many `blocks` of them.
struct Tile {
  int64_t row, panel;
  int rows, panels;
  int64_t nth;  // of the tiles that take a panel's block in turn
  int slot;     // of tile_slots, its own until it is done
  int block = 0, blocks = 1;

  Range k(int64_t K) const { return blocks == 1 ? Range{0, K} : Range{K * block / blocks, K * (block + 1) / blocks}; }
  bool first() const { return block == 0; }
  bool last() const { return block == blocks - 1; }

  // Its pieces, each a row on a panel: since rows or panels is 1, they lie in one line.
  int64_t pieces() const { return rows * panels; }
  int64_t down(int64_t piece) const { return rows > 1 ? piece : 0; }
  int64_t across(int64_t piece) const { return piece - down(piece); }
};

// Heights of the tiles that cover some rows, at least one: as few as can be. Wide ones are of about equal height, since a last
// one of two rows would read weights faster than L2 gives them (forward of an LSTM of 256 units on Zen 4: 4 % in 32 rows).
struct TileHeights {
  int64_t low, higher;  // the first `higher` have one row more than `low`; the last one is what is left

  template <class Number>
  static TileHeights of(int64_t rows, int N) {
    const int64_t tallest = rows_per_tile<Number>(N), count = ceil_div(rows, tallest);
    return N > 2 ? TileHeights{rows / count, rows % count} : TileHeights{tallest, 0};
  }
  int at(int64_t nth, int64_t rows_left) const { return static_cast<int>(smaller(low + (nth < higher), rows_left)); }
};

// Those of a block, and one more on either side that is begun or not yet done.
constexpr int tile_slots = tiles_of_block + 2;

// Calls body(tile) for tiles of N vectors that cover rows x panels, and K where that is so large that blocks of it are better;
// a single row takes several panels at a time if it may.
template <class Number, class Body>
inline void for_each_tile(Range rows, Range panels, int N, int64_t K, const Body& body, bool several_panels = true) {
  if (several_panels && rows.size() == 1) {
    const int64_t tiles = ceil_div(panels.size(), panels_per_row<Number>(N));
    for (int64_t i = 0; i < tiles; ++i) {  // of about equal width: a narrow one would wait for its own sums
      const int64_t begin = panels.size() * i / tiles, end = panels.size() * (i + 1) / tiles;
      body(Tile{rows.begin, panels.begin + begin, 1, static_cast<int>(end - begin), 0, static_cast<int>(i % 3)});
    }
    return;
  }
  const int64_t tallest = rows_per_tile<Number>(N);
  const int blocks = K > 2 * k_block && rows.size() > tallest ? static_cast<int>(ceil_div(K, k_block)) : 1;
  const int64_t in_turn = blocks > 1 ? tallest * tiles_of_block : rows.size();
  const int slots = blocks > 1 ? tile_slots : 3;  // a few that stay in L1, if they will do
  int slot = 0, next_slot = 0;
  for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
    for (int64_t top = rows.begin; top < rows.end; top += in_turn, slot = next_slot) {
      const int64_t bottom = smaller(top + in_turn, rows.end);
      const auto heights = TileHeights::of<Number>(bottom - top, N);
      for (int block = 0; block < blocks; ++block) {
        next_slot = slot;
        int height;
        for (int64_t row = top, nth = 0; row < bottom; row += height, ++nth) {
          height = heights.at(nth, bottom - row);
          body(Tile{row, panel, height, 1, nth, next_slot, block, blocks});
          next_slot = next_slot + 1 < slots ? next_slot + 1 : 0;
        }
      }
    }
  }
}

// The same in stages: before(tile) runs a tile ahead of product(tile), and after(tile) a tile behind; before runs on the first
// visit to a tile, and after on the last. So what one stage stores has reached the cache when the next loads it (a vector of
// 64 bytes still in the queue of stores costs 10 cycles), and one tile's latencies hide under another's product.
template <class Number, class Before, class Product, class After>
inline void for_each_tile(Range rows, Range panels, int N, int64_t K, const Before& before, const Product& product,
                          const After& after, bool several_panels = true) {
  Tile ring[3];
  int64_t n = 0;  // visits
  const auto multiply = [&](int64_t i) {
    if (i >= 0) product(ring[i % 3]);
  };
  const auto finish = [&](int64_t i) {
    if (i >= 0 && ring[i % 3].last()) after(ring[i % 3]);
  };
  const auto advance = [&](const Tile& next) {
    ring[n % 3] = next;
    if (next.first()) before(next);
    multiply(n - 1);
    finish(n - 2);
    ++n;
  };
  for_each_tile<Number>(rows, panels, N, K, advance, several_panels);
  multiply(n - 1);
  finish(n - 2);
  finish(n - 1);
}

// The panels of a tile at `data`. The first N tiles of a block bring the block after it near.
template <class Number>
inline Panels<Number> panels_at(const Number* data, int64_t K, int N, Range all, const Tile& tile) {
  const int64_t row = N * Vec<Number>::lanes, size = K * row;
  const Range k = tile.k(K);
  const Number* here = data + tile.panel * size + k.begin * row;
  const Number* next_panel = data + (tile.panel + 1 < all.end ? tile.panel + 1 : all.begin) * size;
  const Number* next = tile.last() ? next_panel : here + k.size() * row;
  return {here, size, k, tile.nth < N ? next + tile.nth * k.size() * Vec<Number>::lanes : here};
}

// Transposes a square of lanes: interleaving the first half of the rows with the second, log2(lanes) times.
template <class V>
inline void transpose(V (&row)[V::lanes]) {
  constexpr int half = V::lanes / 2;
  for (int round = 1; round < V::lanes; round *= 2) {
    V zipped[V::lanes];
    RNNKERNELS_UNROLL
    for (int i = 0; i < half; ++i) {
      zipped[2 * i] = zip_low(row[i], row[i + half]);
      zipped[2 * i + 1] = zip_high(row[i], row[i + half]);
    }
    RNNKERNELS_UNROLL
    for (int i = 0; i < V::lanes; ++i) row[i] = zipped[i];
  }
}

// Asks for n elements ahead of their use: every line that holds one of them.
template <class Real>
inline void prefetch(const Real* p, int64_t n) {
  const auto first = reinterpret_cast<uintptr_t>(p), end = reinterpret_cast<uintptr_t>(p + n);
  for (uintptr_t line = first / cache_line * cache_line; line < end; line += cache_line) {
    __builtin_prefetch(reinterpret_cast<const void*>(line));
  }
}
inline void prefetch(Halves p, int64_t n) { prefetch(p.data, n); }

// How Numbers are made of the rows of a matrix, whose rows are the k of a product. A row is a pointer, or absent (zeros) where
// that is null.
template <class Number>
struct Terms {
  static constexpr int group = 1;  // rows that make one of Numbers
  static constexpr int whole = 1;  // rows that are multiplied at once: products are over whole groups of so many

  // n columns of them from `column` on.
  template <class Pointer>
  static RNNKERNELS_INLINE Vec<Number> load(const Pointer* rows, int64_t column, int n) {
    return rows[0] && n ? read(rows[0] + column, n) : Vec<Number>(0);
  }
};

// The right operand of an ordinary product: K x columns, in panels of N vectors; the last panel is padded with zeros.
template <class Number>
struct PackedMatrix {
  using V = Vec<Number>;
  static constexpr int group = Terms<Number>::group, whole = Terms<Number>::whole;

  Number* data;
  int64_t K;  // Numbers
  int64_t columns;
  int N;

  // Narrow matrices take one vector a panel, so that the second is not computed for nothing.
  PackedMatrix(int64_t rows, int64_t columns_)
      : data(nullptr), K(numbers(rows)), columns(columns_), N(columns_ > V::lanes ? 2 : 1) {}

  static int64_t numbers(int64_t rows) { return round_up(rows, whole) / group; }
  int64_t width() const { return N * V::lanes; }
  int64_t panels() const { return ceil_div(columns, width()); }
  Range all() const { return {0, panels()}; }
  int64_t panel_size() const { return K * width(); }
  int64_t size() const { return panels() * panel_size(); }
  int64_t K_in_blocks() const { return whole > group ? 0 : K; }  // which would cut a group
  bool half_empty(const Tile& tile) const {                      // with several panels too little is won
    return N == 2 && tile.panels == 1 && columns <= tile.panel * width() + V::lanes;
  }

  // Row i of the matrix, i < K * group, is at row(i): a pointer to Real or Halves, or null.
  template <class Row>
  void pack(Range own_panels, const Row& row) const {
    using Pointer = decltype(row(0));
    constexpr int64_t block = 8;  // k at a time, so that reads and writes both go along memory
    for (int64_t first = 0; first < K; first += block) {
      Pointer rows[2 * block * group];  // and those that follow, to ask for them ahead
      for (int64_t i = 0; i < 2 * block * group; ++i) {
        rows[i] = first * group + i < K * group ? row(first * group + i) : Pointer();
      }
      for (int64_t p = own_panels.begin; p < own_panels.end; ++p) {
        for (int64_t k = 0; k < smaller(block, K - first); ++k) {
          pack_k(p, first + k, rows + k * group);
          for (const Pointer* next = rows + (block + k) * group; next < rows + (block + k + 1) * group; ++next) {
            if (*next) prefetch(*next + p * width(), width());
          }
        }
      }
    }
  }

  template <class Pointer>
  void pack_k(int64_t panel, int64_t k, const Pointer* rows) const {
    Number* to = data + panel * panel_size() + k * width();
    for (int v = 0; v < N; ++v, to += V::lanes) {
      const int64_t column = panel * width() + v * V::lanes;
      Terms<Number>::load(rows, column, static_cast<int>(larger(0, smaller(V::lanes, columns - column)))).store(to);
    }
  }

  // The matrix is the transpose of w (columns, K).
  void pack_transposed(Range own_panels, const Number* w) const {
    for (int64_t p = own_panels.begin; p < own_panels.end; ++p) {
      for (int v = 0; v < N; ++v) {
        const int64_t column = p * width() + v * V::lanes;
        pack_lanes(data + p * panel_size() + v * V::lanes, width(), w + column * K, K, columns - column, K);
      }
    }
  }

  // One vector of a panel: lane l of row k is from[l*from_stride + k] for l < valid, else 0.
  template <class Pointer>
  static void pack_lanes(Number* to, int64_t to_stride, Pointer from, int64_t from_stride, int64_t valid, int64_t K) {
    for (int64_t k = 0; k < K; k += V::lanes) {
      const int n = static_cast<int>(smaller(V::lanes, K - k));
      V square[V::lanes];
      for (int l = 0; l < V::lanes; ++l) square[l] = l < valid ? read(from + l * from_stride + k, n) : V(0);
      transpose(square);
      for (int l = 0; l < n; ++l) square[l].store(to + (k + l) * to_stride);
    }
  }
};

template <class Real>
inline void fill_zero(Real* p, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = 0;
}
inline void fill_zero(Halves p, int64_t n) { fill_zero(p.data, n); }

template <class Real>
inline void copy(const Real* from, Real* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}
inline void copy(Halves from, float* to, int64_t n) {
  constexpr int lanes = Vec<float>::lanes;
  for (int64_t i = 0; i < n; i += lanes) {
    const int valid = static_cast<int>(smaller(lanes, n - i));
    read(from + i, valid).store(to + i, valid);
  }
}

// to = or += from, rounded once.
inline void round_to(Halves to, const float* from, int64_t n, bool add) {
  constexpr int lanes = Vec<float>::lanes;
  for (int64_t i = 0; i < n; i += lanes) {
    const int valid = static_cast<int>(smaller(lanes, n - i));
    const Vec<float> value = Vec<float>::load(from + i, valid);
    write(add ? read(to + i, valid) + value : value, to + i, valid);
  }
}

// Calls body(vector offset within the row, column, valid lanes) for each vector of a tile's row that has a column.
template <class Real, class Body>
inline void for_each_vector(int64_t width, int64_t column, int64_t columns, const Body& body) {
  constexpr int lanes = Vec<Real>::lanes;
  for (int64_t v = 0; v < width && column + v < columns; v += lanes) {
    body(v, column + v, static_cast<int>(smaller(lanes, columns - column - v)));
  }
}

// a b over rows x panels of b, tile by tile: init(sums, tile) writes what the sums start from, done(sums, tile) takes them;
// `sums` is [panels][rows][N*lanes].
template <class Number, class Init, class Done>
inline void multiply(const Operand<Number>& a, const PackedMatrix<Number>& b, Range rows, Range panels,
                     const Init& init, const Done& done) {
  using Real = typename Vec<Number>::Real;
  alignas(cache_line) Real buffer[tile_slots][tile_vectors<Number> * Vec<Number>::lanes];
  const int64_t width = b.width();
  for_each_tile<Number>(
      rows, panels, b.N, b.K_in_blocks(), [&](const Tile& tile) { init(buffer[tile.slot], tile); },
      [&](const Tile& tile) {
        accumulate(b.N, tile.rows, tile.panels, Sums<Real>::in_place(buffer[tile.slot], width, width), a, tile.row,
                   panels_at(b.data, b.K, b.N, panels, tile), b.half_empty(tile));
      },
      [&](const Tile& tile) { done(buffer[tile.slot], tile); });
}

// Calls body(offset in sums, row, first column) for each panel of each row of a tile.
template <class Number, class Body>
inline void for_each_row(const PackedMatrix<Number>& b, const Tile& tile, const Body& body) {
  for (int64_t i = 0; i < tile.pieces(); ++i) {
    body(i * b.width(), tile.row + tile.down(i), (tile.panel + tile.across(i)) * b.width());
  }
}

// Calls body(offset in sums, row, column, valid lanes) for each vector of a tile that has a column.
template <class Number, class Body>
inline void for_each_vector(const PackedMatrix<Number>& b, const Tile& tile, const Body& body) {
  for_each_row(b, tile, [&](int64_t at, int64_t row, int64_t first) {
    for_each_vector<Number>(b.width(), first, b.columns,
                            [&](int64_t v, int64_t column, int n) { body(at + v, row, column, n); });
  });
}

// Where a product goes: element (row, column) at to[row*columns + column], after `bias` (columns, or null) or onto what is there.
template <class Real>
struct Result {
  Real* to;
  const Real* bias = nullptr;
  bool add = false;
};

// c = bias + a b, or c += a b, for some rows. Panels that c's columns fill go straight to it.
template <class Number>
inline void multiply(const Operand<Number>& a, const PackedMatrix<Number>& b, Range rows,
                     const Result<typename Vec<Number>::Real>& c) {
  using Real = typename Vec<Number>::Real;
  using V = Vec<Real>;
  const int64_t width = b.width();
  const Range full{0, b.columns / width};
  const int64_t K = c.add ? 0 : b.K_in_blocks();  // what is added to must not lie between blocks of sums
  for_each_tile<Number>(rows, full, b.N, K, [&](const Tile& tile) {
    const int64_t column = tile.panel * width;
    Real* const to = c.to + tile.row * b.columns + column;
    const Real* const bias = c.bias ? c.bias + column : nullptr;
    const Sums<Real> sums =
        tile.first() ? Sums<Real>{to, b.columns, width, bias, 0, c.add} : Sums<Real>::in_place(to, b.columns, width);
    for (int r = 0; c.add && r < tile.rows; ++r) prefetch(sums.at(0, r), tile.panels * width);
    accumulate(b.N, tile.rows, tile.panels, sums, a, tile.row, panels_at(b.data, b.K, b.N, full, tile));
  });
  multiply<Number>(
      a, b, rows, {full.end, b.panels()},
      [&](Real* sums, const Tile& tile) {
        fill_zero(sums, tile.pieces() * width);
        if (!c.bias) return;
        for_each_vector(
            b, tile, [&](int64_t at, int64_t, int64_t column, int n) { V::load(c.bias + column, n).store(sums + at); });
      },
      [&](const Real* sums, const Tile& tile) {
        for_each_vector(b, tile, [&](int64_t at, int64_t row, int64_t column, int n) {
          Real* to = c.to + row * b.columns + column;
          const V sum = V::load(sums + at);
          (c.add ? V::load(to, n) + sum : sum).store(to, n);
        });
      });
}

// The rows that make Number k of columns of a, which has `size` rows, `stride` apart.
template <class Number, class Pointer>
inline void rows_of_number(Pointer a, int64_t stride, int64_t size, int64_t k, Pointer (&rows)[Terms<Number>::group]) {
  constexpr int group = Terms<Number>::group;
  for (int64_t i = 0; i < group; ++i) rows[i] = k * group + i < size ? a + (k * group + i) * stride : Pointer();
}

// Columns of a (`size` rows, `stride` apart) as rows of a left operand, by the tiles of a product with N vectors.
template <class Number, class Pointer>
inline Operand<Number> tiles_of_transpose(Pointer a, int64_t stride, int64_t size, Range columns, int N, Number* to) {
  using V = Vec<Number>;
  constexpr int64_t block = 8;  // k at a time, so that reads and writes both go along memory
  const int64_t K = PackedMatrix<Number>::numbers(size);
  const auto heights = TileHeights::of<Number>(columns.size(), N);
  for (int64_t first = 0; first < K; first += block) {
    const int64_t last = smaller(first + block, K);
    int64_t rows;
    for (int64_t column = columns.begin, nth = 0; column < columns.end; column += rows, ++nth) {
      rows = heights.at(nth, columns.end - column);
      Number *tile = to + (column - columns.begin) * K, *end = tile + rows * K;
      for (int64_t k = first; k < last; ++k) {
        Pointer of_k[Terms<Number>::group];
        rows_of_number<Number>(a, stride, size, k, of_k);
        for (int64_t row = 0; row < rows; row += V::lanes) {
          const int n = static_cast<int>(smaller(V::lanes, rows - row));
          const V part = Terms<Number>::load(of_k, column + row, n);
          Number* at = tile + k * rows + row;
          at + V::lanes <= end ? part.store(at) : part.store(at, n);  // what is too much the next k overwrites
        }
      }
    }
  }
  return Operand<Number>::tiles(to, K);
}

// The same with what belongs to a row side by side, for products of several k at once.
template <class Number, class Pointer>
inline Operand<Number> rows_of_transpose(Pointer a, int64_t stride, int64_t size, Range columns, Number* to) {
  using V = Vec<Number>;
  const int64_t K = PackedMatrix<Number>::numbers(size);
  for (int64_t k = 0; k < K; k += V::lanes) {
    for (int64_t column = columns.begin; column < columns.end; column += V::lanes) {
      const int n = static_cast<int>(smaller(V::lanes, columns.end - column));
      V square[V::lanes];
      for (int i = 0; i < V::lanes; ++i) {
        Pointer of_k[Terms<Number>::group];
        rows_of_number<Number>(a, stride, size, k + i, of_k);
        square[i] = Terms<Number>::load(of_k, column, n);
      }
      transpose(square);
      for (int r = 0; r < n; ++r) square[r].store(to + (column - columns.begin + r) * K + k);
    }
  }
  return {to, K};
}

// One of several products with the same transpose.
template <class Number>
struct TransposedProduct {
  const PackedMatrix<Number>* b;  // null: none
  Result<typename Vec<Number>::Real> c;
};

// Rows whose copy stays in L2 while panels come and go in L1.
template <class Number>
constexpr int64_t transpose_rows = 16 * rows_per_tile<Number>(2);

constexpr int64_t transpose_bytes = int64_t(384) << 10;  // of a matrix that is read from L2 as it stands

// c = a^T b, or c += a^T b, for some rows of each c; the `size` rows of a lie `stride` apart. Of a large matrix, and where
// Numbers are pairs, blocks of rows are copied to where those of a tile lie together: `copies` holds as many Numbers as b has
// rows times the smaller of rows.size() and transpose_rows.
template <class Number, int count, class Pointer>
inline void multiply_transposed(Pointer a, int64_t stride, int64_t size, Range rows,
                                const TransposedProduct<Number> (&products)[count], Number* copies) {
  constexpr bool pairs = Terms<Number>::group > 1, groups = Terms<Number>::whole > Terms<Number>::group;
  const bool copied = pairs || size * stride * static_cast<int64_t>(sizeof(Number)) > transpose_bytes;
  const int64_t block = copied ? transpose_rows<Number> : rows.size();
  for (int64_t row = rows.begin; row < rows.end; row += block) {
    const Range own{row, smaller(rows.end, row + block)};
    Operand<Number> left{};
    if constexpr (!pairs) left = Operand<Number>::transpose(a + row, stride);
    int tiles_of = 0;  // which N
    for (const auto& [b, c] : products) {
      if (!b) continue;
      if (copied && tiles_of != b->N) {
        tiles_of = b->N;
        if constexpr (groups) {
          left = rows_of_transpose<Number>(a, stride, size, own, copies);
        } else {
          left = tiles_of_transpose<Number>(a, stride, size, own, b->N, copies);
        }
      }
      multiply<Number>(left, *b, {0, own.size()}, {c.to + row * b->columns, nullptr, c.add});
    }
  }
}

RNNKERNELS_END_NAMESPACE
