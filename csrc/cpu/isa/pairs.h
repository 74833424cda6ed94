// Pairs of bfloat16 numbers in AVX-512 vectors.
#pragma once

#include "avx512.h"

RNNKERNELS_BEGIN_NAMESPACE

// Two neighbours in k, the first in the lower half; it may be read wherever two numbers of bfloat16 lie side by side.
struct __attribute__((may_alias, packed, aligned(2))) Bf16Pair {
  uint32_t bits;
};

template <>
struct Vec<Bf16Pair> {
  using Real = float;  // of sums
  static constexpr int lanes = 16;
  static constexpr int accumulators = 24;

  __m512i v;
  Vec() = default;
  Vec(__m512i x) : v(x) {}
  explicit Vec(Bf16Pair x) : v(_mm512_set1_epi32(static_cast<int>(x.bits))) {}

  static __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }
  static Vec load(const Bf16Pair* p) { return _mm512_loadu_si512(p); }
  void store(Bf16Pair* p) const { _mm512_storeu_si512(p, v); }
  void store(Bf16Pair* p, int n) const { _mm512_mask_storeu_epi32(p, first(n), v); }

  static Vec join(Vec<uint16_t> first, Vec<uint16_t> second) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(first.v), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second.v), 16));
  }
  friend Vec zip_low(Vec a, Vec b) { return _mm512_castps_si512(zip_low(a.as_floats(), b.as_floats()).v); }
  friend Vec zip_high(Vec a, Vec b) { return _mm512_castps_si512(zip_high(a.as_floats(), b.as_floats()).v); }

 private:
  Vec<float> as_floats() const { return _mm512_castsi512_ps(v); }
};

RNNKERNELS_END_NAMESPACE
