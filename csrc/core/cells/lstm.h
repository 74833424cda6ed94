// LSTM (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).  Gates i, f, g, o.
//   c = f*c_prev + i*g      h = o*tanh(c)
#pragma once

#include "../math.h"

RNNKERNELS_BEGIN_NAMESPACE

struct Lstm {
  enum Gate { I, F, G, O, gates };
  static constexpr int slots = gates;  // values that live between the matrix products and the equations
  static constexpr int x_first = 0, x_count = 4;
  static constexpr int h_first = 0, h_count = 4;
  static constexpr int gate_of_slot[slots] = {I, F, G, O};
  static constexpr int saved_gates = 4;
  static constexpr int saved_index[slots] = {I, F, G, O};
  static constexpr bool has_c = true, reset_before = false;

  // a: pre-activations, then gates.
  template <class V>
  static RNNKERNELS_INLINE void forward(V (&a)[slots], V /*h_prev*/, V c_prev, V& h, V& c) {
    V i = a[I] = sigmoid(a[I]);
    V f = a[F] = sigmoid(a[F]);
    V g = a[G] = tanh(a[G]);
    V o = a[O] = sigmoid(a[O]);
    c = fma(f, c_prev, i * g);
    h = o * tanh(c);
  }

  // dh: the whole gradient of h; leaves what reaches h_prev other than through the gates (nothing).
  // dc: the gradient of c from the step after; leaves that of c_prev.
  template <class V>
  static RNNKERNELS_INLINE void backward(const V (&a)[slots], V /*h_prev*/, V /*h*/, V c_prev, V c, V& dh, V& dc,
                                         V (&da)[slots]) {
    V i = a[I], f = a[F], g = a[G], o = a[O], one(1);
    V t = tanh(c);
    dc = fma(dh * o, one - t * t, dc);
    da[I] = dc * g * (i * (one - i));
    da[F] = dc * c_prev * (f * (one - f));
    da[G] = dc * i * (one - g * g);
    da[O] = dh * t * (o * (one - o));
    dc = dc * f;
    dh = V(0);
  }
};

RNNKERNELS_END_NAMESPACE
