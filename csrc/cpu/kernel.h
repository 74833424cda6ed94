// What a compiled kernel set offers to dispatch: one layer in one direction, and the heads. Plain data and function
// pointers, since it crosses the border between ISA-specific and baseline code.
#pragma once

#include <cstddef>

#include "../api.h"
#include "pool.h"

namespace rnnkernels::cpu {

// The order of work of one layer in one direction. Step s computes the sequences that are longer than s: they are sorted by
// falling length, so those are rows 0 .. active[s]-1. Rows of all steps, one after another, are numbered from first_row[s].
struct Schedule {
  int64_t T, B;
  int64_t steps;             // the greatest length
  const int64_t* active;     // [steps + 1]; active[steps] = 0
  const int64_t* first_row;  // [steps + 1]; first_row[steps]: all rows
  const int64_t* order;      // [B] the sequence in row j; null: j
  const int64_t* lengths;    // [B] by sequence; null: T
  bool reverse;
};

struct LayerForwardCall {
  Dtype dtype;
  int64_t I, H;
  Schedule schedule;
  const void* x;
  int64_t x_stride;  // elements from one (t, b) to the next
  const int64_t* ids;
  LayerForward io;
  const void* packed;  // as written by pack; null: pack io.weights first
  void* y;
  int64_t y_stride;
  int threads;              // of the team, at most
  bool split_batch, fused;  // Plan; fused only where LayerWork is fusible
  char* scratch;            // forward_scratch() bytes, aligned to a cache line
};

struct LayerBackwardCall {
  Dtype dtype;
  int64_t I, H;
  Schedule schedule;
  const void* x;
  int64_t x_stride;
  const int64_t* ids;
  LayerBackward io;
  const void* dy;
  int64_t dy_stride;
  void* dx;            // (T, B, I)
  bool accumulate_dx;  // add to dx; `accumulate` is for the other gradients
  bool accumulate;
  bool split_batch;
  char* scratch;
};

struct LayerKernel {
  const char *forward_name, *backward_name;
  Cell cell;
  double weight_size;  // bytes, as forward multiplies it
  bool fusible;        // input and state can share forward's tiles
  size_t (*forward_scratch)(const LayerForwardCall&);
  void (*forward)(const LayerForwardCall&, const Team&);
  size_t (*backward_scratch)(const LayerBackwardCall&);
  void (*backward)(const LayerBackwardCall&, const Team&);
  size_t (*packed_bytes)(int64_t I, int64_t H);
  void (*pack)(const Weights&, Dtype, int64_t I, int64_t H, void* packed, const Team&);
};

template <class Args>
struct HeadKernel {
  const char* name;
  size_t (*scratch)(const Args&, int team_size);
  void (*run)(const Args&, char* scratch, const Team&);
};

// Of bfloat16 and float16 the layers are kernels of their own. The heads are those of float32 on widened blocks
// (half_heads.cpp): here they have but their names.
struct KernelSet {
  Isa isa;
  Dtype dtype;
  const LayerKernel* layers;  // one per cell, in the order of Cell
  HeadKernel<LinearArgs> linear_forward;
  HeadKernel<LinearBackwardArgs> linear_backward;
  HeadKernel<CrossEntropyArgs> cross_entropy_forward;
  HeadKernel<CrossEntropyBackwardArgs> cross_entropy_backward;
  HeadKernel<LinearCrossEntropyArgs> linear_cross_entropy_forward;
  HeadKernel<LinearCrossEntropyBackwardArgs> linear_cross_entropy_backward;

  // To float32 and back, rounded; null for f32 and f64.
  void (*widen)(const void* from, float* to, int64_t n);
  void (*round)(const float* from, void* to, int64_t n, bool add);
};

}  // namespace rnnkernels::cpu
