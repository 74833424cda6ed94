// Everything in core and in the kernels lives in an inline namespace named after the ISA it is compiled for.
// Without it the linker could merge an inline function compiled for AVX-512 into the code that older machines run.
#pragma once

#ifndef RNNKERNELS_ISA
#define RNNKERNELS_ISA portable
#endif

// For functions whose arguments are registers: a call would put them in memory.
#define RNNKERNELS_INLINE inline __attribute__((always_inline))

#define RNNKERNELS_BEGIN_NAMESPACE \
  namespace rnnkernels {           \
  inline namespace RNNKERNELS_ISA {
#define RNNKERNELS_END_NAMESPACE \
  }                              \
  }
