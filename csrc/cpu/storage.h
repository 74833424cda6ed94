// How the arrays of a call hold numbers: as the Real that is computed in (Plain), or in 16 bits that are widened when they are
// read and rounded when they are written (Half). Kernels get pointers from the one or the other, and read and write vectors
// through them. Which of the two 16-bit formats it is, is known at run time: kernels for both would cost the build as much
// again, and what surrounds a product is little beside it.
#pragma once

#include "../core/half.h"

RNNKERNELS_BEGIN_NAMESPACE

// A pointer to numbers of 16 bits.
struct Halves {
  uint16_t* data = nullptr;
  bool bf16 = false;

  Halves operator+(int64_t n) const { return {data + n, bf16}; }
  explicit operator bool() const { return data; }
  float operator[](int64_t i) const { return bf16 ? from_bf16(data[i]) : from_f16(data[i]); }
};

// n lanes at p; the others are 0. Without n, all.
template <class Real>
RNNKERNELS_INLINE Vec<Real> read(const Real* p, int n) {
  return Vec<Real>::load(p, n);
}
template <class Real>
RNNKERNELS_INLINE Vec<Real> read(const Real* p) {
  return Vec<Real>::load(p);
}
inline Vec<float> read(Halves p, int n) {
  const Vec<uint16_t> lanes = Vec<uint16_t>::load(p.data, n);
  return p.bf16 ? from_bf16(lanes) : from_f16(lanes);
}

template <class Real>
RNNKERNELS_INLINE void write(Vec<Real> value, Real* p, int n) {
  value.store(p, n);
}
template <class Real>
RNNKERNELS_INLINE void write(Vec<Real> value, Real* p) {
  value.store(p);
}
inline void write(Vec<float> value, Halves p, int n) {
  (p.bf16 ? Vec<uint16_t>::to_bf16(value) : Vec<uint16_t>::to_f16(value)).store(p.data, n);
}

template <class Real>
struct Plain {
  static constexpr bool converts = false;

  explicit Plain(Dtype) {}

  const Real* from(const void* array) const { return static_cast<const Real*>(array); }
  Real* to(void* array) const { return static_cast<Real*>(array); }
  static RNNKERNELS_INLINE Vec<Real> rounded(Vec<Real> value) { return value; }
};

struct Half {
  static constexpr bool converts = true;

  bool bf16;
  explicit Half(Dtype dtype) : bf16(dtype == Dtype::bf16) {}

  Halves from(const void* array) const { return {static_cast<uint16_t*>(const_cast<void*>(array)), bf16}; }
  Halves to(void* array) const { return from(array); }

  // As it will be read again.
  Vec<float> rounded(Vec<float> value) const {
    return bf16 ? from_bf16(Vec<uint16_t>::to_bf16(value)) : from_f16(Vec<uint16_t>::to_f16(value));
  }
};

RNNKERNELS_END_NAMESPACE
