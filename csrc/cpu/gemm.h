// Packed panels and the one micro-kernel that every matrix product of the library runs on.
//
// A panel holds N vectors of output columns for every k: panel[k][N][lanes]. A tile is R rows of a against P panels, kept in
// registers while k runs. Each output has one accumulator and takes its terms in ascending k, whatever R, P, the row it
// stands in and the ISA: that is what makes a sequence's bits the same alone, in a batch, and for any number of threads.
#pragma once

#include <cstdint>

#include "vec.h"

RNNKERNELS_BEGIN_NAMESPACE

constexpr int max_rows = 12;    // address registers run out above
constexpr int max_vectors = 4;  // N
constexpr int max_panels = 4;   // P
constexpr int cache_line = 64;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

template <class Real>
constexpr int rows_per_tile(int vectors) {
  return static_cast<int>(smaller(max_rows, Vec<Real>::accumulators / vectors));
}

template <class Real>
constexpr int panels_per_row(int vectors) {  // with a single row, several panels at once hide the latency of fma
  return static_cast<int>(smaller(max_panels, Vec<Real>::accumulators / vectors));
}

// The left operand: element (row, k) at data[row*stride + k], or, with k outermost (a transpose), data[k*stride + row].
template <class Real>
struct Operand {
  const Real* data;
  int64_t stride;
  bool k_outermost = false;

  const Real* at(int64_t row) const { return data + (k_outermost ? row : row * stride); }
};

// Where a tile's accumulators start and end: vector v of row r of panel p at data[p*panel_stride + r*row_stride + v*lanes].
template <class Real>
struct Accumulators {
  Real* data;
  int64_t row_stride;
  int64_t panel_stride;
};

template <class Real, int R, int N, int P, bool k_outermost>
void tile(Accumulators<Real> c, const Real* a, int64_t a_stride, const Real* b, int64_t b_panel_stride, int64_t K) {
  using V = Vec<Real>;
  const int64_t a_row = k_outermost ? 1 : a_stride, a_k = k_outermost ? a_stride : 1;
  V acc[P][R][N];
  RNNKERNELS_UNROLL
  for (int p = 0; p < P; ++p) {
    RNNKERNELS_UNROLL
    for (int r = 0; r < R; ++r) {
      RNNKERNELS_UNROLL
      for (int v = 0; v < N; ++v) acc[p][r][v] = V::load(c.data + p * c.panel_stride + r * c.row_stride + v * V::lanes);
    }
  }
  for (int64_t k = 0; k < K; ++k, a += a_k, b += N * V::lanes) {
    RNNKERNELS_UNROLL
    for (int p = 0; p < P; ++p) {
      V weight[N];
      RNNKERNELS_UNROLL
      for (int v = 0; v < N; ++v) weight[v] = V::load(b + p * b_panel_stride + v * V::lanes);
      RNNKERNELS_UNROLL
      for (int r = 0; r < R; ++r) {
        const V x(a[r * a_row]);
        RNNKERNELS_UNROLL
        for (int v = 0; v < N; ++v) acc[p][r][v] = fma(x, weight[v], acc[p][r][v]);
      }
    }
  }
  RNNKERNELS_UNROLL
  for (int p = 0; p < P; ++p) {
    RNNKERNELS_UNROLL
    for (int r = 0; r < R; ++r) {
      RNNKERNELS_UNROLL
      for (int v = 0; v < N; ++v) acc[p][r][v].store(c.data + p * c.panel_stride + r * c.row_stride + v * V::lanes);
    }
  }
}

template <class Real>
using TileFunction = void (*)(Accumulators<Real>, const Real*, int64_t, const Real*, int64_t, int64_t);

template <class Real, int N, bool k_outermost, int R>
constexpr TileFunction<Real> tile_of_rows() {
  if constexpr (R <= rows_per_tile<Real>(N)) {
    return tile<Real, R, N, 1, k_outermost>;
  } else {
    return nullptr;
  }
}

