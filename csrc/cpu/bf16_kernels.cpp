// The kernels of layers for arrays of bfloat16 on a processor that multiplies such numbers: compiled with its flags, and with
// RNNKERNELS_ISA (a namespace) defined. It exports one symbol, kernel_set_bf16().
#include "bf16/matrix.h"
#include "half_table.h"

RNNKERNELS_BEGIN_NAMESPACE
namespace {

#define RNNKERNELS_CELL(name, Type)                                                                                  \
  layer_kernel<ForwardLayer<float, Type, Bf16Matrix, Half>, Bf16Backward<Type>>(                                     \
      RNNKERNELS_NAME(name##_forward, bf16, RNNKERNELS_ISA), RNNKERNELS_NAME(name##_backward, bf16, RNNKERNELS_ISA), \
      Cell::name),
const cpu::LayerKernel layers_bf16[] = {
#include "../core/cells.inc"
};
#undef RNNKERNELS_CELL

const cpu::KernelSet set_bf16 = RNNKERNELS_SET(bf16);

}  // namespace

const cpu::KernelSet& kernel_set_bf16() { return set_bf16; }

RNNKERNELS_END_NAMESPACE
