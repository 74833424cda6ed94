// Stacks on the device: layer after layer, the directions of a layer one after the other, dropout in between. As in stepwise.h,
// pointers are of the device, work is queued on the caller's stream, and the workspace is the caller's.
#pragma once

#include <cmath>

#include "dropout.cuh"
#include "stepwise.h"

namespace rnnkernels::cuda {

// What both passes of a stack need.
template <class Number>
class StackPass : protected Queue<Number> {
 protected:
  using T = typename Number::T;
  using Real = typename Number::Real;

  StackPass(const Problem& problem, Workspace& workspace, Stream stream)
      : Queue<Number>(workspace, stream), p_(problem), upper_(problem) {
    upper_.ids = nullptr;
  }

  const Problem& of_layer(int l) const { return l ? upper_ : p_; }
  int64_t input_size(int l) const { return l ? p_.directions * p_.H : p_.I; }
  bool reverse(int d) const { return p_.directions == 2 ? d == 1 : p_.reverse; }

  static const T* at(const void* array, int64_t element) {
    return array ? static_cast<const T*>(array) + element : nullptr;
  }
  static T* at(void* array, int64_t element) { return array ? static_cast<T*>(array) + element : nullptr; }

  // Dropout of a layer's output, or of its gradient: the same factor for both.
  void drop(void* y, int layer) const {
    const int64_t n = p_.T * p_.B * p_.directions * p_.H;
    if (p_.dropout <= 0 || n == 0 || this->workspace_.counts_only()) return;
    const auto threshold = static_cast<uint32_t>(std::nearbyint(p_.dropout * 16777216.0));
    const Real scale = Real(1) / (Real(1) - static_cast<Real>(p_.dropout));
    this->queue("drop", this->blocks(n, 4 * array_threads), array_threads, 0, cuda::drop<T>, static_cast<T*>(y), n,
                threshold, scale, p_.dropout_key, static_cast<uint32_t>(layer));
  }

  const Problem& p_;
  Problem upper_;  // of the layers above the first, which have no ids
};

template <class Cell, class Number>
class StackForward : StackPass<Number> {
  using Pass = StackPass<Number>;
  using Pass::p_;

 public:
  StackForward(const ForwardArgs& args, Workspace& workspace, Stream stream, int64_t chunk_bytes = usual_chunk_bytes)
      : Pass(args.problem, workspace, stream), args_(args), chunk_bytes_(chunk_bytes) {}

  void run() const {
    const int D = p_.directions;
    for (int l = 0; l < p_.layers; ++l) {
      for (int d = 0; d < D; ++d) {
        const ForwardCall call = {&this->of_layer(l),
                                  &args_.layer[l * D + d],
                                  this->input_size(l),
                                  this->reverse(d),
                                  l ? args_.y[l - 1] : args_.x,
                                  this->at(args_.y[l], d * p_.H),
                                  D * p_.H,
                                  chunk_bytes_};
        const int64_t mark = this->workspace_.mark();
        StepwiseForward<Cell, Number>(call, this->workspace_, this->stream_).run();
        this->workspace_.release(mark);
      }
      if (l + 1 < p_.layers) this->drop(args_.y[l], l);
    }
  }

 private:
  const ForwardArgs& args_;
  int64_t chunk_bytes_;
};

template <class Cell, class Number>
class StackBackward : StackPass<Number> {
  using Pass = StackPass<Number>;
  using Pass::p_;
  using typename Pass::T;

 public:
  StackBackward(const BackwardArgs& args, Workspace& workspace, Stream stream, int64_t chunk_bytes = usual_chunk_bytes)
      : Pass(args.problem, workspace, stream), args_(args), chunk_bytes_(chunk_bytes) {}

  void run() const {
    const int D = p_.directions;
    T* between[2] = {};  // gradients of the outputs of two layers
    for (int i = 0; i < p_.layers - 1 && i < 2; ++i) {
      between[i] = this->template take<T>({p_.T, p_.B, D * p_.H});
      // A layer asks whether there is a dx while it counts, but not where.
      if (this->workspace_.counts_only()) between[i] = reinterpret_cast<T*>(alignof(Chunk));
    }
    for (int l = p_.layers - 1; l >= 0; --l) {
      const void* dy = l + 1 < p_.layers ? between[l % 2] : args_.dy;
      void* dx = l ? between[(l - 1) % 2] : args_.dx;
      for (int d = 0; d < D; ++d) {
        const BackwardCall call = {&this->of_layer(l),
                                   &args_.layer[l * D + d],
                                   this->input_size(l),
                                   this->reverse(d),
                                   args_.x[l],
                                   this->at(dy, d * p_.H),
                                   D * p_.H,
                                   dx,
                                   args_.accumulate,
                                   d > 0 || (l == 0 && args_.accumulate),
                                   chunk_bytes_};
        const int64_t mark = this->workspace_.mark();
        StepwiseBackward<Cell, Number>(call, this->workspace_, this->stream_).run();
        this->workspace_.release(mark);
      }
      if (l) this->drop(dx, l - 1);
    }
  }

 private:
  const BackwardArgs& args_;
  int64_t chunk_bytes_;
};

}  // namespace rnnkernels::cuda
