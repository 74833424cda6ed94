// Finding a kernel set, and memory for a call.
#pragma once

#include "dispatch.h"
#include "kernel.h"
#include "scratch.h"

namespace rnnkernels::cpu {

// Both throw std::runtime_error where it cannot run.
const KernelSet& kernel_set(Isa isa, Dtype dtype);
const LayerKernel& int8_kernel(Isa isa, Cell cell);  // forward alone, of weights packed as int8

}  // namespace rnnkernels::cpu
