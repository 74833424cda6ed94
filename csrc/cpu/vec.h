// The lane type, Vec<Real>, of the ISA this translation unit is compiled for.
#pragma once

#include "../api.h"

#define RNNKERNELS_STRINGIFY_TOKENS(x) #x
#define RNNKERNELS_STRINGIFY(x) RNNKERNELS_STRINGIFY_TOKENS(x)
// clang-format off
#include RNNKERNELS_STRINGIFY(isa/RNNKERNELS_ISA.h)
// clang-format on

// Before a loop of known length over registers: it must become straight code, or the registers become memory.
#if defined(__clang__)
#define RNNKERNELS_UNROLL _Pragma("unroll")
#else
#define RNNKERNELS_UNROLL _Pragma("GCC unroll 16")
#endif

#include "storage.h"

RNNKERNELS_BEGIN_NAMESPACE

// A loop rather than a function that takes a lambda, which GCC may leave a call.
#define RNNKERNELS_EACH \
  RNNKERNELS_UNROLL     \
  for (int i = 0; i < n; ++i)

// n vectors as one lane type: a cell applied to several rows at once, so that the latency of one hides that of the others.
template <class V, int n>
struct Several {
  using Real = typename V::Real;

  V v[n];
  Several() = default;
  template <class T>
  explicit Several(T x) {
    RNNKERNELS_EACH v[i] = V(x);
  }

  // Vectors side by side in memory; only the first `last` lanes of the last one are there.
  template <class Pointer>
  static RNNKERNELS_INLINE Several load(Pointer p, int last) {
    Several a;
    RNNKERNELS_EACH a.v[i] = read(p + i * V::lanes, i == n - 1 ? last : V::lanes);
    return a;
  }
  template <class Pointer>
  RNNKERNELS_INLINE void store(Pointer p, int last) const {
    RNNKERNELS_EACH write(v[i], p + i * V::lanes, i == n - 1 ? last : V::lanes);
  }

#define RNNKERNELS_UNARY(name)                       \
  friend RNNKERNELS_INLINE Several name(Several a) { \
    RNNKERNELS_EACH a.v[i] = name(a.v[i]);           \
    return a;                                        \
  }
#define RNNKERNELS_BINARY(name)                                 \
  friend RNNKERNELS_INLINE Several name(Several a, Several b) { \
    RNNKERNELS_EACH a.v[i] = name(a.v[i], b.v[i]);              \
    return a;                                                   \
  }
#define RNNKERNELS_OPERATOR(op)                                        \
  friend RNNKERNELS_INLINE Several operator op(Several a, Several b) { \
    RNNKERNELS_EACH a.v[i] = a.v[i] op b.v[i];                         \
    return a;                                                          \
  }
  RNNKERNELS_OPERATOR(+)
  RNNKERNELS_OPERATOR(-)
  RNNKERNELS_OPERATOR(*)
  RNNKERNELS_OPERATOR(/)
  RNNKERNELS_UNARY(abs)
  RNNKERNELS_UNARY(power_of_two)
  RNNKERNELS_BINARY(max)
  RNNKERNELS_BINARY(min)
  RNNKERNELS_BINARY(copysign)
  RNNKERNELS_BINARY(ldexp)
  RNNKERNELS_BINARY(zero_where_not_positive)
#undef RNNKERNELS_OPERATOR
#undef RNNKERNELS_BINARY
#undef RNNKERNELS_UNARY

  friend RNNKERNELS_INLINE Several fma(Several a, Several b, Several c) {
    RNNKERNELS_EACH c.v[i] = fma(a.v[i], b.v[i], c.v[i]);
    return c;
  }
};
#undef RNNKERNELS_EACH

RNNKERNELS_END_NAMESPACE
