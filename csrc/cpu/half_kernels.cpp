// The kernels of one ISA for arrays of bfloat16 and float16: those of float32 over another storage (storage.h).
// Compiled with that ISA's flags and RNNKERNELS_ISA defined; exports kernel_set_bf16() and kernel_set_f16().
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

template <class Type>
using HalfForward = ForwardLayer<float, Type, RealMatrix<float>, Half>;
template <class Type>
using HalfBackward = BackwardLayer<float, Type, Half>;

#define RNNKERNELS_CELL_OF(name, Type, dtype)                                                                  \
  layer_kernel<HalfForward<Type>, HalfBackward<Type>>(RNNKERNELS_NAME(name##_forward, dtype, RNNKERNELS_ISA),  \
                                                      RNNKERNELS_NAME(name##_backward, dtype, RNNKERNELS_ISA), \
                                                      Cell::name),
#define RNNKERNELS_CELL(name, Type) RNNKERNELS_CELL_OF(name, Type, bf16)
const cpu::LayerKernel layers_bf16[] = {
#include "../core/cells.inc"
};
#undef RNNKERNELS_CELL
#define RNNKERNELS_CELL(name, Type) RNNKERNELS_CELL_OF(name, Type, f16)
const cpu::LayerKernel layers_f16[] = {
#include "../core/cells.inc"
};
#undef RNNKERNELS_CELL

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

const cpu::KernelSet set_bf16 = RNNKERNELS_SET(bf16);
const cpu::KernelSet set_f16 = RNNKERNELS_SET(f16);

}  // namespace

const cpu::KernelSet& kernel_set_bf16() { return set_bf16; }
const cpu::KernelSet& kernel_set_f16() { return set_f16; }

RNNKERNELS_END_NAMESPACE
