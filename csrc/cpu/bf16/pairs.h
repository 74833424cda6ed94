// Backward with products of pairs of bfloat16 numbers, by whatever instruction multiplies them (matrix.h chooses).
#pragma once

#include "../backward.h"
#include "numbers.h"

RNNKERNELS_BEGIN_NAMESPACE

inline const Bf16Pair* pairs_at(const uint16_t* numbers) { return reinterpret_cast<const Bf16Pair*>(numbers); }

// Rows of a matrix are numbers of 16 bits, or become them.
template <>
struct Terms<Bf16Pair> {
  static constexpr int group = 2, whole = bf16_group;

  template <class Pointer>
  static RNNKERNELS_INLINE Vec<Bf16Pair> load(const Pointer* rows, int64_t column, int n) {
    const auto zeros = Vec<uint16_t>::to_bf16(Vec<float>(0));
    const auto part = [&](const Pointer& row) { return row && n ? bits_of(row + column, n) : zeros; };
    return Vec<Bf16Pair>::join(part(rows[0]), part(rows[1]));
  }

 private:
  static Vec<uint16_t> bits_of(Halves p, int n) { return Vec<uint16_t>::load(p.data, n); }
  static Vec<uint16_t> bits_of(Bf16s p, int n) { return Vec<uint16_t>::load(p.data, n); }
  template <class Pointer>
  static Vec<uint16_t> bits_of(Pointer p, int n) {
    return Vec<uint16_t>::to_bf16(read(p, n));
  }
};

// Gradients of gates are rounded to bfloat16, as all else in products is.
struct PairProducts {
  using Number = Bf16Pair;
  using Gates = Bf16s;
  using Stored = uint16_t;
  using Multiplier = Bf16Multiplier;

  static Operand<Number> operand(Gates rows, int64_t stride) { return {pairs_at(rows.data), stride / 2}; }
  static Number* numbers(Gates at) { return reinterpret_cast<Number*>(at.data); }
};

// Backward. Roundings of gate gradients average out in a sum of many terms, and beside the largest of many sums; a layer that
// has few of either computes in float32, and a small one gains nothing from pairs.
template <class Cell>
class Bf16Backward {
  using Pairs = BackwardLayer<float, Cell, Half, PairProducts>;
  using Widened = BackwardLayer<float, Cell, Half>;
  static constexpr int64_t many_units = 64, many_inputs = 16;

 public:
  explicit Bf16Backward(const LayerBackwardCall& call_)
      : call(call_), in_pairs(call.H >= many_units && (call.ids || call.I >= many_inputs)) {}

  size_t scratch_size() const { return in_pairs ? Pairs(call).scratch_size() : Widened(call).scratch_size(); }
  void run(const Team& team) const { in_pairs ? Pairs(call).run(team) : Widened(call).run(team); }

 private:
  const LayerBackwardCall& call;
  const bool in_pairs;
};

RNNKERNELS_END_NAMESPACE
