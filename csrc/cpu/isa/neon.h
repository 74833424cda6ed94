// Arm NEON (AArch64): 4 floats or 2 doubles, 32 registers. No masked loads, so a tail goes lane by lane.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "../../core/namespace.h"

RNNKERNELS_BEGIN_NAMESPACE

template <class Real>
struct Vec;

template <>
struct Vec<float> {
  using Real = float;
  static constexpr int lanes = 4;
  static constexpr int accumulators = 24;

  float32x4_t v;
  Vec() = default;
  Vec(float32x4_t x) : v(x) {}
  explicit Vec(float x) : v(vdupq_n_f32(x)) {}
  explicit Vec(int x) : v(vdupq_n_f32(static_cast<float>(x))) {}

  static Vec load(const float* p) { return vld1q_f32(p); }
  static Vec load(const float* p, int n) {
    float lane[lanes] = {};
    for (int i = 0; i < n; ++i) lane[i] = p[i];
    return vld1q_f32(lane);
  }
  void store(float* p) const { vst1q_f32(p, v); }
  void store(float* p, int n) const {
    float lane[lanes];
    vst1q_f32(lane, v);
    for (int i = 0; i < n; ++i) p[i] = lane[i];
  }

  friend Vec operator+(Vec a, Vec b) { return vaddq_f32(a.v, b.v); }
  friend Vec operator-(Vec a, Vec b) { return vsubq_f32(a.v, b.v); }
  friend Vec operator*(Vec a, Vec b) { return vmulq_f32(a.v, b.v); }
  friend Vec operator/(Vec a, Vec b) { return vdivq_f32(a.v, b.v); }
  friend Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c.v, a.v, b.v); }
  friend Vec max(Vec a, Vec b) { return vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v); }
  friend Vec min(Vec a, Vec b) { return vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v); }
  friend Vec abs(Vec a) { return vabsq_f32(a.v); }
  friend Vec copysign(Vec a, Vec sign) { return vbslq_f32(vdupq_n_u32(0x80000000u), sign.v, a.v); }
  friend Vec power_of_two(Vec biased) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vreinterpretq_s32_f32(biased.v), 23));
  }
  static Vec power_of_two(int32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
  }
  friend Vec ldexp(Vec a, Vec n) {
    int32x4_t whole = vcvtnq_s32_f32(n.v), half = vshrq_n_s32(whole, 1);
    return a * power_of_two(half) * power_of_two(vsubq_s32(whole, half));
  }
  friend Vec zip_low(Vec a, Vec b) { return vzip1q_f32(a.v, b.v); }  // a0 b0 a1 b1
  friend Vec zip_high(Vec a, Vec b) { return vzip2q_f32(a.v, b.v); }
  friend Vec zero_where_not_positive(Vec x, Vec a) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a.v), vclezq_f32(x.v)));
  }
};

template <>
struct Vec<double> {
  using Real = double;
  static constexpr int lanes = 2;
  static constexpr int accumulators = 24;

  float64x2_t v;
  Vec() = default;
  Vec(float64x2_t x) : v(x) {}
  explicit Vec(double x) : v(vdupq_n_f64(x)) {}
  explicit Vec(int x) : v(vdupq_n_f64(static_cast<double>(x))) {}

  static Vec load(const double* p) { return vld1q_f64(p); }
  static Vec load(const double* p, int n) {
    double lane[lanes] = {};
    for (int i = 0; i < n; ++i) lane[i] = p[i];
    return vld1q_f64(lane);
  }
  void store(double* p) const { vst1q_f64(p, v); }
  void store(double* p, int n) const {
    double lane[lanes];
    vst1q_f64(lane, v);
    for (int i = 0; i < n; ++i) p[i] = lane[i];
  }

