// GRU (Cho et al. 2014).  Gates r, z, n.  Two forms, which differ in where the reset gate acts.
//   reset_after  (cuDNN, PyTorch):   n = tanh(xn + r*hn)       hn = W_hn h_prev + b_hn
//   reset_before (the paper):        n = tanh(xn + W_hn (r*h_prev) + b_hn)
//   h = (1 - z)*n + z*h_prev
#pragma once

#include "../math.h"

RNNKERNELS_BEGIN_NAMESPACE

// What both forms share once n is known.
template <class V>
RNNKERNELS_INLINE V gru_output(V z, V n, V h_prev) {
  return fma(z, h_prev - n, n);
}

// From dh to the pre-activations of z and n; dh leaves as the part that reaches h_prev directly.
template <class V>
RNNKERNELS_INLINE void gru_output_backward(V z, V n, V h_prev, V& dh, V& da_z, V& da_n) {
  V one(1);
  da_z = dh * (h_prev - n) * (z * (one - z));
  da_n = dh * (one - z) * (one - n * n);
  dh = dh * z;
}

struct Gru {
  enum Gate { R, Z, N, gates };
  // x contributes to the first three slots, h to the last three: n is kept apart as xn and hn, since r scales hn alone.
  enum Slot { XN, SR, SZ, HN };
  static constexpr int slots = 4;
  static constexpr int x_first = 0, x_count = 3;
  static constexpr int h_first = 1, h_count = 3;
  static constexpr int gate_of_slot[slots] = {N, R, Z, N};
  static constexpr int saved_gates = 4;  // r, z, n, hn
  static constexpr int saved_index[slots] = {2, 0, 1, 3};
  static constexpr bool has_c = false, reset_before = false;

  template <class V>
  static RNNKERNELS_INLINE void forward(V (&a)[slots], V h_prev, V /*c_prev*/, V& h, V& /*c*/) {
    V r = a[SR] = sigmoid(a[SR]);
    V z = a[SZ] = sigmoid(a[SZ]);
    V n = a[XN] = tanh(fma(r, a[HN], a[XN]));
    h = gru_output(z, n, h_prev);
  }

  template <class V>
  static RNNKERNELS_INLINE void backward(const V (&a)[slots], V h_prev, V /*h*/, V, V, V& dh, V& /*dc*/,
                                         V (&da)[slots]) {
    V r = a[SR], z = a[SZ], n = a[XN], hn = a[HN], one(1);
    gru_output_backward(z, n, h_prev, dh, da[SZ], da[XN]);
    da[HN] = da[XN] * r;
    da[SR] = da[XN] * hn * (r * (one - r));
  }
};

struct GruResetBefore {
  enum Gate { R, Z, N, gates };
  static constexpr int slots = gates;
  static constexpr int x_first = 0, x_count = 3;
  static constexpr int h_first = 0, h_count = 2;  // r and z see h_prev; n sees r*h_prev, in a second product
  static constexpr int gate_of_slot[slots] = {R, Z, N};
  static constexpr int saved_gates = 3;
  static constexpr int saved_index[slots] = {R, Z, N};
  static constexpr bool has_c = false, reset_before = true;

  // Before the second product: r and z, and the r*h_prev it multiplies.
  template <class V>
  static RNNKERNELS_INLINE V reset(V (&a)[slots], V h_prev) {
    a[R] = sigmoid(a[R]);
    a[Z] = sigmoid(a[Z]);
    return a[R] * h_prev;
  }

  template <class V>
  static RNNKERNELS_INLINE void forward(V (&a)[slots], V h_prev, V /*c_prev*/, V& h, V& /*c*/) {
    V n = a[N] = tanh(a[N]);
    h = gru_output(a[Z], n, h_prev);
  }

  template <class V>
  static RNNKERNELS_INLINE void backward(const V (&a)[slots], V h_prev, V /*h*/, V, V, V& dh, V& /*dc*/,
                                         V (&da)[slots]) {
    gru_output_backward(a[Z], a[N], h_prev, dh, da[Z], da[N]);
  }

  // After drh = W_hn^T da[N], the gradient of r*h_prev. dh: what reaches h_prev directly.
  template <class V>
  static RNNKERNELS_INLINE void reset_backward(V r, V h_prev, V drh, V& dh, V& da_r) {
    da_r = drh * h_prev * (r * (V(1) - r));
    dh = fma(drh, r, dh);
  }
};

RNNKERNELS_END_NAMESPACE
