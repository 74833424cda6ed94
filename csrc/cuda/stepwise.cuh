// What a step of a layer does once its products are there: the cell, forward and backward, a thread a unit of a sequence. The
// simplest tier, for any cell, type and size; the truth on the device for faster ones.
#pragma once

#include <type_traits>

#include "../core/cells/gru.h"
#include "../core/cells/lstm.h"
#include "../core/cells/rnn.h"
#include "arrays.cuh"
#include "product.cuh"

namespace rnnkernels::cuda {

// reset_before takes two products a step: of h and of r*h, or of dgates of r and z and of n.
enum class Phase { whole, reset, after_reset };

constexpr int step_threads = 128;

// act(slot) for slots from `slot` up to `end`, as constants: nvcc knows the elements of a cell's arrays by these alone.
template <int slot, int end, class Act>
__device__ __forceinline__ void for_slots(Act act) {
  if constexpr (slot < end) {
    act(std::integral_constant<int, slot>());
    for_slots<slot + 1, end>(act);
  }
}

// The slots that products add to: x's, and the state's of a phase.
template <class Cell, int slot>
constexpr bool of_x = slot >= Cell::x_first && slot < Cell::x_first + Cell::x_count;

template <class Cell, Phase phase>
struct StateSlots {
  static constexpr bool last_gate = phase == Phase::after_reset;
  static constexpr int first = last_gate ? Cell::gates - 1 : Cell::h_first;
  static constexpr int count = last_gate ? 1 : Cell::h_count;
  template <int slot>
  static constexpr bool has = slot >= first && slot < first + count;
};

// The gates of slots from `first` on.
template <class Cell>
constexpr GateOrder gate_order(int first) {
  GateOrder order = {0};
  for (int slot = first; slot < Cell::slots; ++slot)
    order.packed |= static_cast<uint32_t>(Cell::gate_of_slot[slot]) << 4 * (slot - first);
  return order;
}

// The unit and sequence of a thread, in a grid of sequences and blocks of units.
struct StepPlace {
  int unit = static_cast<int>(blockIdx.y) * step_threads + static_cast<int>(threadIdx.x);
  int b = static_cast<int>(blockIdx.x);
};

// ---- forward

// Of step t; arrays of this step are given by their first element. Absent: null.
template <class T>
struct StepForward {
  using Real = Wide<T>;

  Sequences sequences;
  int64_t t;
  int H;
  const Real* xg;     // (B, G*H)
  Partials<Real> hg;  // (B, rows of w_hh of the product), without bias
  const T* b_hh;      // (G*H)
  const T* h_prev;    // (B, h_stride)
  T* h;               // the state after, of sequences that have ended too
  int64_t h_stride;
  Real* c;  // (B, H): replaced
  T* y;     // (B, y_stride)
  int64_t y_stride;
  T *gates, *saved_h;    // (B, saved_gates*H), (B, H)
  Real* saved_c;         // (B, H)
  T* reset_h;            // (B, h_stride): r*h_prev of reset_before, rounded
  Real *reset, *update;  // (B, H): its r and z
};

template <class Cell, class T, Phase phase>
__global__ void __launch_bounds__(step_threads) step_forward(StepForward<T> a) {
  using Real = Wide<T>;
  using V = Lane<Real>;
  using State = StateSlots<Cell, phase>;
  const StepPlace place;
  const int unit = place.unit, b = place.b;
  if (unit >= a.H) return;
  const int64_t at = static_cast<int64_t>(b) * a.H + unit, state_at = b * a.h_stride + unit;
  const bool runs = a.sequences.has(a.t, b);
  const V h_prev = V(widen(a.h_prev[state_at])), c_prev = V(Cell::has_c ? a.c[at] : Real(0));
  Real hg[State::count];
  a.hg.add_up(hg, unit, a.H, b);

  V gates[Cell::slots];
  for_slots<0, Cell::slots>([&](auto s) {
    constexpr int slot = decltype(s)::value, gate = Cell::gate_of_slot[slot];
    const int64_t j = static_cast<int64_t>(gate) * a.H + unit;
    Real sum = 0;
    if constexpr (of_x<Cell, slot> && (phase == Phase::whole || State::template has<slot>))
      sum = a.xg[static_cast<int64_t>(b) * Cell::gates * a.H + j];
    else if (phase == Phase::whole && a.b_hh)
      sum = widen(a.b_hh[j]);
    if constexpr (State::template has<slot>) sum += hg[slot - State::first];
    gates[slot] = V(sum);
  });
  if constexpr (phase == Phase::reset) {
    const V reset_h = Cell::reset(gates, h_prev);
    a.reset[at] = gates[Cell::R].v, a.update[at] = gates[Cell::Z].v;
    narrow(runs ? reset_h.v : Real(0), a.reset_h[state_at]);
  } else {
    if constexpr (phase == Phase::after_reset) gates[Cell::R] = V(a.reset[at]), gates[Cell::Z] = V(a.update[at]);
    V h = V(0), c = V(0);
    Cell::forward(gates, h_prev, c_prev, h, c);
    T stored, zero;
    narrow(h.v, stored), narrow(Real(0), zero);
    a.h[state_at] = runs ? stored : a.h_prev[state_at];
    if (Cell::has_c && runs) a.c[at] = c.v;
    if (a.y) a.y[b * a.y_stride + unit] = runs ? stored : zero;
    if (a.saved_h) a.saved_h[at] = runs ? stored : zero;
    if (Cell::has_c && a.saved_c) a.saved_c[at] = runs ? c.v : 0;
    if (Cell::saved_gates > 0 && a.gates)
      for_slots<0, Cell::slots>([&](auto s) {
        constexpr int slot = decltype(s)::value, saved = Cell::saved_index[slot];
        narrow(runs ? gates[slot].v : Real(0),
               a.gates[(static_cast<int64_t>(b) * Cell::saved_gates + saved) * a.H + unit]);
      });
  }
}

// ---- backward. d holds dgates of a step, (B, slots, padded); dh and dc are (B, H), in Real whatever T is

template <class T>
struct StepBackward {
  using Real = Wide<T>;