  friend Vec operator+(Vec a, Vec b) { return vaddq_f64(a.v, b.v); }
  friend Vec operator-(Vec a, Vec b) { return vsubq_f64(a.v, b.v); }
  friend Vec operator*(Vec a, Vec b) { return vmulq_f64(a.v, b.v); }
  friend Vec operator/(Vec a, Vec b) { return vdivq_f64(a.v, b.v); }
  friend Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f64(c.v, a.v, b.v); }
  friend Vec max(Vec a, Vec b) { return vbslq_f64(vcgtq_f64(a.v, b.v), a.v, b.v); }
  friend Vec min(Vec a, Vec b) { return vbslq_f64(vcltq_f64(a.v, b.v), a.v, b.v); }
  friend Vec abs(Vec a) { return vabsq_f64(a.v); }
  friend Vec copysign(Vec a, Vec sign) { return vbslq_f64(vdupq_n_u64(0x8000000000000000u), sign.v, a.v); }
  friend Vec power_of_two(Vec biased) {
    return vreinterpretq_f64_s64(vshlq_n_s64(vreinterpretq_s64_f64(biased.v), 52));
  }
  static Vec power_of_two(int64x2_t n) {
    return vreinterpretq_f64_s64(vshlq_n_s64(vaddq_s64(n, vdupq_n_s64(1023)), 52));
  }
  friend Vec ldexp(Vec a, Vec n) {
    int64x2_t whole = vcvtnq_s64_f64(n.v), half = vshrq_n_s64(whole, 1);
    return a * power_of_two(half) * power_of_two(vsubq_s64(whole, half));
  }
  friend Vec zip_low(Vec a, Vec b) { return vzip1q_f64(a.v, b.v); }
  friend Vec zip_high(Vec a, Vec b) { return vzip2q_f64(a.v, b.v); }
  friend Vec zero_where_not_positive(Vec x, Vec a) {
    return vreinterpretq_f64_u64(vbicq_u64(vreinterpretq_u64_f64(a.v), vclezq_f64(x.v)));
  }
};

// Numbers of 16 bits, as many as floats in a vector, and both ways between the two (core/half.h).
template <>
struct Vec<uint16_t> {
  static constexpr int lanes = 4;

  uint16x4_t v;
  Vec(uint16x4_t x) : v(x) {}

  static Vec load(const uint16_t* p, int n) {
    if (n == lanes) return vld1_u16(p);
    uint16_t lane[lanes] = {};
    for (int i = 0; i < n; ++i) lane[i] = p[i];
    return vld1_u16(lane);
  }
  void store(uint16_t* p, int n) const {
    uint16_t lane[lanes];
    vst1_u16(lane, v);
    for (int i = 0; i < n; ++i) p[i] = lane[i];
  }

  friend Vec<float> from_f16(Vec a) { return vcvt_f32_f16(vreinterpret_f16_u16(a.v)); }
  friend Vec<float> from_bf16(Vec a) { return vreinterpretq_f32_u32(vshll_n_u16(a.v, 16)); }
  static Vec to_f16(Vec<float> a) { return vreinterpret_u16_f16(vcvt_f16_f32(a.v)); }
  static Vec to_bf16(Vec<float> a) {
    const uint32x4_t bits = vreinterpretq_u32_f32(a.v), kept = vshrq_n_u32(bits, 16);
    const uint32x4_t odd = vandq_u32(kept, vdupq_n_u32(1));
    const uint32x4_t up = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    const uint32x4_t quiet = vorrq_u32(kept, vdupq_n_u32(0x40));
    return vmovn_u32(vbslq_u32(vceqq_f32(a.v, a.v), vshrq_n_u32(up, 16), quiet));
  }
};

// Weights of 8 bits, a group of neighbours of their row in each lane of floats, and their sums of products (int8.h).
template <>
struct Vec<int8_t> {
  static constexpr int lanes = 4;
  static constexpr int group = 2;
  using Left = int16_t;
  static constexpr int offset = 0;
  static constexpr int accumulators = 20;

  int16x8_t v;
  Vec(int16x8_t x) : v(x) {}

  static Vec load(const int8_t* p) { return vmovl_s8(vld1_s8(p)); }
  static Vec broadcast(const int16_t* p) {  // one group to all lanes
    int32_t both;
    __builtin_memcpy(&both, p, sizeof both);
    return vreinterpretq_s16_s32(vdupq_n_s32(both));
  }
};

template <>
struct Vec<int32_t> {
  static constexpr int lanes = 4;

  int32x4_t v;
  Vec() = default;
  Vec(int32x4_t x) : v(x) {}
  explicit Vec(int x) : v(vdupq_n_s32(x)) {}

  static Vec load(const int32_t* p) { return vld1q_s32(p); }
  friend Vec add_products(Vec sum, Vec<int8_t> a, Vec<int8_t> b) {
    const int32x4_t low = vmull_s16(vget_low_s16(a.v), vget_low_s16(b.v)), high = vmull_high_s16(a.v, b.v);
    return vaddq_s32(sum.v, vpaddq_s32(low, high));
  }
  Vec<float> to_float() const { return vcvtq_f32_s32(v); }
};

RNNKERNELS_END_NAMESPACE
