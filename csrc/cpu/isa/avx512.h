// AVX-512 F, BW, DQ, VL: 16 floats or 8 doubles, 32 registers, masks for tails, scalef for 2^n.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../../core/namespace.h"

RNNKERNELS_BEGIN_NAMESPACE

template <class Real>
struct Vec;

template <>
struct Vec<float> {
  using Real = float;
  static constexpr int lanes = 16;
  static constexpr int accumulators = 24;

  __m512 v;
  Vec() = default;
  Vec(__m512 x) : v(x) {}
  explicit Vec(float x) : v(_mm512_set1_ps(x)) {}
  explicit Vec(int x) : v(_mm512_set1_ps(static_cast<float>(x))) {}

  static __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }
  static Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static Vec load(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store(float* p, int n) const { _mm512_mask_storeu_ps(p, first(n), v); }

  friend Vec operator+(Vec a, Vec b) { return _mm512_add_ps(a.v, b.v); }
  friend Vec operator-(Vec a, Vec b) { return _mm512_sub_ps(a.v, b.v); }
  friend Vec operator*(Vec a, Vec b) { return _mm512_mul_ps(a.v, b.v); }
  friend Vec operator/(Vec a, Vec b) { return _mm512_div_ps(a.v, b.v); }
  friend Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
  friend Vec max(Vec a, Vec b) { return _mm512_max_ps(a.v, b.v); }
  friend Vec min(Vec a, Vec b) { return _mm512_min_ps(a.v, b.v); }
  friend Vec abs(Vec a) { return _mm512_abs_ps(a.v); }
  friend Vec copysign(Vec a, Vec sign) {
    const __m512i bit = _mm512_castps_si512(_mm512_set1_ps(-0.0f));
    return _mm512_castsi512_ps(  // bit ? sign : a
        _mm512_ternarylogic_epi32(bit, _mm512_castps_si512(sign.v), _mm512_castps_si512(a.v), 0xCA));
  }
  friend Vec ldexp(Vec a, Vec n) { return _mm512_scalef_ps(a.v, n.v); }
  friend Vec power_of_two(Vec biased) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(biased.v), 23));
  }
  friend Vec zip_low(Vec a, Vec b) {  // a0 b0 a1 b1 ... of the lower halves
    const __m512i order = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    return _mm512_permutex2var_ps(a.v, order, b.v);
  }
  friend Vec zip_high(Vec a, Vec b) {
    const __m512i order = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    return _mm512_permutex2var_ps(a.v, order, b.v);
  }
  friend Vec zero_where_not_positive(Vec x, Vec a) {
    return _mm512_mask_mov_ps(a.v, _mm512_cmp_ps_mask(x.v, _mm512_setzero_ps(), _CMP_LE_OQ), _mm512_setzero_ps());
  }
};

template <>
struct Vec<double> {
  using Real = double;
  static constexpr int lanes = 8;
  static constexpr int accumulators = 24;

  __m512d v;
  Vec() = default;
  Vec(__m512d x) : v(x) {}
  explicit Vec(double x) : v(_mm512_set1_pd(x)) {}
  explicit Vec(int x) : v(_mm512_set1_pd(static_cast<double>(x))) {}

  static __mmask8 first(int n) { return static_cast<__mmask8>((1u << n) - 1); }
  static Vec load(const double* p) { return _mm512_loadu_pd(p); }
  static Vec load(const double* p, int n) { return _mm512_maskz_loadu_pd(first(n), p); }
  void store(double* p) const { _mm512_storeu_pd(p, v); }
  void store(double* p, int n) const { _mm512_mask_storeu_pd(p, first(n), v); }

  friend Vec operator+(Vec a, Vec b) { return _mm512_add_pd(a.v, b.v); }
  friend Vec operator-(Vec a, Vec b) { return _mm512_sub_pd(a.v, b.v); }
  friend Vec operator*(Vec a, Vec b) { return _mm512_mul_pd(a.v, b.v); }
  friend Vec operator/(Vec a, Vec b) { return _mm512_div_pd(a.v, b.v); }
  friend Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_pd(a.v, b.v, c.v); }
  friend Vec max(Vec a, Vec b) { return _mm512_max_pd(a.v, b.v); }
  friend Vec min(Vec a, Vec b) { return _mm512_min_pd(a.v, b.v); }
  friend Vec abs(Vec a) { return _mm512_abs_pd(a.v); }
  friend Vec copysign(Vec a, Vec sign) {
    const __m512i bit = _mm512_castpd_si512(_mm512_set1_pd(-0.0));
    return _mm512_castsi512_pd(
        _mm512_ternarylogic_epi64(bit, _mm512_castpd_si512(sign.v), _mm512_castpd_si512(a.v), 0xCA));
  }
  friend Vec ldexp(Vec a, Vec n) { return _mm512_scalef_pd(a.v, n.v); }
  friend Vec power_of_two(Vec biased) {
    return _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(biased.v), 52));
  }
  friend Vec zip_low(Vec a, Vec b) {
    return _mm512_permutex2var_pd(a.v, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), b.v);
  }
  friend Vec zip_high(Vec a, Vec b) {
    return _mm512_permutex2var_pd(a.v, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), b.v);
  }
  friend Vec zero_where_not_positive(Vec x, Vec a) {
    return _mm512_mask_mov_pd(a.v, _mm512_cmp_pd_mask(x.v, _mm512_setzero_pd(), _CMP_LE_OQ), _mm512_setzero_pd());
  }
};

// Numbers of 16 bits, as many as floats in a vector, and both ways between the two (core/half.h).
template <>
struct Vec<uint16_t> {
  static constexpr int lanes = 16;

  __m256i v;
  Vec(__m256i x) : v(x) {}

  static __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }
  static Vec load(const uint16_t* p, int n) { return _mm256_maskz_loadu_epi16(first(n), p); }
  void store(uint16_t* p, int n) const { _mm256_mask_storeu_epi16(p, first(n), v); }

  friend Vec<float> from_f16(Vec a) { return _mm512_cvtph_ps(a.v); }
  friend Vec<float> from_bf16(Vec a) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(a.v), 16)); }
  static Vec to_f16(Vec<float> a) { return _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT); }
  static Vec to_bf16(Vec<float> a) {
    const __m512i bits = _mm512_castps_si512(a.v), kept = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(kept, _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
    const __m512i quiet = _mm512_or_si512(kept, _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(_mm512_srli_epi32(up, 16), nan, quiet));
  }
};

// Numbers of bfloat16 in pairs: n of them as they lie in memory, and then zeros; the first or the second of each, widened.
inline Vec<float> load_pairs(const uint16_t* p, int n) {
  return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t(1) << n) - 1), p));
}
inline Vec<float> first_of_pairs(Vec<float> pairs) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs.v), 16));
}
inline Vec<float> second_of_pairs(Vec<float> pairs) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(_mm512_castps_si512(pairs.v), _mm512_set1_epi32(static_cast<int>(0xffff0000))));
}

// a - b where b is finite, else 0.
inline Vec<float> difference_if_finite(Vec<float> a, Vec<float> b) {
  constexpr int quiet_nan = 0x01, infinities = 0x18, signalling_nan = 0x80;
  const __mmask16 not_finite = _mm512_fpclass_ps_mask(b.v, quiet_nan | infinities | signalling_nan);
  return _mm512_maskz_sub_ps(static_cast<__mmask16>(~not_finite), a.v, b.v);
}

RNNKERNELS_END_NAMESPACE
