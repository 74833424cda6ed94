// AVX512-BF16 of an x86-64 CPU, beside AVX-512: products of pairs of bfloat16 numbers, added to float32 sums one after the other
// (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2: VDPBF16PS). Sums are rounded to nearest whatever
// the caller's mode; subnormal numbers count as 0, among operands and among sums.
#pragma once

#include "pairs.h"

RNNKERNELS_BEGIN_NAMESPACE

constexpr int bf16_group = 2;  // terms of a product
struct Bf16Multiplier {};      // nothing to be set up

// c and the products of the second numbers, and then of the first.
inline Vec<float> fma(Vec<Bf16Pair> a, Vec<Bf16Pair> b, Vec<float> c) {
  return _mm512_dpbf16_ps(c.v, reinterpret_cast<__m512bh>(a.v), reinterpret_cast<__m512bh>(b.v));
}

RNNKERNELS_END_NAMESPACE
