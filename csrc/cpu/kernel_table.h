// Rows of a kernel set's table of layers, from the templates that compute them. For kernels.cpp, half_kernels.cpp and int8_kernels.cpp, each
// compiled for one ISA, which RNNKERNELS_ISA names.
#pragma once

#include "backward.h"
#include "forward.h"

#include "../core/cells/gru.h"
#include "../core/cells/lstm.h"
#include "../core/cells/rnn.h"

RNNKERNELS_BEGIN_NAMESPACE
namespace {

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

template <class Layer>
size_t backward_scratch(const LayerBackwardCall& call) {
  LayerBackwardCall counted = call;
  counted.scratch = nullptr;
  return Layer(counted).scratch_size();
}

template <class Layer>
void backward(const LayerBackwardCall& call, const Team& team) {
  Layer(call).run(team);
}

template <class Layer>
size_t packed_bytes(int64_t I, int64_t H) {
  Arena arena{nullptr};
  typename Layer::Packed(I, H, arena);
  return arena.used;
}

template <class Layer>
void pack(const Weights& weights, Dtype dtype, int64_t I, int64_t H, void* packed, const Team& team) {
  Arena arena{static_cast<char*>(packed)};
  const typename Layer::Packed layer(I, H, arena);
  layer.pack(weights, typename Layer::Arrays(dtype), share(layer.panels, team), true);
}

template <class Forward, class Backward>
constexpr cpu::LayerKernel layer_kernel(const char* forward_name, const char* backward_name, Cell cell) {
  return {forward_name,
          backward_name,
          cell,
          Forward::weight_size,
          Forward::fusible,
          forward_scratch<Forward>,
          forward<Forward>,
          backward_scratch<Backward>,
          backward<Backward>,
          packed_bytes<Forward>,
          pack<Forward>};
}

template <class Forward>
constexpr cpu::LayerKernel inference_kernel(const char* name, Cell cell) {
  return {name,
          nullptr,
          cell,
          Forward::weight_size,
          Forward::fusible,
          forward_scratch<Forward>,
          forward<Forward>,
          nullptr,
          nullptr,
          packed_bytes<Forward>,
          pack<Forward>};
}

}  // namespace
RNNKERNELS_END_NAMESPACE

#define RNNKERNELS_NAME_(operation, dtype, isa) #operation "_" #dtype "_" #isa
#define RNNKERNELS_NAME(operation, dtype, isa) RNNKERNELS_NAME_(operation, dtype, isa)
