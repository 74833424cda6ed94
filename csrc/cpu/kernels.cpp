// The kernels of one ISA and one dtype: compiled once for each row of kernels.inc, with that ISA's flags and with
// RNNKERNELS_ISA (a namespace), RNNKERNELS_DTYPE (f32 or f64) and RNNKERNELS_REAL (its C++ type) defined.
// It exports one symbol, kernel_set_f32() or kernel_set_f64().
#include "heads.h"
#include "kernel_table.h"

RNNKERNELS_BEGIN_NAMESPACE
namespace {

using Real = RNNKERNELS_REAL;

#define RNNKERNELS_CELL(name, Type)                                      \
  layer_kernel<ForwardLayer<Real, Type>, BackwardLayer<Real, Type>>(     \
      RNNKERNELS_NAME(name##_forward, RNNKERNELS_DTYPE, RNNKERNELS_ISA), \
      RNNKERNELS_NAME(name##_backward, RNNKERNELS_DTYPE, RNNKERNELS_ISA), Cell::name),
const cpu::LayerKernel layers[] = {
#include "../core/cells.inc"
};
#undef RNNKERNELS_CELL

template <class Head>
constexpr cpu::HeadKernel<typename Head::Args> head(const char* name) {
  return {name, Head::scratch, Head::run};
}
#define RNNKERNELS_HEAD(name, Type) head<Type<Real>>(RNNKERNELS_NAME(name, RNNKERNELS_DTYPE, RNNKERNELS_ISA))

const cpu::KernelSet set = {
    Isa::RNNKERNELS_ISA,
    Dtype::RNNKERNELS_DTYPE,
    layers,
    RNNKERNELS_HEAD(linear_forward, LinearForward),
    RNNKERNELS_HEAD(linear_backward, LinearBackward),
    RNNKERNELS_HEAD(cross_entropy_forward, CrossEntropyForward),
    RNNKERNELS_HEAD(cross_entropy_backward, CrossEntropyBackward),
    RNNKERNELS_HEAD(linear_cross_entropy_forward, LinearCrossEntropyForward),
    RNNKERNELS_HEAD(linear_cross_entropy_backward, LinearCrossEntropyBackward),
    nullptr,
    nullptr,
};

}  // namespace

#define RNNKERNELS_EXPORT_(dtype) \
  const cpu::KernelSet& kernel_set_##dtype() { return set; }
#define RNNKERNELS_EXPORT(dtype) RNNKERNELS_EXPORT_(dtype)
RNNKERNELS_EXPORT(RNNKERNELS_DTYPE)

RNNKERNELS_END_NAMESPACE
