// AVX2 and FMA: 8 floats or 4 doubles, 16 registers. 2^n is built in two factors, so that overflow, underflow and
// subnormals round exactly as AVX-512's scalef does.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../../core/namespace.h"

RNNKERNELS_BEGIN_NAMESPACE

template <class Real>
struct Vec;

// A window into it masks the first n of 8 floats (or n of 4 doubles, in units of two).
alignas(64) static constexpr int32_t lane_mask[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

template <>
struct Vec<float> {
  using Real = float;
  static constexpr int lanes = 8;
  static constexpr int accumulators = 12;

  __m256 v;
  Vec() = default;
  Vec(__m256 x) : v(x) {}
  explicit Vec(float x) : v(_mm256_set1_ps(x)) {}
  explicit Vec(int x) : v(_mm256_set1_ps(static_cast<float>(x))) {}

  static __m256i first(int n) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lane_mask + 8 - n)); }
  static Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static Vec load(const float* p, int n) { return n == lanes ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, first(n)); }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void store(float* p, int n) const {
    if (n == lanes) {
      _mm256_storeu_ps(p, v);  // a masked store costs many micro-operations on some CPUs
    } else {
      _mm256_maskstore_ps(p, first(n), v);
    }
  }

  friend Vec operator+(Vec a, Vec b) { return _mm256_add_ps(a.v, b.v); }
  friend Vec operator-(Vec a, Vec b) { return _mm256_sub_ps(a.v, b.v); }
  friend Vec operator*(Vec a, Vec b) { return _mm256_mul_ps(a.v, b.v); }
  friend Vec operator/(Vec a, Vec b) { return _mm256_div_ps(a.v, b.v); }
  friend Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
  friend Vec max(Vec a, Vec b) { return _mm256_max_ps(a.v, b.v); }
  friend Vec min(Vec a, Vec b) { return _mm256_min_ps(a.v, b.v); }
  friend Vec abs(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v); }
  friend Vec copysign(Vec a, Vec sign) {
    const __m256 bit = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(bit, a.v), _mm256_and_ps(bit, sign.v));
  }
  friend Vec power_of_two(Vec biased) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(biased.v), 23));
  }
  static Vec power_of_two(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
  }
  friend Vec ldexp(Vec a, Vec n) {
    __m256i whole = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(whole, 1);
    return a * power_of_two(half) * power_of_two(_mm256_sub_epi32(whole, half));
  }
  friend Vec zip_low(Vec a, Vec b) {  // a0 b0 a1 b1 ... of the lower halves
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v), 0x20);
  }
  friend Vec zip_high(Vec a, Vec b) {
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v), 0x31);
  }
  friend Vec zero_where_not_positive(Vec x, Vec a) {
    return _mm256_andnot_ps(_mm256_cmp_ps(x.v, _mm256_setzero_ps(), _CMP_LE_OQ), a.v);
  }
};

template <>
struct Vec<double> {
  using Real = double;
  static constexpr int lanes = 4;
  static constexpr int accumulators = 12;

  __m256d v;
  Vec() = default;
  Vec(__m256d x) : v(x) {}
  explicit Vec(double x) : v(_mm256_set1_pd(x)) {}
  explicit Vec(int x) : v(_mm256_set1_pd(static_cast<double>(x))) {}

