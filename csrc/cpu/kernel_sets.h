// Finding a kernel set, and memory for a call.
#pragma once

#include "dispatch.h"
#include "kernel.h"
#include "scratch.h"

namespace rnnkernels::cpu {

const KernelSet& kernel_set(Isa isa, Dtype dtype);  // throws std::runtime_error where it cannot run

}  // namespace rnnkernels::cpu
