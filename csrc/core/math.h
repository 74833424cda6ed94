// exp, sigmoid and tanh over a lane type V: a SIMD vector, a CUDA thread's float, a plain double.
//
// V offers: Real, V(Real), + - * /, fma(a, b, c) = a*b + c, max(a, b) = a > b ? a : b (so b when either is NaN), min likewise,
// abs, copysign, ldexp(a, n) with an integral-valued n, power_of_two(b): 2^n of b = n + round_bias where it is normal,
// zero_where_not_positive(x, a). Every V evaluates the same operations in the same order, so results
// are the same bits for all V whose fma is exact. Within 4 ULP where the result is normal (tests/test_math.py).
#pragma once

#include "namespace.h"

RNNKERNELS_BEGIN_NAMESPACE

// Constants of exp(x) = 2^n exp(r), r = x - n ln2, and exp(r) = 1 + r + r^2 q(r); q interpolates at Chebyshev nodes of |r| <= ln2/2.
// ln2 ends in so many zero bits that n*ln2 is exact: where fma rounds twice (scalar.h) nothing is lost either.
template <class Real>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float log2e = 1.442695f, ln2 = 0.69314575f, ln2_rest = 1.4286068e-06f;
  // 1.5 * 2^23 + 127: adding it rounds to an integer n, and leaves n as a biased exponent in the lowest bits.
  static constexpr float round_bias = 12583039.0f;
  static constexpr float lowest = -104.0f;           // exp is 0 below
  static constexpr float highest = 89.0f;            // and infinite above
  static constexpr float sigmoid_vanishes = 88.3f;   // sigmoid(-x) is 0 from here on, where 1 + exp(x) nears overflow
  static constexpr float sigmoid_saturates = 20.0f;  // sigmoid is 1 beyond
  static constexpr float tanh_saturates = 10.0f;     // tanh is +-1 beyond
  static constexpr int terms = 5;
  static constexpr float q[terms] = {0.5f, 0.16666575f, 0.041666552f, 0.008363472f, 0.0013926551f};
};

template <>
struct ExpConstants<double> {
  static constexpr double log2e = 1.4426950408889634, ln2 = 0.6931471803691238, ln2_rest = 1.9082149292705877e-10;
  static constexpr double round_bias = 6755399441056767.0;  // 1.5 * 2^52 + 1023
  static constexpr double lowest = -746.0;
  static constexpr double highest = 710.0;
  static constexpr double sigmoid_vanishes = 709.0;
  static constexpr double sigmoid_saturates = 40.0;
  static constexpr double tanh_saturates = 20.0;
  static constexpr int terms = 10;
  static constexpr double q[terms] = {0.5000000000000001,     0.16666666666666669,   0.04166666666662243,
                                      0.008333333333329931,   0.0013888888918057098, 0.0001984126986370219,
                                      2.4801519991900052e-05, 2.755726745716343e-06, 2.762070569712557e-07,
                                      2.5100860168090098e-08};
};

#ifdef __CUDACC__
// sum r + K::q[i], and so on down to K::q[0]. No loop: nvcc knows an element of q by a constant index alone. For CPUs the loop
// stays: GCC makes other code of the recursion, whose speed nobody has measured.
template <class K, int i, class V>
RNNKERNELS_INLINE V horner(V sum, V r) {
  if constexpr (i >= 0) {
    constexpr auto term = K::q[i];
    return horner<K, i - 1>(fma(sum, r, V(term)), r);
  } else {
    return sum;
  }
}
#endif

// x = n ln2 + r; returns exp(r) - 1 and sets biased to n + round_bias. x lies in [lowest, highest] or is NaN.
template <class V>
RNNKERNELS_INLINE V expm1_reduced(V x, V& biased) {
  using K = ExpConstants<typename V::Real>;
  biased = fma(x, V(K::log2e), V(K::round_bias));
  const V n = biased - V(K::round_bias);
  V r = fma(n, V(-K::ln2), x);
  r = fma(n, V(-K::ln2_rest), r);
#ifdef __CUDACC__
  constexpr auto highest_term = K::q[K::terms - 1];
  const V q = horner<K, K::terms - 2>(V(highest_term), r);
#else
  V q = V(K::q[K::terms - 1]);
  for (int i = K::terms - 2; i >= 0; --i) q = fma(q, r, V(K::q[i]));
#endif
  return fma(r * r, q, r);
}

template <class V>
RNNKERNELS_INLINE V exp(V x) {
  using K = ExpConstants<typename V::Real>;
  V biased;
  V e = expm1_reduced(min(V(K::highest), max(V(K::lowest), x)), biased);
  return ldexp(e + V(1), biased - V(K::round_bias));
}

// 1 / (1 + exp(-x)). Between its bounds exp(-x) needs no care for overflow or subnormals.
template <class V>
RNNKERNELS_INLINE V sigmoid(V x) {
  using K = ExpConstants<typename V::Real>;
  V biased;
  V e = expm1_reduced(min(V(K::sigmoid_vanishes), max(V(-K::sigmoid_saturates), V(0) - x)), biased);
  V result = V(1) / fma(e + V(1), power_of_two(biased), V(1));
  return zero_where_not_positive(x + V(K::sigmoid_vanishes), result);
}

// With e = expm1(-2|x|): tanh|x| = -e / (2 + e). No cancellation near 0, exactly 1 where e rounds to -1.
template <class V>
RNNKERNELS_INLINE V tanh(V x) {
  using K = ExpConstants<typename V::Real>;
  V biased;
  V reduced = expm1_reduced(min(V(K::tanh_saturates), abs(x)) * V(-2), biased);
  V scale = power_of_two(biased);
  V e = fma(scale, reduced, scale - V(1));
  return copysign(e / (e + V(2)), x);
}

template <class V>
RNNKERNELS_INLINE V relu(V x) {
  return max(V(0), x);  // in this order NaN passes through
}

RNNKERNELS_END_NAMESPACE
