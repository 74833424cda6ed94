// What dispatch.cpp and stack.cpp share: finding a kernel set, and memory for a call.
#pragma once

#include "dispatch.h"
#include "kernel.h"

namespace rnnkernels::cpu {

const KernelSet& kernel_set(Isa isa, Dtype dtype);  // throws std::runtime_error where it cannot run

// Uninitialised memory on a cache line, for as long as a call (or a pack) lives.
struct Scratch {
  explicit Scratch(size_t bytes);
  Scratch(Scratch&& other) noexcept : data(other.data) { other.data = nullptr; }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch();
  char* data;
};

}  // namespace rnnkernels::cpu
