// The lane type, Vec<Real>, of the ISA this translation unit is compiled for.
#pragma once

#define RNNKERNELS_STRINGIFY_TOKENS(x) #x
#define RNNKERNELS_STRINGIFY(x) RNNKERNELS_STRINGIFY_TOKENS(x)
// clang-format off
#include RNNKERNELS_STRINGIFY(isa/RNNKERNELS_ISA.h)
// clang-format on

// For functions whose arguments are registers: a call would put them in memory.
#define RNNKERNELS_INLINE inline __attribute__((always_inline))

// Before a loop of known length over registers: it must become straight code, or the registers become memory.
#if defined(__clang__)
#define RNNKERNELS_UNROLL _Pragma("unroll")
#else
#define RNNKERNELS_UNROLL _Pragma("GCC unroll 16")
#endif
