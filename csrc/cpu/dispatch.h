// The CPU backend's front door: picks the kernel for a cell, dtype and ISA, and runs it on the thread pool.
// Everything here is compiled for the baseline CPU; only kernels.cpp sees ISA flags.
#pragma once

#include <cstddef>
#include <vector>

#include "../traits.h"

namespace rnnkernels {

namespace cpu {

struct Execution {
  Isa isa;
  int num_threads;  // at least 1
};

struct KernelInfo {
  const char* name;  // "lstm_forward_f32_avx512": symbol, test id and benchmark row
  const char* cell;  // "lstm", or a head's name
  Dtype dtype;
  Isa isa;
};

// All of these may throw std::bad_alloc, and std::runtime_error for an ISA this machine or build lacks.
void forward(const ForwardArgs& args, const Execution& execution);
void backward(const BackwardArgs& args, const Execution& execution);

// weights: [L*D]. int8: rounded to 8 bits, for f32 problems whose rows of weights are finite and have at most so many columns
// that a sum of products fits in an int32.
constexpr int64_t most_int8_columns = 0x7fffffff / (127 * 127);
PackedStack* pack_stack(const Problem& problem, const Weights* weights, bool int8, const Execution& execution);
void free_packed(PackedStack* packed);

void add(Dtype dtype, void* sum, const void* term, int64_t n);  // sum[i] += term[i]

void linear_forward(const LinearArgs& args, const Execution& execution);
void linear_backward(const LinearBackwardArgs& args, const Execution& execution);
void cross_entropy_forward(const CrossEntropyArgs& args, const Execution& execution);
void cross_entropy_backward(const CrossEntropyBackwardArgs& args, const Execution& execution);
void linear_cross_entropy_forward(const LinearCrossEntropyArgs& args, const Execution& execution);
void linear_cross_entropy_backward(const LinearCrossEntropyBackwardArgs& args, const Execution& execution);
void reduce_losses(const ReduceLossesArgs& args, const Execution& execution);  // in float64, in the order of rows
void spread_gradient(const SpreadGradientArgs& args, const Execution& execution);

const std::vector<KernelInfo>& kernels();  // every kernel in this build, best ISA first
const char* isa_name(Isa isa);
bool isa_compiled(Isa isa);
bool isa_available(Isa isa);  // compiled, and this CPU and operating system run it
bool has_vnni();              // of AVX-512
Isa best_isa();
int usable_cpus();   // CPUs this process may use (affinity)
int64_t l2_bytes();  // of one core, or what is likely

}  // namespace cpu
}  // namespace rnnkernels
