// Finds the compiled kernel set of an ISA and dtype, and runs the heads. Layers and stacks are in stack.cpp.
#include "dispatch.h"

#include <stdexcept>
#include <string>

#include "half_heads.h"
#include "kernel_sets.h"
#include "plan.h"

namespace rnnkernels {

// The kernel sets' one symbol each.
#define RNNKERNELS_KERNEL_SET(isa, dtype, Real) \
  namespace isa {                               \
  const cpu::KernelSet& kernel_set_##dtype();   \
  }
#include "kernels.inc"
#undef RNNKERNELS_KERNEL_SET
namespace avx512vnni {
const cpu::LayerKernel* int8_layers();
}
namespace avx2 {
const cpu::LayerKernel* int8_layers();
}
namespace neon {
const cpu::LayerKernel* int8_layers();
}
namespace scalar {
const cpu::LayerKernel* int8_layers();
}

namespace cpu {

static const std::vector<const KernelSet*>& kernel_sets() {
  static const std::vector<const KernelSet*> sets = {
#define RNNKERNELS_KERNEL_SET(isa, dtype, Real) &isa::kernel_set_##dtype(),
#include "kernels.inc"
#undef RNNKERNELS_KERNEL_SET
  };
  return sets;
}

// Instruction sets for bfloat16 extend AVX-512, which has the kernels of all else.
static Isa without_bf16(Isa isa) { return isa == Isa::amx || isa == Isa::avx512bf16 ? Isa::avx512 : isa; }

const KernelSet& kernel_set(Isa isa, Dtype dtype) {
  const Isa of_dtype = dtype == Dtype::bf16 ? isa : without_bf16(isa);
  for (const KernelSet* set : kernel_sets()) {
    if (set->isa == of_dtype && set->dtype == dtype && isa_available(isa)) return *set;
  }
  throw std::runtime_error(std::string("isa: ") + isa_name(isa) + " is not available in this build or on this machine");
}

// An AVX-512 without VNNI has nothing for bytes that AVX2 has not.
static const LayerKernel* int8_layers(Isa isa) {
#if defined(RNNKERNELS_HAVE_AVX512)
  if (isa == Isa::avx512 && has_vnni()) return avx512vnni::int8_layers();
#endif
#if defined(RNNKERNELS_HAVE_AVX2)
  if (isa == Isa::avx512 || isa == Isa::avx2) return avx2::int8_layers();
#endif
#if defined(RNNKERNELS_HAVE_NEON)
  if (isa == Isa::neon) return neon::int8_layers();
#endif
  return scalar::int8_layers();
}

const LayerKernel& int8_kernel(Isa isa, Cell cell) {
  kernel_set(isa, Dtype::f32);  // it can run
  return int8_layers(without_bf16(isa))[static_cast<int>(cell)];
}

bool isa_compiled(Isa isa) {
  for (const KernelSet* set : kernel_sets()) {
    if (set->isa == isa) return true;
  }
  return false;
}

static std::vector<KernelInfo> list_kernels() {
  std::vector<KernelInfo> list;
  for (const KernelSet* set : kernel_sets()) {
    const auto add = [&](const char* name, const char* cell) { list.push_back({name, cell, set->dtype, set->isa}); };
#define RNNKERNELS_CELL(name, Type)                                   \
  add(set->layers[static_cast<int>(Cell::name)].forward_name, #name); \
  add(set->layers[static_cast<int>(Cell::name)].backward_name, #name);
#include "../core/cells.inc"
#undef RNNKERNELS_CELL
    add(set->linear_forward.name, "linear");
    add(set->linear_backward.name, "linear");
    add(set->cross_entropy_forward.name, "cross_entropy");
    add(set->cross_entropy_backward.name, "cross_entropy");
    add(set->linear_cross_entropy_forward.name, "linear_cross_entropy");
    add(set->linear_cross_entropy_backward.name, "linear_cross_entropy");
  }
  return list;
}

const std::vector<KernelInfo>& kernels() {
  static const std::vector<KernelInfo> list = list_kernels();
  return list;
}

namespace {

template <class Args>
void run_head(const HeadKernel<Args>& kernel, const Args& args, int threads) {
  struct Run {
    const HeadKernel<Args>& kernel;
    const Args& args;
    Scratch scratch;
  } run{kernel, args, Scratch(kernel.scratch(args, threads))};
  const TeamFunction body = [](void* context, const Team& team) {
    Run& r = *static_cast<Run*>(context);
    r.kernel.run(r.args, r.scratch.data, team);
  };
  run_team(threads, body, &run);
}

double product_flops(int64_t n, int64_t k, int64_t m) {
  return 2.0 * static_cast<double>(n) * static_cast<double>(k) * static_cast<double>(m);
}

constexpr double flops_of_exp = 30;

}  // namespace

void linear_forward(const LinearArgs& args, const Execution& execution) {
  if (is_half(args.dtype)) return half::linear_forward(args, execution);
  const int threads = plan_rows(product_flops(args.N, args.I, args.O), args.N, execution.num_threads);
  run_head(kernel_set(execution.isa, args.dtype).linear_forward, args, threads);
}

void linear_backward(const LinearBackwardArgs& args, const Execution& execution) {
  if (is_half(args.dtype)) return half::linear_backward(args, execution);
  const int threads = plan_rows(2 * product_flops(args.N, args.I, args.O), args.N, execution.num_threads);
  run_head(kernel_set(execution.isa, args.dtype).linear_backward, args, threads);
}

void cross_entropy_forward(const CrossEntropyArgs& args, const Execution& execution) {
  if (is_half(args.dtype)) return half::cross_entropy_forward(args, execution);
  const double flops = static_cast<double>(args.N) * static_cast<double>(args.V) * flops_of_exp;
  run_head(kernel_set(execution.isa, args.dtype).cross_entropy_forward, args,
           plan_rows(flops, args.N, execution.num_threads));
}

void cross_entropy_backward(const CrossEntropyBackwardArgs& args, const Execution& execution) {
  if (is_half(args.dtype)) return half::cross_entropy_backward(args, execution);
  const double flops = static_cast<double>(args.N) * static_cast<double>(args.V) * flops_of_exp;
  run_head(kernel_set(execution.isa, args.dtype).cross_entropy_backward, args,
           plan_rows(flops, args.N, execution.num_threads));
}

void linear_cross_entropy_forward(const LinearCrossEntropyArgs& args, const Execution& execution) {
  if (is_half(args.dtype)) return half::linear_cross_entropy_forward(args, execution);
  const int threads = plan_rows(product_flops(args.N, args.H, args.V), args.N, execution.num_threads);
  run_head(kernel_set(execution.isa, args.dtype).linear_cross_entropy_forward, args, threads);
}

void linear_cross_entropy_backward(const LinearCrossEntropyBackwardArgs& args, const Execution& execution) {
  if (is_half(args.dtype)) return half::linear_cross_entropy_backward(args, execution);
  const int threads = plan_rows(3 * product_flops(args.N, args.H, args.V), args.N, execution.num_threads);
  run_head(kernel_set(execution.isa, args.dtype).linear_cross_entropy_backward, args, threads);
}

}  // namespace cpu
}  // namespace rnnkernels
