// What is compiled once for each kind of numbers (kernels.cu): the passes, by name.
#pragma once

#include "../api.h"
#include "queue.h"

namespace rnnkernels::cuda {

struct Passes {
  template <class Args>
  using Pass = void (*)(const Args&, Workspace&, Stream);

  Pass<ForwardArgs> forward;
  Pass<BackwardArgs> backward;
  Pass<LinearArgs> linear_forward;
  Pass<LinearBackwardArgs> linear_backward;
  Pass<CrossEntropyArgs> cross_entropy_forward;
  Pass<CrossEntropyBackwardArgs> cross_entropy_backward;
  Pass<LinearCrossEntropyArgs> linear_cross_entropy_forward;
  Pass<LinearCrossEntropyBackwardArgs> linear_cross_entropy_backward;
};

#define RNNKERNELS_NUMBER(name, type) const Passes& passes_##name();
#include "numbers.inc"
#undef RNNKERNELS_NUMBER

}  // namespace rnnkernels::cuda
