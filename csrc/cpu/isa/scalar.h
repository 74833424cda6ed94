// One lane, no intrinsics: any CPU. It multiplies and adds in two roundings (a software fma would be 50 times slower), so
// its bits differ from those of the vector ISAs.
#pragma once

#include <cstdint>

#include "../../core/half.h"

RNNKERNELS_BEGIN_NAMESPACE

// Not those of <cmath>, which are inline functions outside our namespace.
inline float magnitude(float x) { return __builtin_fabsf(x); }
inline double magnitude(double x) { return __builtin_fabs(x); }
inline float with_sign(float x, float sign) { return __builtin_copysignf(x, sign); }
inline double with_sign(double x, double sign) { return __builtin_copysign(x, sign); }
inline float scaled(float x, int n) { return __builtin_ldexpf(x, n); }
inline double scaled(double x, int n) { return __builtin_ldexp(x, n); }
inline float exponent_bits(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  bits <<= 23;
  __builtin_memcpy(&x, &bits, sizeof bits);
  return x;
}
inline double exponent_bits(double x) {
  uint64_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  bits <<= 52;
  __builtin_memcpy(&x, &bits, sizeof bits);
  return x;
}

template <class Real_>
struct Vec {
  using Real = Real_;
  static constexpr int lanes = 1;
  static constexpr int accumulators = 12;  // of a micro-kernel: what fits in registers beside its operands

  Real v;
  Vec() = default;
  explicit Vec(Real x) : v(x) {}
  explicit Vec(int x) : v(static_cast<Real>(x)) {}

  static Vec load(const Real* p) { return Vec(*p); }
  static Vec load(const Real* p, int n) { return n > 0 ? Vec(*p) : Vec(0); }
  void store(Real* p) const { *p = v; }
  void store(Real* p, int n) const {
    if (n > 0) *p = v;
  }

  friend Vec operator+(Vec a, Vec b) { return Vec(a.v + b.v); }
  friend Vec operator-(Vec a, Vec b) { return Vec(a.v - b.v); }
  friend Vec operator*(Vec a, Vec b) { return Vec(a.v * b.v); }
  friend Vec operator/(Vec a, Vec b) { return Vec(a.v / b.v); }
  friend Vec fma(Vec a, Vec b, Vec c) { return Vec(a.v * b.v + c.v); }
  friend Vec max(Vec a, Vec b) { return a.v > b.v ? a : b; }
  friend Vec min(Vec a, Vec b) { return a.v < b.v ? a : b; }
  friend Vec abs(Vec a) { return Vec(magnitude(a.v)); }
  friend Vec copysign(Vec a, Vec sign) { return Vec(with_sign(a.v, sign.v)); }
  friend Vec ldexp(Vec a, Vec n) {  // NaN in n: any exponent will do, a is NaN too
    return Vec(scaled(a.v, n.v == n.v ? static_cast<int>(n.v) : 0));
  }
  friend Vec power_of_two(Vec biased) { return Vec(exponent_bits(biased.v)); }
  friend Vec zip_low(Vec a, Vec) { return a; }  // never called: one lane has nothing to interleave
  friend Vec zip_high(Vec a, Vec) { return a; }
  friend Vec zero_where_not_positive(Vec x, Vec a) { return x.v <= 0 ? Vec(0) : a; }
};

// A number of 16 bits, and both ways between it and a float.
template <>
struct Vec<uint16_t> {
  static constexpr int lanes = 1;

  uint16_t v;
  explicit Vec(uint16_t x) : v(x) {}

  static Vec load(const uint16_t* p, int n) { return Vec(n > 0 ? *p : uint16_t(0)); }
  void store(uint16_t* p, int n) const {
    if (n > 0) *p = v;
  }

  friend Vec<float> from_f16(Vec a) { return Vec<float>(rnnkernels::from_f16(a.v)); }
  friend Vec<float> from_bf16(Vec a) { return Vec<float>(rnnkernels::from_bf16(a.v)); }
  static Vec to_f16(Vec<float> a) { return Vec(rnnkernels::to_f16(a.v)); }
  static Vec to_bf16(Vec<float> a) { return Vec(rnnkernels::to_bf16(a.v)); }
};

// A group of neighbouring weights of 8 bits, and sums of products of such groups (int8.h).
template <>
struct Vec<int8_t> {
  static constexpr int lanes = 1;
  static constexpr int group = 2;
  using Left = int16_t;
  static constexpr int offset = 0;
  static constexpr int accumulators = 12;

  int32_t v[group];
  Vec(int first, int second) : v{first, second} {}

  static Vec load(const int8_t* p) { return {p[0], p[1]}; }
  static Vec broadcast(const int16_t* p) { return {p[0], p[1]}; }
};

template <>
struct Vec<int32_t> {
  static constexpr int lanes = 1;

  int32_t v;
  Vec() = default;
  explicit Vec(int x) : v(x) {}

  static Vec load(const int32_t* p) { return Vec(*p); }
  friend Vec add_products(Vec sum, Vec<int8_t> a, Vec<int8_t> b) {
    return Vec(sum.v + a.v[0] * b.v[0] + a.v[1] * b.v[1]);
  }
  Vec<float> to_float() const { return Vec<float>(static_cast<float>(v)); }
};

RNNKERNELS_END_NAMESPACE
