// One step of one layer as one kernel (two for reset_before): the product with h or with dgates, and the cell in registers on
// top. The simplest tier, for any cell, type and size; the truth on the device for faster ones.
//
// A block owns 16 units of 32 sequences, a thread all gates of its units. Sums go on from x's projection in ascending k,
// so that where nvcc contracts nothing (--fmad=false) float32 and float64 have the bits of the CPU's kernels.
#pragma once

#include <type_traits>

#include "../core/cells/gru.h"
#include "../core/cells/lstm.h"
#include "../core/cells/rnn.h"
#include "arrays.cuh"
#include "product.cuh"

namespace rnnkernels::cuda {

// reset_before takes two products a step, of h and of r*h, or of dgates of r and z and of n.
enum class Phase { whole, reset, after_reset };

// act(slot) for slots from `slot` up to `end`, as constants: nvcc knows the elements of a cell's arrays by these alone.
template <int slot, int end, class Act>
__device__ __forceinline__ void for_slots(Act act) {
  if constexpr (slot < end) {
    act(std::integral_constant<int, slot>());
    for_slots<slot + 1, end>(act);
  }
}

// The slots that a product with the state adds to.
template <class Cell, Phase phase>
struct StateSlots {
  static constexpr bool last_gate = phase == Phase::after_reset;
  static constexpr int first = last_gate ? Cell::gates - 1 : Cell::h_first;
  static constexpr int count = last_gate ? 1 : Cell::h_count;
  template <int slot>
  static constexpr bool has = slot >= first && slot < first + count;

  static constexpr uint32_t pack_gates() {
    uint32_t packed = 0;
    for (int i = 0; i < count; ++i) packed |= static_cast<uint32_t>(Cell::gate_of_slot[first + i]) << 4 * i;
    return packed;
  }
  static constexpr uint32_t gates = pack_gates();  // of the slots, 4 bits each: nvcc has no arrays of constants by index
};

template <class Cell, int slot>
constexpr bool x_adds_to = slot >= Cell::x_first && slot < Cell::x_first + Cell::x_count;

constexpr int step_units = 16, step_sequences = 32;

inline dim3 step_grid(int B, int H) {
  return dim3((B + step_sequences - 1) / step_sequences, (H + step_units - 1) / step_units);
}

// ---- forward

// Of step t; arrays of this step are given by their first element. Absent: null.
template <class Number>
struct StepForward {
  using T = typename Number::T;
  using Real = typename Number::Real;

  Sequences sequences;
  int64_t t;
  int H;
  const Real* xg;  // (B, G*H)
  Rows<T> w_hh;    // (G*H, H)
  const T* b_hh;
  Rows<T> h_prev;  // (B, H)
  T* h;            // (B, stride of h_prev): the state after, of sequences that have ended too
  Real* c;         // (B, H): replaced
  T* y;            // (B, y_stride)
  int64_t y_stride;
  T *gates, *saved_h;         // (B, saved_gates*H), (B, H)
  Real* saved_c;              // (B, H)
  Rows<T> reset_h;            // (B, H): r*h_prev of reset_before, rounded
  Real *reset_gate, *update;  // (B, H): its r and z
};

// The rows of w_hh for a block's units, one slot after the other.
template <class Cell, Phase phase, class T>
struct StateWeights {
  const T* data;
  int64_t stride;
  int first_unit, H;

