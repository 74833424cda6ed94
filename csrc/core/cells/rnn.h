// Vanilla RNN (Elman 1990).   h = tanh(a)   or   h = relu(a)      a = W_ih x + b_ih + W_hh h_prev + b_hh
// Backward needs nothing but h: both derivatives can be read off the output.
#pragma once

#include "../math.h"

RNNKERNELS_BEGIN_NAMESPACE

struct RnnBase {
  static constexpr int gates = 1, slots = 1;
  static constexpr int x_first = 0, x_count = 1;
  static constexpr int h_first = 0, h_count = 1;
  static constexpr int gate_of_slot[slots] = {0};
  static constexpr int saved_gates = 0;
  static constexpr int saved_index[slots] = {0};
  static constexpr bool has_c = false, reset_before = false;
};

struct RnnTanh : RnnBase {
  template <class V>
  static RNNKERNELS_INLINE void forward(V (&a)[slots], V, V, V& h, V&) {
    h = tanh(a[0]);
  }

  template <class V>
  static RNNKERNELS_INLINE void backward(const V (&)[slots], V, V h, V, V, V& dh, V&, V (&da)[slots]) {
    da[0] = dh * (V(1) - h * h);
    dh = V(0);
  }
};

struct RnnRelu : RnnBase {
  template <class V>
  static RNNKERNELS_INLINE void forward(V (&a)[slots], V, V, V& h, V&) {
    h = relu(a[0]);
  }

  template <class V>
  static RNNKERNELS_INLINE void backward(const V (&)[slots], V, V h, V, V, V& dh, V&, V (&da)[slots]) {
    da[0] = zero_where_not_positive(h, dh);
    dh = V(0);
  }
};

RNNKERNELS_END_NAMESPACE
