// The kernels of one ISA and one dtype: compiled once for each row of kernels.inc, with that ISA's flags and with
// RNNKERNELS_ISA (a namespace), RNNKERNELS_DTYPE (f32 or f64) and RNNKERNELS_REAL (its C++ type) defined.
// It exports one symbol, kernel_set_f32() or kernel_set_f64().
#include "backward.h"
#include "forward.h"
#include "heads.h"
#include "int8.h"

#include "../core/cells/gru.h"
#include "../core/cells/lstm.h"
#include "../core/cells/rnn.h"

RNNKERNELS_BEGIN_NAMESPACE
namespace {

using Real = RNNKERNELS_REAL;

template <class Layer>
size_t forward_scratch(const LayerForwardCall& call) {
  LayerForwardCall counted = call;
  counted.scratch = nullptr;
  return Layer(counted).scratch_size();
}

template <class Layer>
void forward(const LayerForwardCall& call, const Team& team) {
  Layer(call).run(team);
}

template <class Cell>
size_t backward_scratch(const LayerBackwardCall& call) {
  LayerBackwardCall counted = call;
  counted.scratch = nullptr;
  return BackwardLayer<Real, Cell>(counted).scratch_size();
}

template <class Cell>
void backward(const LayerBackwardCall& call, const Team& team) {
  BackwardLayer<Real, Cell>(call).run(team);
}

template <class Layer>
size_t packed_bytes(int64_t I, int64_t H) {
  Arena arena{nullptr};
  typename Layer::Packed(I, H, arena);
  return arena.used;
}

template <class Layer>
void pack(const Weights& weights, int64_t I, int64_t H, void* packed, const Team& team) {
  Arena arena{static_cast<char*>(packed)};
  const typename Layer::Packed layer(I, H, arena);
  layer.pack(weights, share(layer.panels, team), true);
}

#define RNNKERNELS_NAME_(operation, dtype, isa) #operation "_" #dtype "_" #isa
#define RNNKERNELS_NAME(operation, dtype, isa) RNNKERNELS_NAME_(operation, dtype, isa)
#define RNNKERNELS_CELL(name, Type)                                    \
  {RNNKERNELS_NAME(name##_forward, RNNKERNELS_DTYPE, RNNKERNELS_ISA),  \
   RNNKERNELS_NAME(name##_backward, RNNKERNELS_DTYPE, RNNKERNELS_ISA), \
   Cell::name,                                                         \
   forward_scratch<ForwardLayer<Real, Type>>,                          \
   forward<ForwardLayer<Real, Type>>,                                  \
   backward_scratch<Type>,                                             \
   backward<Type>,                                                     \
   packed_bytes<ForwardLayer<Real, Type>>,                             \
   pack<ForwardLayer<Real, Type>>},
const cpu::LayerKernel layers[] = {
#include "../core/cells.inc"
};
#undef RNNKERNELS_CELL

// The same on weights of 8 bits, for inference.
#define RNNKERNELS_CELL(name, Type)                                        \
  {RNNKERNELS_NAME(name##_int8_forward, RNNKERNELS_DTYPE, RNNKERNELS_ISA), \
   nullptr,                                                                \
   Cell::name,                                                             \
   forward_scratch<ForwardLayer<R, Type, Int8Matrix>>,                     \
   forward<ForwardLayer<R, Type, Int8Matrix>>,                             \
   nullptr,                                                                \
   nullptr,                                                                \
   packed_bytes<ForwardLayer<R, Type, Int8Matrix>>,                        \
   pack<ForwardLayer<R, Type, Int8Matrix>>},
template <class R>
const cpu::LayerKernel int8_layers[] = {
#include "../core/cells.inc"
};
#undef RNNKERNELS_CELL

template <class R>
constexpr const cpu::LayerKernel* int8_layers_or_null() {
  if constexpr (sizeof(R) == sizeof(float)) {
    return int8_layers<R>;
  } else {
    return nullptr;
  }
}

template <class Head>
constexpr cpu::HeadKernel<typename Head::Args> head(const char* name) {
  return {name, Head::scratch, Head::run};
}
#define RNNKERNELS_HEAD(name, Type) head<Type<Real>>(RNNKERNELS_NAME(name, RNNKERNELS_DTYPE, RNNKERNELS_ISA))

const cpu::KernelSet set = {
    Isa::RNNKERNELS_ISA,
    Dtype::RNNKERNELS_DTYPE,
    layers,
    int8_layers_or_null<Real>(),
    RNNKERNELS_HEAD(linear_forward, LinearForward),
    RNNKERNELS_HEAD(linear_backward, LinearBackward),
    RNNKERNELS_HEAD(cross_entropy_forward, CrossEntropyForward),
    RNNKERNELS_HEAD(cross_entropy_backward, CrossEntropyBackward),
    RNNKERNELS_HEAD(linear_cross_entropy_forward, LinearCrossEntropyForward),
    RNNKERNELS_HEAD(linear_cross_entropy_backward, LinearCrossEntropyBackward),
};

}  // namespace

#define RNNKERNELS_EXPORT_(dtype) \
  const cpu::KernelSet& kernel_set_##dtype() { return set; }
#define RNNKERNELS_EXPORT(dtype) RNNKERNELS_EXPORT_(dtype)
RNNKERNELS_EXPORT(RNNKERNELS_DTYPE)

RNNKERNELS_END_NAMESPACE