  __device__ __forceinline__ const T* row(int i) const {
    constexpr uint32_t gates = StateSlots<Cell, phase>::gates;
    const int unit = first_unit + i % step_units, gate = static_cast<int>(gates >> i / step_units * 4 & 15);
    return unit < H ? data + (static_cast<int64_t>(gate) * H + unit) * stride : nullptr;
  }
};

template <class Cell, class Number, Phase phase>
__global__ void __launch_bounds__(128, 1) step_forward(StepForward<Number> a) {
  using T = typename Number::T;
  using Real = typename Number::Real;
  using V = Lane<Real>;
  using State = StateSlots<Cell, phase>;
  using Block = Product<typename Number::Forward, State::count, 1>;
  SharedMemory memory;
  uint32_t* shared = memory.take<uint32_t>(Block::shared_words);
  const int first_unit = blockIdx.y * step_units, first_sequence = blockIdx.x * step_sequences;
  const int64_t G_H = static_cast<int64_t>(Cell::gates) * a.H;

  Block block;
  Block::for_each_place([&](int tile, int e, int row, int column) {
    const int unit = first_unit + row, b = first_sequence + column;
    const bool owns = unit < a.H && b < a.sequences.B;
    for_slots<State::first, State::first + State::count>([&](auto s) {
      constexpr int slot = decltype(s)::value, gate = Cell::gate_of_slot[slot];
      const int64_t j = static_cast<int64_t>(gate) * a.H + unit;
      Real begin = 0;
      if (owns && x_adds_to<Cell, slot>) begin = a.xg[b * G_H + j];
      if (owns && !x_adds_to<Cell, slot> && a.b_hh) begin = widen(a.b_hh[j]);
      block.sum[slot - State::first][tile][e] = begin;
    });
  });
  const StateWeights<Cell, phase, T> weights = {a.w_hh.data, a.w_hh.stride, first_unit, a.H};
  block.add(weights, (phase == Phase::after_reset ? a.reset_h : a.h_prev).from(first_sequence), a.H, shared);

  Block::for_each_place([&](int tile, int e, int row, int column) {
    const int unit = first_unit + row, b = first_sequence + column;
    if (unit >= a.H || b >= a.sequences.B) return;
    const int64_t at = static_cast<int64_t>(b) * a.H + unit, state_at = b * a.h_prev.stride + unit;
    const bool runs = a.sequences.has(a.t, b);
    const V h_prev = V(widen(a.h_prev.data[state_at]));
    V gates[Cell::slots];
    for_slots<0, Cell::slots>([&](auto s) {
      constexpr int slot = decltype(s)::value;
      if constexpr (State::template has<slot>) {
        gates[slot] = V(block.sum[slot - State::first][tile][e]);
      } else if constexpr (phase == Phase::whole) {
        constexpr int gate = Cell::gate_of_slot[slot];
        gates[slot] = V(a.xg[b * G_H + static_cast<int64_t>(gate) * a.H + unit]);
      } else {
        gates[slot] = V(0);
      }
    });
    if constexpr (phase == Phase::reset) {
      const V reset_h = Cell::reset(gates, h_prev);
      a.reset_gate[at] = gates[Cell::R].v, a.update[at] = gates[Cell::Z].v;
      narrow(runs ? reset_h.v : Real(0), const_cast<T&>(a.reset_h.data[b * a.reset_h.stride + unit]));
    } else {
      if constexpr (phase == Phase::after_reset)
        gates[Cell::R] = V(a.reset_gate[at]), gates[Cell::Z] = V(a.update[at]);
      V h = V(0), c = V(0);
      Cell::forward(gates, h_prev, V(Cell::has_c ? a.c[at] : Real(0)), h, c);
      T stored, zero;
      narrow(h.v, stored), narrow(Real(0), zero);
      a.h[state_at] = runs ? stored : a.h_prev.data[state_at];
      if (Cell::has_c && runs) a.c[at] = c.v;
      if (a.y) a.y[b * a.y_stride + unit] = runs ? stored : zero;
      if (a.saved_h) a.saved_h[at] = runs ? stored : zero;
      if (Cell::has_c && a.saved_c) a.saved_c[at] = runs ? c.v : 0;
      if (Cell::saved_gates > 0 && a.gates)
        for_slots<0, Cell::slots>([&](auto s) {
          constexpr int slot = decltype(s)::value, saved = Cell::saved_index[slot];
          narrow(runs ? gates[slot].v : Real(0), a.gates[(static_cast<int64_t>(b) * Cell::saved_gates + saved) * a.H + unit]);
        });
    }
  });
}

// ---- backward. d holds dgates of a step: (B, slots, padded), slots in the order that gates are saved in, so that x's are the
// first G; dh and dc are (B, H) and in Real whatever T is

// A part of the columns of d, and of the columns of w_hh^T that go with them.
struct GatePart {
  int64_t d_column, w_column, count;
};

template <class Number>
struct StepBackward {
  using T = typename Number::T;
  using Real = typename Number::Real;

  Sequences sequences;
  int64_t t;
  int H, padded;
  Rows<Real> w_hh_t;  // (H, G*padded)
  Rows<Real> d_later;  // of the step t_later, which was done before; its products are added to dh
  int64_t t_later;     // < 0: there is none
  GatePart parts[2];   // of d_later that add to dh in this product
  Real *dh, *dc;
  const T* dy;
  int64_t dy_stride;
  const T *gates, *h;  // of this step
  const Real* c;
  const T *all_h, *h0;  // (T, B, H), (B, H)
  const Real *all_c, *c0;
  Real* d;        // of this step
  Real* reset_h;  // (B, padded): r*h_prev

