// What forward and backward of a layer share: the order of work, scratch memory, and how a team shares a range.
#pragma once

#include "gemm.h"
#include "kernel.h"

RNNKERNELS_BEGIN_NAMESPACE

using cpu::LayerBackwardCall;
using cpu::LayerForwardCall;
using cpu::Schedule;
using cpu::Team;

// Hands out pieces of one block of scratch. With no block it only counts, so one constructor tells size and layout.
struct Arena {
  char* base;
  size_t used = 0;

  template <class T>
  T* take(int64_t n) {
    T* piece = base && n ? reinterpret_cast<T*>(base + used) : nullptr;  // nothing asked for: null
    used += static_cast<size_t>(round_up(n * static_cast<int64_t>(sizeof(T)), cache_line));
    return piece;
  }
};

template <class T>
inline void take(Arena& arena, int64_t n, T*& piece) {
  piece = arena.take<T>(n);
}

inline Range share(int64_t n, const Team& team) { return {n * team.rank / team.size, n * (team.rank + 1) / team.size}; }

inline Range share_if(bool shared, int64_t n, const Team& team) { return shared ? share(n, team) : Range{0, n}; }

// Rows of a state or of dgates lie this far apart: on cache lines, and never a power of two, which would crowd all rows
// into a few sets of the cache.
template <class Real>
constexpr int64_t padded_stride(int64_t n) {
  constexpr int64_t line = cache_line / sizeof(Real);
  return round_up(n, line) + line;
}

inline int64_t sequence(const Schedule& schedule, int64_t j) { return schedule.order ? schedule.order[j] : j; }

inline int64_t length(const Schedule& schedule, int64_t b) {
  return schedule.lengths ? schedule.lengths[b] : schedule.T;
}

// The (t, b) that row j computes in step s, as a row of the user's (T*B, ...) arrays.
inline int64_t user_row(const Schedule& schedule, int64_t s, int64_t j) {
  const int64_t b = sequence(schedule, j);
  const int64_t t = schedule.reverse ? length(schedule, b) - 1 - s : s;
  return t * schedule.B + b;
}

// Consecutive rows of the order of work are consecutive rows of the user's arrays.
inline bool in_user_order(const Schedule& schedule) { return !schedule.order && !schedule.reverse; }

// Rows of the steps that are projected, or whose weight gradients are summed, together: enough to make the product efficient,
// few enough to stay in cache. Backward's chunks are fixed by the problem alone, as the order of sums must be.
constexpr int64_t chunk_rows_forward = 128, chunk_rows_backward = 256;

inline int64_t chunk_capacity(const Schedule& schedule, int64_t rows) {
  return schedule.steps ? smaller(schedule.first_row[schedule.steps], rows - 1 + schedule.active[0]) : 0;
}

// Rows of this member when the team shares sequences: contiguous, with about equal numbers of `steps`.
inline Range balanced_rows(const Schedule& schedule, Range steps, const Team& team) {
  if (!schedule.lengths) return share(schedule.B, team);
  const Range own = share(schedule.first_row[steps.end] - schedule.first_row[steps.begin], team);
  Range rows{schedule.B, schedule.B};
  int64_t before = 0;
  for (int64_t j = 0; j < schedule.B; ++j) {
    if (before >= own.begin && rows.begin == schedule.B) rows.begin = j;
    if (before >= own.end && rows.end == schedule.B) rows.end = j;
    before += larger(0, smaller(steps.end, length(schedule, sequence(schedule, j))) - steps.begin);
  }
  if (team.rank == 0) rows.begin = 0;
  if (team.rank == team.size - 1) rows.end = schedule.B;
  return {smaller(rows.begin, rows.end), rows.end};
}

// Zeroes `columns` of every padded (t, b) of an array; sequences are shared by the team.
template <class Pointer>
inline void zero_padding(const Schedule& schedule, Pointer array, int64_t stride, int64_t columns, const Team& team) {
  if (!array || !schedule.lengths) return;
  const Range own = share(schedule.B, team);
  for (int64_t b = own.begin; b < own.end; ++b) {
    for (int64_t t = schedule.lengths[b]; t < schedule.T; ++t)
      fill_zero(array + (t * schedule.B + b) * stride, columns);
  }
}

// Calls body(column, sum over the rows) for some columns of a matrix, reading it row by row.
template <class Real, class Pointer, class Body>
inline void for_each_column_sum(Pointer matrix, int64_t stride, int64_t rows, Range columns, const Body& body) {
  constexpr int64_t block = 256;
  for (int64_t first = columns.begin; first < columns.end; first += block) {
    const int64_t n = smaller(block, columns.end - first);
    Real sum[block] = {};
    for (int64_t k = 0; k < rows; ++k) {
      for (int64_t i = 0; i < n; ++i) sum[i] += matrix[k * stride + first + i];
    }
    for (int64_t i = 0; i < n; ++i) body(first + i, sum[i]);
  }
}

template <class Pointer>
inline Pointer row_or_null(Pointer array, int64_t row, int64_t stride) {
  return array ? array + row * stride : Pointer();
}

template <class Pointer>
inline auto load_or_zero(Pointer row, int64_t column, int n) {
  using V = decltype(read(row, n));
  return row ? read(row + column, n) : V(0);
}

RNNKERNELS_END_NAMESPACE
