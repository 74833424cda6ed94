// Forward of layers on weights of 8 bits, for one ISA: compiled with its flags, and with RNNKERNELS_ISA (a namespace) defined.
// It exports one symbol, int8_layers().
#include "int8.h"
#include "kernel_table.h"

RNNKERNELS_BEGIN_NAMESPACE
namespace {

#define RNNKERNELS_CELL(name, Type)                                                                                  \
  inference_kernel<ForwardLayer<float, Type, Int8Matrix>>(RNNKERNELS_NAME(name##_int8_forward, f32, RNNKERNELS_ISA), \
                                                          Cell::name),
const cpu::LayerKernel layers[] = {
#include "../core/cells.inc"
};
#undef RNNKERNELS_CELL

}  // namespace

const cpu::LayerKernel* int8_layers() { return layers; }

RNNKERNELS_END_NAMESPACE
