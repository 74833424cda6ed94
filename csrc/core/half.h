// bfloat16 and float16: numbers of 16 bits, to float32 exactly and from it to nearest, ties to even. A NaN stays one, what is
// too large becomes infinity, and subnormals are kept whatever the caller's floating-point mode.
#pragma once

#include <cstdint>

#include "namespace.h"

RNNKERNELS_BEGIN_NAMESPACE

inline uint32_t float_bits(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

constexpr uint32_t float_infinity = 0x7f800000, float_magnitude = 0x7fffffff;

// Drops the lowest bits of a pattern, to nearest, ties to even; a carry into the exponent is right as it is.
constexpr uint32_t drop_bits(uint32_t bits, int count) {
  return (bits + ((1u << (count - 1)) - 1) + (bits >> count & 1)) >> count;
}

inline float from_bf16(uint16_t half) { return float_of(static_cast<uint32_t>(half) << 16); }

inline uint16_t to_bf16(float x) {
  const uint32_t bits = float_bits(x);
  const bool nan = (bits & float_magnitude) > float_infinity;
  return static_cast<uint16_t>(nan ? bits >> 16 | 0x40 : drop_bits(bits, 16));
}

inline float from_f16(uint16_t half) {
  constexpr uint32_t exponents_apart = 127 - 15;
  const uint32_t sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31u, mantissa = half & 0x3ffu;
  if (exponent == 31) return float_of(sign | float_infinity | mantissa << 13 | (mantissa ? 0x400000u : 0u));
  if (exponent > 0) return float_of(sign | (exponent + exponents_apart) << 23 | mantissa << 13);
  return float_of(sign | float_bits(static_cast<float>(mantissa) * 0x1p-24f));
}

inline uint16_t to_f16(float x) {
  constexpr uint32_t exponents_apart = (127 - 15) << 23, least_normal = 0x38800000, too_large = 0x47800000;
  const uint32_t bits = float_bits(x), sign = bits >> 16 & 0x8000, magnitude = bits & float_magnitude;
  uint32_t half;
  if (magnitude > float_infinity) {
    half = 0x7e00 | (magnitude >> 13 & 0x3ff);
  } else if (magnitude >= too_large) {
    half = 0x7c00;
  } else if (magnitude >= least_normal) {
    half = drop_bits(magnitude - exponents_apart, 13);
  } else {  // a multiple of 2^-24, which is what 0.5 is precise to
    half = float_bits(float_of(magnitude) + 0.5f) - float_bits(0.5f);
  }
  return static_cast<uint16_t>(sign | half);
}

RNNKERNELS_END_NAMESPACE