// accumulate(rows, panels): the tile for that many rows (1 .. rows_per_tile) of one panel, or one row of several panels.
template <class Real, int N, bool k_outermost>
void accumulate_n(int rows, int panels, Accumulators<Real> c, const Real* a, int64_t a_stride, const Real* b,
                  int64_t b_panel_stride, int64_t K) {
  static constexpr TileFunction<Real> by_rows[max_rows] = {
      tile_of_rows<Real, N, k_outermost, 1>(),  tile_of_rows<Real, N, k_outermost, 2>(),
      tile_of_rows<Real, N, k_outermost, 3>(),  tile_of_rows<Real, N, k_outermost, 4>(),
      tile_of_rows<Real, N, k_outermost, 5>(),  tile_of_rows<Real, N, k_outermost, 6>(),
      tile_of_rows<Real, N, k_outermost, 7>(),  tile_of_rows<Real, N, k_outermost, 8>(),
      tile_of_rows<Real, N, k_outermost, 9>(),  tile_of_rows<Real, N, k_outermost, 10>(),
      tile_of_rows<Real, N, k_outermost, 11>(), tile_of_rows<Real, N, k_outermost, 12>()};
  if (panels > 1) {
    tile<Real, 1, N, panels_per_row<Real>(N), k_outermost>(c, a, a_stride, b, b_panel_stride, K);
  } else {
    by_rows[rows - 1](c, a, a_stride, b, b_panel_stride, K);
  }
}