  static __m256i first(int n) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lane_mask + 8 - 2 * n)); }
  static Vec load(const double* p) { return _mm256_loadu_pd(p); }
  static Vec load(const double* p, int n) { return n == lanes ? _mm256_loadu_pd(p) : _mm256_maskload_pd(p, first(n)); }
  void store(double* p) const { _mm256_storeu_pd(p, v); }
  void store(double* p, int n) const {
    if (n == lanes) {
      _mm256_storeu_pd(p, v);
    } else {
      _mm256_maskstore_pd(p, first(n), v);
    }
  }

  friend Vec operator+(Vec a, Vec b) { return _mm256_add_pd(a.v, b.v); }
  friend Vec operator-(Vec a, Vec b) { return _mm256_sub_pd(a.v, b.v); }
  friend Vec operator*(Vec a, Vec b) { return _mm256_mul_pd(a.v, b.v); }
  friend Vec operator/(Vec a, Vec b) { return _mm256_div_pd(a.v, b.v); }
  friend Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_pd(a.v, b.v, c.v); }
  friend Vec max(Vec a, Vec b) { return _mm256_max_pd(a.v, b.v); }
  friend Vec min(Vec a, Vec b) { return _mm256_min_pd(a.v, b.v); }
  friend Vec abs(Vec a) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), a.v); }
  friend Vec copysign(Vec a, Vec sign) {
    const __m256d bit = _mm256_set1_pd(-0.0);
    return _mm256_or_pd(_mm256_andnot_pd(bit, a.v), _mm256_and_pd(bit, sign.v));
  }
  friend Vec power_of_two(Vec biased) {
    return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(biased.v), 52));
  }
  static Vec power_of_two(__m128i n) {
    __m256i wide = _mm256_cvtepi32_epi64(n);
    return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_add_epi64(wide, _mm256_set1_epi64x(1023)), 52));
  }
  friend Vec ldexp(Vec a, Vec n) {
    __m128i whole = _mm256_cvtpd_epi32(n.v), half = _mm_srai_epi32(whole, 1);
    return a * power_of_two(half) * power_of_two(_mm_sub_epi32(whole, half));
  }
  friend Vec zip_low(Vec a, Vec b) {  // a0 b0 a1 b1 ... of the lower halves
    return _mm256_permute2f128_pd(_mm256_unpacklo_pd(a.v, b.v), _mm256_unpackhi_pd(a.v, b.v), 0x20);
  }
  friend Vec zip_high(Vec a, Vec b) {
    return _mm256_permute2f128_pd(_mm256_unpacklo_pd(a.v, b.v), _mm256_unpackhi_pd(a.v, b.v), 0x31);
  }
  friend Vec zero_where_not_positive(Vec x, Vec a) {
    return _mm256_andnot_pd(_mm256_cmp_pd(x.v, _mm256_setzero_pd(), _CMP_LE_OQ), a.v);
  }
};

// Numbers of 16 bits, as many as floats in a vector, and both ways between the two (core/half.h).
template <>
struct Vec<uint16_t> {
  static constexpr int lanes = 8;

  __m128i v;
  Vec(__m128i x) : v(x) {}

  static Vec load(const uint16_t* p, int n) {
    if (n == lanes) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    alignas(16) uint16_t lane[lanes] = {};
    for (int i = 0; i < n; ++i) lane[i] = p[i];
    return _mm_load_si128(reinterpret_cast<const __m128i*>(lane));
  }
  void store(uint16_t* p, int n) const {
    if (n == lanes) return _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v);
    alignas(16) uint16_t lane[lanes];
    _mm_store_si128(reinterpret_cast<__m128i*>(lane), v);
    for (int i = 0; i < n; ++i) p[i] = lane[i];
  }

  friend Vec<float> from_f16(Vec a) { return _mm256_cvtph_ps(a.v); }
  friend Vec<float> from_bf16(Vec a) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(a.v), 16)); }
  static Vec to_f16(Vec<float> a) { return _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT); }
  static Vec to_bf16(Vec<float> a) {
    const __m256i bits = _mm256_castps_si256(a.v), kept = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(kept, _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q));
    const __m256i quiet = _mm256_or_si256(kept, _mm256_set1_epi32(0x40));
    const __m256i wide = _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), quiet, nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  }
};

// Weights of 8 bits, a group of neighbours of their row in each lane of floats, and their sums of products (int8.h).
template <>
struct Vec<int8_t> {
  static constexpr int lanes = 8;
  static constexpr int group = 2;
  using Left = int16_t;
  static constexpr int offset = 0;
  static constexpr int accumulators = 10;  // as many as leave room for four of these

  __m256i v;  // as int16
  Vec(__m256i x) : v(x) {}

  static Vec load(const int8_t* p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Vec broadcast(const int16_t* p) {  // one group to all lanes
    int32_t both;
    __builtin_memcpy(&both, p, sizeof both);
    return _mm256_set1_epi32(both);
  }
};

template <>
struct Vec<int32_t> {
  static constexpr int lanes = 8;
  using Ints = int32_t __attribute__((vector_size(32)));  // g++ 12 copies and spills sums of type __m256i

  Ints v;
  Vec() = default;
  Vec(Ints x) : v(x) {}
  explicit Vec(int x) : v(reinterpret_cast<Ints>(_mm256_set1_epi32(x))) {}

  static Vec load(const int32_t* p) {
    return reinterpret_cast<Ints>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  friend Vec add_products(Vec sum, Vec<int8_t> a, Vec<int8_t> b) {
    return sum.v + reinterpret_cast<Ints>(_mm256_madd_epi16(a.v, b.v));
  }
  Vec<float> to_float() const { return _mm256_cvtepi32_ps(reinterpret_cast<__m256i>(v)); }
};

RNNKERNELS_END_NAMESPACE
