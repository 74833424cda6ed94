// From losses of rows to the loss, and back.
#include <limits>

#include "dispatch.h"

namespace rnnkernels::cpu {
namespace {

int64_t count_targets(const ReduceLossesArgs& a) {
  int64_t count = 0;
  for (int64_t n = 0; n < a.N; ++n) count += a.targets[n] != a.ignore_index;
  return count;
}

template <class Real>
void reduce(const ReduceLossesArgs& a, int64_t divisor) {
  double sum = 0;
  for (int64_t n = 0; n < a.N; ++n) sum += static_cast<double>(static_cast<const Real*>(a.losses)[n]);
  const double mean = divisor == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / static_cast<double>(divisor);
  *static_cast<Real*>(a.loss) = static_cast<Real>(mean);
}

template <class Real>
void spread(const SpreadGradientArgs& a) {
  const int64_t divisor = a.reduction == Reduction::mean && *a.count > 1 ? *a.count : 1;
  const auto *each = static_cast<const Real*>(a.each), *one = static_cast<const Real*>(a.one);
  const Real all = one != nullptr ? *one : static_cast<Real>(a.value);
  for (int64_t n = 0; n < a.N; ++n) {
    static_cast<Real*>(a.rows)[n] = (each != nullptr ? each[n] : all) / static_cast<Real>(divisor);
  }
}

}  // namespace

void reduce_losses(const ReduceLossesArgs& args, const Execution&) {
  *args.count = count_targets(args);
  if (args.loss == nullptr) return;
  const int64_t divisor = args.reduction == Reduction::mean ? *args.count : 1;
  args.dtype == Dtype::f64 ? reduce<double>(args, divisor) : reduce<float>(args, divisor);
}

void spread_gradient(const SpreadGradientArgs& args, const Execution&) {
  args.dtype == Dtype::f64 ? spread<double>(args) : spread<float>(args);
}

}  // namespace rnnkernels::cpu
