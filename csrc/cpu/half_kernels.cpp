// The kernels of one ISA for arrays of bfloat16 and float16: those of float32 over another storage (storage.h).
// Compiled with that ISA's flags and RNNKERNELS_ISA defined; exports kernel_set_bf16() and kernel_set_f16().
#include "half_table.h"

RNNKERNELS_BEGIN_NAMESPACE
namespace {

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

const cpu::KernelSet set_bf16 = RNNKERNELS_SET(bf16);
const cpu::KernelSet set_f16 = RNNKERNELS_SET(f16);

}  // namespace

const cpu::KernelSet& kernel_set_bf16() { return set_bf16; }
const cpu::KernelSet& kernel_set_f16() { return set_f16; }

RNNKERNELS_END_NAMESPACE