// c += a b for one tile: N vectors, `rows` rows of `a` from `row` on, and `panels` panels (1, or panels_per_row with one row).
template <class Real>
void accumulate(int N, int rows, int panels, Accumulators<Real> c, const Operand<Real>& a, int64_t row, const Real* b,
                int64_t b_panel_stride, int64_t K) {
  const Real* start = a.at(row);
  const auto run = [&](auto contiguous, auto transposed) {
    a.k_outermost ? transposed(rows, panels, c, start, a.stride, b, b_panel_stride, K)
                  : contiguous(rows, panels, c, start, a.stride, b, b_panel_stride, K);
  };
  switch (N) {
    case 1: return run(accumulate_n<Real, 1, false>, accumulate_n<Real, 1, true>);
    case 2: return run(accumulate_n<Real, 2, false>, accumulate_n<Real, 2, true>);
    case 3: return run(accumulate_n<Real, 3, false>, accumulate_n<Real, 3, true>);
    case 4: return run(accumulate_n<Real, 4, false>, accumulate_n<Real, 4, true>);
  }
}

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// Calls body(row, rows, panel, panels) for tiles that cover rows x panels.
template <class Real, class Body>
inline void for_each_tile(Range rows, Range panels, int N, const Body& body) {
  const int64_t tallest = rows_per_tile<Real>(N), widest = panels_per_row<Real>(N);
  int64_t panel = panels.begin;
  if (rows.size() == 1) {
    for (; panel + widest <= panels.end; panel += widest) body(rows.begin, 1, panel, static_cast<int>(widest));
  }
  for (; panel < panels.end; ++panel) {
    for (int64_t row = rows.begin; row < rows.end; row += tallest) {
      body(row, static_cast<int>(smaller(tallest, rows.end - row)), panel, 1);
    }
  }
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

// The right operand of an ordinary product: K x columns, in panels of N vectors; the last panel is padded with zeros.
template <class Real>
struct PackedMatrix {
  Real* data;
  int64_t K;
  int64_t columns;
  int N;

  // Narrow matrices take one vector a panel, so that the second is not computed for nothing.
  PackedMatrix(int64_t K_, int64_t columns_)
      : data(nullptr), K(K_), columns(columns_), N(columns_ > Vec<Real>::lanes ? 2 : 1) {}

  int64_t width() const { return N * Vec<Real>::lanes; }
  int64_t panels() const { return ceil_div(columns, width()); }
  int64_t panel_size() const { return K * width(); }
  int64_t size() const { return panels() * panel_size(); }

  // Row k of the matrix is at row(k), or absent (zeros) where that is null.
  template <class Row>
  void pack(Range own_panels, const Row& row) const {
    using V = Vec<Real>;
    for (int64_t p = own_panels.begin; p < own_panels.end; ++p) {
      Real* to = data + p * panel_size();
      for (int64_t k = 0; k < K; ++k) {
        const Real* from = row(k);
        for (int v = 0; v < N; ++v, to += V::lanes) {
          const int64_t column = p * width() + v * V::lanes;
          const int n = static_cast<int>(larger(0, smaller(V::lanes, columns - column)));
          (from && n ? V::load(from + column, n) : V(0)).store(to);
        }
      }
    }
  }

  // The matrix is the transpose of w (columns, K).
  void pack_transposed(Range own_panels, const Real* w) const {
    for (int64_t p = own_panels.begin; p < own_panels.end; ++p) {
      for (int v = 0; v < N; ++v) {
        const int64_t column = p * width() + v * Vec<Real>::lanes;
        pack_lanes(data + p * panel_size() + v * Vec<Real>::lanes, width(), w + column * K, K, columns - column, K);
      }
    }
  }

  // One vector of a panel: lane l of row k is from[l*from_stride + k] for l < valid, else 0.
  static void pack_lanes(Real* to, int64_t to_stride, const Real* from, int64_t from_stride, int64_t valid, int64_t K) {
    using V = Vec<Real>;
    for (int64_t k = 0; k < K; k += V::lanes) {
      const int n = static_cast<int>(smaller(V::lanes, K - k));
      V square[V::lanes];
      for (int l = 0; l < V::lanes; ++l) square[l] = l < valid ? V::load(from + l * from_stride + k, n) : V(0);
      transpose(square);
      for (int l = 0; l < n; ++l) square[l].store(to + (k + l) * to_stride);
    }
  }
};

// out = a b over rows x panels of b, tile by tile: init(tile, row, rows, column) fills the accumulators,
// done(tile, row, rows, column) takes the sums; `tile` is [rows][N*lanes] and column is the first of its columns.
template <class Real, class Init, class Done>
inline void multiply(const Operand<Real>& a, const PackedMatrix<Real>& b, Range rows, Range panels, const Init& init,
                     const Done& done) {
  alignas(cache_line) Real buffer[2 * max_rows * Vec<Real>::lanes];  // R*N and P*N are at most `accumulators` vectors
  static_assert(Vec<Real>::accumulators <= 2 * max_rows);
  const int64_t width = b.width();
  for_each_tile<Real>(rows, panels, b.N, [&](int64_t row, int count, int64_t panel, int wide) {
    for (int p = 0; p < wide; ++p) init(buffer + p * width, row, count, (panel + p) * width);
    accumulate<Real>(b.N, count, wide, {buffer, width, width}, a, row, b.data + panel * b.panel_size(), b.panel_size(),
                     b.K);
    for (int p = 0; p < wide; ++p) done(buffer + p * width, row, count, (panel + p) * width);
  });
}

// Calls body(vector offset within the row, column, valid lanes) for each vector of a tile's row that has a column.
template <class Real, class Body>
inline void for_each_vector(int64_t width, int64_t column, int64_t columns, const Body& body) {
  constexpr int lanes = Vec<Real>::lanes;
  for (int64_t v = 0; v < width && column + v < columns; v += lanes) {
    body(v, column + v, static_cast<int>(smaller(lanes, columns - column - v)));
  }
}

// Asks for n elements ahead of their use.
template <class Real>
inline void prefetch(const Real* p, int64_t n) {
  for (int64_t i = 0; i < n; i += cache_line / static_cast<int64_t>(sizeof(Real))) __builtin_prefetch(p + i);
}

template <class Real>
inline void fill_zero(Real* p, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = 0;
}

RNNKERNELS_END_NAMESPACE
