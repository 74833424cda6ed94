// Heads of bfloat16 and float16: those of float32 on weights and blocks of rows that are widened, their results rounded once.
#pragma once

#include "dispatch.h"

namespace rnnkernels::cpu::half {

void linear_forward(const LinearArgs& args, const Execution& execution);
void linear_backward(const LinearBackwardArgs& args, const Execution& execution);
void cross_entropy_forward(const CrossEntropyArgs& args, const Execution& execution);
void cross_entropy_backward(const CrossEntropyBackwardArgs& args, const Execution& execution);
void linear_cross_entropy_forward(const LinearCrossEntropyArgs& args, const Execution& execution);
void linear_cross_entropy_backward(const LinearCrossEntropyBackwardArgs& args, const Execution& execution);

}  // namespace rnnkernels::cpu::half
