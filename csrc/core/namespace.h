// Everything in core and in the kernels lives in an inline namespace named after the ISA it is compiled for.
// Without it the linker could merge an inline function compiled for AVX-512 into the code that older machines run.
#pragma once

#ifndef RNNKERNELS_ISA
#define RNNKERNELS_ISA portable
#endif

// For functions whose arguments are registers: a call would put them in memory.
#ifdef __CUDACC__  // kernels of the GPU run the same equations
#define RNNKERNELS_INLINE __host__ __device__ inline __attribute__((always_inline))
#else
#define RNNKERNELS_INLINE inline __attribute__((always_inline))
#endif

#define RNNKERNELS_BEGIN_NAMESPACE \
  namespace rnnkernels {           \
  inline namespace RNNKERNELS_ISA {
#define RNNKERNELS_END_NAMESPACE \
  }                              \
  }
