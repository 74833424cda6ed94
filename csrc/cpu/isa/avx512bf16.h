// AVX512-BF16 of an x86-64 CPU, beside AVX-512: products of pairs of bfloat16 numbers, added to float32 sums one after the other
// (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2: VDPBF16PS). Sums are rounded to nearest whatever
// the caller's mode; subnormal numbers count as 0, among operands and among sums.
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

  // c and the products of the second numbers, and then of the first.
  friend Vec<float> fma(Vec a, Vec b, Vec<float> c) {
    return _mm512_dpbf16_ps(c.v, reinterpret_cast<__m512bh>(a.v), reinterpret_cast<__m512bh>(b.v));
  }
};

RNNKERNELS_END_NAMESPACE