  Sequences sequences;
  int64_t t;
  int H, padded;
  Partials<Real> product;  // (B, H): what dgates of the step `of_product` give to h before it; or of this one, to r*h
  int64_t of_product;      // < 0: there is no such step
  Real *dh, *dc;
  const T* dy;
  int64_t dy_stride;
  const T *gates, *h;  // of this step
  const Real* c;
  const T *all_h, *h0;  // (T, B, H), (B, H)
  const Real *all_c, *c0;
  Real* d;        // of this step
  Real* reset_h;  // (B, padded): r*h_prev

  // Where no step of the sequence was there, dgates are zeros, but weights need not be finite.
  __device__ __forceinline__ Real product_at(int b, int unit) const {
    return of_product >= 0 && sequences.has(of_product, b) ? product.at(unit, b) : 0;
  }
  __device__ __forceinline__ Real h_before(int b, int unit) const {
    if (sequences.has_before(t, b)) return widen(all_h[(sequences.before(t) * sequences.B + b) * H + unit]);
    return h0 ? widen(h0[static_cast<int64_t>(b) * H + unit]) : 0;
  }
  __device__ __forceinline__ Real c_before(int b, int unit) const {
    if (sequences.has_before(t, b)) return all_c[(sequences.before(t) * sequences.B + b) * H + unit];
    return c0 ? c0[static_cast<int64_t>(b) * H + unit] : 0;
  }
};

// dh += the product, where no step follows.
template <class T>
__global__ void __launch_bounds__(step_threads) finish_gradient(StepBackward<T> a) {
  const StepPlace place;
  const int unit = place.unit, b = place.b;
  if (unit < a.H) a.dh[static_cast<int64_t>(b) * a.H + unit] += a.product_at(b, unit);
}

template <class Cell, class T, Phase phase>
__global__ void __launch_bounds__(step_threads) step_backward(StepBackward<T> a) {
  using Real = Wide<T>;
  using V = Lane<Real>;
  const StepPlace place;
  const int unit = place.unit, b = place.b;
  if (unit >= a.H) return;
  const int64_t at = static_cast<int64_t>(b) * a.H + unit;
  const bool runs = a.sequences.has(a.t, b);
  Real* d = a.d + static_cast<int64_t>(b) * Cell::slots * a.padded + unit;
  auto saved = [&](int index) {
    return V(widen(a.gates[(static_cast<int64_t>(b) * Cell::saved_gates + index) * a.H + unit]));
  };
  V dh = V(a.dh[at]);
  if constexpr (phase == Phase::after_reset) {
    const V r = saved(Cell::R), h_prev = V(a.h_before(b, unit));
    V da_r = V(0);
    Cell::reset_backward(r, h_prev, V(a.product_at(b, unit)), dh, da_r);
    d[0] = runs ? da_r.v : 0;
    a.reset_h[static_cast<int64_t>(b) * a.padded + unit] = runs ? (r * h_prev).v : 0;
    if (runs) a.dh[at] = dh.v;
  } else {
    dh = dh + V(a.product_at(b, unit));
    V dc = V(Cell::has_c ? a.dc[at] : Real(0)), gates[Cell::slots], da[Cell::slots];
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
      constexpr int slot = decltype(s)::value;
      d[slot * a.padded] = da[slot].v;
    });
    a.dh[at] = dh.v;
    if (Cell::has_c) a.dc[at] = dc.v;
  }
}

}  // namespace rnnkernels::cuda
