// Products of bfloat16 numbers by AVX512-BF16: those of gemm.h, of pairs. Of a split left operand the product of the high numbers
// comes first, then that of the low ones.
#pragma once

#include "pairs.h"

RNNKERNELS_BEGIN_NAMESPACE

struct SplitRows {
  Operand<Bf16Pair> high, low;
};

template <class Real>
void accumulate(int N, int rows, int panels, const Sums<Real>& c, const SplitRows& a, int64_t row,
                const Panels<Bf16Pair>& b) {
  accumulate(N, rows, panels, c, a.high, row, b);
  accumulate(N, rows, panels, Sums<Real>::in_place(c.to, c.row_stride, c.panel_stride), a.low, row, b);
}

// What ForwardLayer asks of a matrix (matrix.h).
struct Bf16Products {
  using Weight = Bf16Pair;
  using Rows = Operand<Bf16Pair>;
  using Panels = rnnkernels::RNNKERNELS_ISA::Panels<Bf16Pair>;
  static constexpr bool vectors_apart = false;

  static Rows operand(const uint16_t* rows, int64_t stride) { return {pairs_at(rows), stride / 2}; }
  static SplitRows operand(SplitBf16s rows, int64_t stride) {
    return {operand(rows.high, stride), operand(rows.low, stride)};
  }
  static Panels panels(const uint16_t* data, int64_t pairs, int N, Range all, const Tile& tile) {
    return panels_at(pairs_at(data), pairs, N, all, tile);
  }
  static int64_t K_in_blocks(int64_t pairs) { return pairs; }
};

RNNKERNELS_END_NAMESPACE