  __device__ __forceinline__ Real h_before(int b, int unit) const {
    if (sequences.has_before(t, b)) return widen(all_h[(sequences.before(t) * sequences.B + b) * H + unit]);
    return h0 ? widen(h0[static_cast<int64_t>(b) * H + unit]) : 0;
  }
  __device__ __forceinline__ Real c_before(int b, int unit) const {
    if (sequences.has_before(t, b)) return all_c[(sequences.before(t) * sequences.B + b) * H + unit];
    return c0 ? c0[static_cast<int64_t>(b) * H + unit] : 0;
  }
};

template <class Number>
using BackwardBlock = Product<typename Number::Backward, 1, 1>;

// Products of the block's units and sequences with d_later: act(unit, b, sum).
template <class Number, class Act>
__device__ __forceinline__ void for_each_gradient(const StepBackward<Number>& a, Act act) {
  using Real = typename Number::Real;
  SharedMemory memory;
  uint32_t* shared = memory.take<uint32_t>(BackwardBlock<Number>::shared_words);
  const int first_unit = blockIdx.y * step_units, first_sequence = blockIdx.x * step_sequences;
  BackwardBlock<Number> block;
  block.for_each([](auto& sum, int, int) { sum = 0; });
  auto add = [&](const GatePart& part) {
    Rows<Real> weights = a.w_hh_t.from(first_unit), d = a.d_later.from(first_sequence);
    weights.data += part.w_column, d.data += part.d_column;
    if (part.count) block.add(weights, d, part.count, shared);
  };
  if (a.t_later >= 0) add(a.parts[0]), add(a.parts[1]);  // by constants, so that nvcc copies no array
  block.for_each([&](auto& sum, int row, int column) {
    const int unit = first_unit + row, b = first_sequence + column;
    if (unit < a.H && b < a.sequences.B) act(unit, b, a.t_later >= 0 && a.sequences.has(a.t_later, b) ? sum : Real(0));
  });
}

// dh += its products with d_later, where no step follows.
template <class Number>
__global__ void __launch_bounds__(128, 1) finish_gradient(StepBackward<Number> a) {
  for_each_gradient(a, [&](int unit, int b, auto sum) { a.dh[static_cast<int64_t>(b) * a.H + unit] += sum; });
}

template <class Cell, class Number, Phase phase>
__global__ void __launch_bounds__(128, 1) step_backward(StepBackward<Number> a) {
  using Real = typename Number::Real;
  using V = Lane<Real>;
  for_each_gradient(a, [&](int unit, int b, Real product) {
    const int64_t at = static_cast<int64_t>(b) * a.H + unit;
    Real* d = a.d + static_cast<int64_t>(b) * Cell::slots * a.padded + unit;
    const bool runs = a.sequences.has(a.t, b);
    auto saved = [&](int index) {
      return V(widen(a.gates[(static_cast<int64_t>(b) * Cell::saved_gates + index) * a.H + unit]));
    };
    if constexpr (phase == Phase::after_reset) {
      const V r = saved(Cell::R), h_prev = V(a.h_before(b, unit));
      V dh = V(a.dh[at]), da_r = V(0);
      Cell::reset_backward(r, h_prev, V(product), dh, da_r);
      d[0] = runs ? da_r.v : 0;
      a.reset_h[static_cast<int64_t>(b) * a.padded + unit] = runs ? (r * h_prev).v : 0;
      if (runs) a.dh[at] = dh.v;
    } else {
      V dh = V(a.dh[at] + product), dc = V(Cell::has_c ? a.dc[at] : Real(0)), gates[Cell::slots], da[Cell::slots];
      if (runs && a.dy) dh = dh + V(widen(a.dy[b * a.dy_stride + unit]));
      for_slots<0, Cell::slots>([&](auto s) {
        constexpr int slot = decltype(s)::value, index = Cell::saved_index[slot];
        gates[slot] = Cell::saved_gates > 0 ? saved(index) : V(0);
        da[slot] = V(0);
      });
      if (runs) {
        const V c = V(Cell::has_c ? a.c[at] : Real(0)), c_prev = V(Cell::has_c ? a.c_before(b, unit) : Real(0));
        Cell::backward(gates, V(a.h_before(b, unit)), V(widen(a.h[at])), c_prev, c, dh, dc, da);
      }
      for_slots<0, Cell::slots>([&](auto s) {
        constexpr int slot = decltype(s)::value, index = Cell::saved_index[slot];
        d[index * a.padded] = da[slot].v;
      });
      a.dh[at] = dh.v;
      if (Cell::has_c) a.dc[at] = dc.v;
    }
  });
}

}  // namespace rnnkernels::cuda
