// AVX-512 with VNNI, whose products of bytes add four at once to an int32 without saturating: for weights of 8 bits (int8.h).
#pragma once

#include "avx512.h"

RNNKERNELS_BEGIN_NAMESPACE

// A group of neighbours of their row in each lane of floats, and their sums of products.
template <>
struct Vec<int8_t> {
  static constexpr int lanes = 16;
  static constexpr int group = 4;
  using Left = uint8_t;
  static constexpr int offset = 128;
  static constexpr int accumulators = 24;

  __m512i v;
  Vec(__m512i x) : v(x) {}

  static Vec load(const int8_t* p) { return _mm512_loadu_si512(p); }
  static Vec broadcast(const uint8_t* p) {  // one group to all lanes
    int32_t all;
    __builtin_memcpy(&all, p, sizeof all);
    return _mm512_set1_epi32(all);
  }
};

template <>
struct Vec<int32_t> {
  static constexpr int lanes = 16;
  using Ints = int32_t __attribute__((vector_size(64)));  // g++ 12 copies and spills sums of type __m512i

  Ints v;
  Vec() = default;
  Vec(Ints x) : v(x) {}
  explicit Vec(int x) : v(reinterpret_cast<Ints>(_mm512_set1_epi32(x))) {}

  static Vec load(const int32_t* p) { return reinterpret_cast<Ints>(_mm512_loadu_si512(p)); }
  friend Vec add_products(Vec sum, Vec<int8_t> a, Vec<int8_t> b) {
    return reinterpret_cast<Ints>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum.v), a.v, b.v));
  }
  Vec<float> to_float() const { return _mm512_cvtepi32_ps(reinterpret_cast<__m512i>(v)); }
};

RNNKERNELS_END_NAMESPACE
