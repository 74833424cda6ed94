// The table of kernels for arrays of 16-bit numbers, but for its layers. Heads are those of float32 on widened blocks
// (half_heads.cpp): here they have but their names.
#pragma once

#include "kernel_table.h"

RNNKERNELS_BEGIN_NAMESPACE
namespace {

template <Dtype dtype>
void widen(const void* from, float* to, int64_t n) {
  copy(Half(dtype).from(from), to, n);
}

template <Dtype dtype>
void round(const float* from, void* to, int64_t n, bool add) {
  round_to(Half(dtype).to(to), from, n, add);
}

}  // namespace
RNNKERNELS_END_NAMESPACE

#define RNNKERNELS_HEAD(name, dtype) {RNNKERNELS_NAME(name, dtype, RNNKERNELS_ISA), nullptr, nullptr}
#define RNNKERNELS_SET(dtype)                             \
  {Isa::RNNKERNELS_ISA,                                   \
   Dtype::dtype,                                          \
   layers_##dtype,                                        \
   RNNKERNELS_HEAD(linear_forward, dtype),                \
   RNNKERNELS_HEAD(linear_backward, dtype),               \
   RNNKERNELS_HEAD(cross_entropy_forward, dtype),         \
   RNNKERNELS_HEAD(cross_entropy_backward, dtype),        \
   RNNKERNELS_HEAD(linear_cross_entropy_forward, dtype),  \
   RNNKERNELS_HEAD(linear_cross_entropy_backward, dtype), \
   widen<Dtype::dtype>,                                   \
   round<Dtype::dtype>}
