// Numbers of bfloat16, as states and operands hold them.
#pragma once

#include "../layer.h"

RNNKERNELS_BEGIN_NAMESPACE

// What is written has been rounded, or is.
struct Bf16s {
  uint16_t* data = nullptr;

  Bf16s operator+(int64_t n) const { return {data + n}; }
  explicit operator bool() const { return data; }
  float operator[](int64_t i) const { return from_bf16(data[i]); }
};
inline Vec<float> read(Bf16s p, int n) { return from_bf16(Vec<uint16_t>::load(p.data, n)); }
inline Vec<float> read(Bf16s p) { return from_bf16(Vec<uint16_t>::load(p.data, Vec<uint16_t>::lanes)); }
inline void write(Vec<float> value, Bf16s p, int n) { Vec<uint16_t>::to_bf16(value).store(p.data, n); }
inline void write(Vec<float> value, Bf16s p) { write(value, p, Vec<uint16_t>::lanes); }
inline void prefetch(Bf16s p, int64_t n) { prefetch(p.data, n); }
inline void take(Arena& arena, int64_t n, Bf16s& piece) { take(arena, n, piece.data); }

// The same in two parts: high + low. Infinity has no low part.
struct SplitBf16s {
  uint16_t *high = nullptr, *low = nullptr;

  SplitBf16s operator+(int64_t n) const { return {high + n, low + n}; }
};
inline void write(Vec<float> value, SplitBf16s p, int n) {
  const Vec<uint16_t> high = Vec<uint16_t>::to_bf16(value);
  high.store(p.high, n);
  Vec<uint16_t>::to_bf16(difference_if_finite(value, from_bf16(high))).store(p.low, n);
}
inline void write(Vec<float> value, SplitBf16s p) { write(value, p, Vec<uint16_t>::lanes); }
inline void take(Arena& arena, int64_t n, SplitBf16s& piece) {
  take(arena, n, piece.high);
  take(arena, n, piece.low);
}

RNNKERNELS_END_NAMESPACE
