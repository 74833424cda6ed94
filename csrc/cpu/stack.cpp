// Runs stacks: layer after layer, the directions of a layer side by side, dropout in between. A single layer in one
// direction is the 1 x 1 stack.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "../core/half.h"
#include "../core/philox.h"
#include "kernel_sets.h"
#include "plan.h"

namespace rnnkernels {

struct PackedStack {
  Isa isa;
  bool int8;
  std::vector<cpu::Scratch> layer;  // [L*D]
};

namespace cpu {
namespace {

// The arrays behind a Schedule; both directions of a stack share them.
class Order {
 public:
  explicit Order(const Problem& problem) : T_(problem.T), B_(problem.B), lengths_(problem.lengths) {
    steps_ = T_;
    if (lengths_) {
      order_.resize(static_cast<size_t>(B_));
      std::iota(order_.begin(), order_.end(), int64_t(0));
      std::stable_sort(order_.begin(), order_.end(), [&](int64_t a, int64_t b) { return lengths_[a] > lengths_[b]; });
      steps_ = B_ ? lengths_[order_[0]] : 0;
    }
    active_.assign(static_cast<size_t>(steps_) + 1, B_);
    active_.back() = 0;
    for (int64_t s = 0, j = B_; lengths_ && s < steps_; ++s) {
      while (lengths_[order_[static_cast<size_t>(j - 1)]] <= s) --j;
      active_[static_cast<size_t>(s)] = j;
    }
    first_row_.assign(active_.size(), 0);
    std::partial_sum(active_.begin(), active_.end() - 1, first_row_.begin() + 1);
  }

  Schedule schedule(bool reverse) const {
    return {T_, B_, steps_, active_.data(), first_row_.data(), lengths_ ? order_.data() : nullptr, lengths_, reverse};
  }

  double rows() const { return static_cast<double>(first_row_.back()); }
  double steps() const { return static_cast<double>(steps_); }

 private:
  int64_t T_, B_, steps_;
  const int64_t* lengths_;
  std::vector<int64_t> order_, active_, first_row_;
};

const void* offset(const void* p, int64_t elements, Dtype dtype) {
  return p ? static_cast<const char*>(p) + elements * static_cast<int64_t>(size_of(dtype)) : nullptr;
}

void* offset(void* p, int64_t elements, Dtype dtype) {
  return const_cast<void*>(offset(const_cast<const void*>(p), elements, dtype));
}

int64_t input_size(const Problem& problem, int layer) { return layer ? problem.directions * problem.H : problem.I; }

bool reversed(const Problem& problem, int direction) {
  return problem.directions == 2 ? direction == 1 : problem.reverse;
}

// What a plan must know of a pass.
struct Pass {
  double cost;  // in forwards; backward is about three
  bool fusible;
  double weight_size;  // bytes
  Isa isa;
};

double vector_bytes(Isa isa) {
  switch (isa) {
    case Isa::amx:
    case Isa::avx512bf16:
    case Isa::avx512: return 64;
    case Isa::avx2: return 32;
    case Isa::neon: return 16;
    case Isa::scalar: break;
  }
  return sizeof(float);
}

Plan plan_of(const Problem& problem, const Order& order, int layer, const Pass& pass, int max_threads) {
  const bool dense = layer > 0 || !problem.ids;
  const double gates = traits(problem.cell).gates, H = static_cast<double>(problem.H);
  const double columns = H + (dense ? static_cast<double>(input_size(problem, layer)) : 0);
  constexpr int64_t widest_panel = 32;  // units
  LayerWork work{};
  work.step_flops = order.steps() > 0 ? 2 * gates * H * H * order.rows() / order.steps() : 0;
  work.total_flops = 2 * pass.cost * gates * H * columns * order.rows();
  work.weight_bytes = gates * H * columns * pass.weight_size;
  work.rows = problem.B;
  work.panels = (problem.H + widest_panel - 1) / widest_panel;
  work.panel_bytes = std::max(gates, 2.0) * vector_bytes(pass.isa) * columns;  // PackedLayer::vectors
  work.row_bytes = columns * pass.weight_size;
  work.fusible = pass.fusible;
  return plan_layer(work, max_threads, static_cast<double>(l2_bytes()));
}

// A layer's calls, one a direction, each with its scratch; run() gives each direction half of the threads.
template <class Call>
struct LayerRun {
  void (*kernel)(const Call&, const Team&);
  std::vector<Call> calls;
  std::vector<Scratch> scratch;
  size_t scratch_bytes = 0;

  void run(int threads) {
    if (calls.size() == 1) {
      run_team(
          threads,
          [](void* self, const Team& team) {
            LayerRun& r = *static_cast<LayerRun*>(self);
            r.kernel(r.calls[0], team);
          },
          this);
    } else {
      run_twin_teams(
          threads,
          [](void* self, int which, const Team& team) {
            LayerRun& r = *static_cast<LayerRun*>(self);
            r.kernel(r.calls[static_cast<size_t>(which)], team);
          },
          this);
    }
  }

  void add(const Call& call, size_t bytes) {
    scratch_bytes += bytes;
    scratch.emplace_back(bytes);
    calls.push_back(call);
    calls.back().scratch = scratch.back().data;
  }
};

// For each direction; both run at once when there are threads for it, and each is planned for half of them.
Plan plan_directions(const Problem& problem, const Order& order, int layer, const Pass& pass, int max_threads) {
  if (problem.directions == 1) return plan_of(problem, order, layer, pass, max_threads);
  Plan plan = plan_of(problem, order, layer, pass, std::max(1, max_threads / 2));
  const Pass both{2 * pass.cost, pass.fusible, pass.weight_size, pass.isa};
  const bool worth_two = max_threads > 1 && plan_of(problem, order, layer, both, 2).threads > 1;
  plan.threads = worth_two ? 2 * plan.threads : 1;
  if (plan.threads == 2) plan.why = "each has a direction";
  return plan;
}

void explain(const char* kernel, const Problem& p, int layer, const Plan& plan, size_t scratch) {
  static const char* const asked = std::getenv("RNNKERNELS_EXPLAIN");
  if (!asked || !*asked || std::strcmp(asked, "0") == 0) return;
  std::fprintf(stderr, "rnnkernels: %s, T=%lld B=%lld I=%lld H=%lld: %d thread%s%s (%s)%s, %.2f MiB of scratch\n",
               kernel, static_cast<long long>(p.T), static_cast<long long>(p.B),
               static_cast<long long>(input_size(p, layer)), static_cast<long long>(p.H), plan.threads,
               plan.threads == 1 ? "" : "s",
               plan.threads == 1  ? ""
               : plan.split_batch ? " sharing sequences"
                                  : " sharing units",
               plan.why, plan.fused ? ", input and state in one tile" : "", static_cast<double>(scratch) / 1048576);
}

// 16-bit numbers, one by one.
struct Bf16 {
  using Number = uint16_t;
  static float widen(uint16_t x) { return from_bf16(x); }
  static uint16_t round(float x) { return to_bf16(x); }
};
struct F16 {
  using Number = uint16_t;
  static float widen(uint16_t x) { return from_f16(x); }
  static uint16_t round(float x) { return to_f16(x); }
};
template <class Real>
struct Itself {
  using Number = Real;
  static Real widen(Real x) { return x; }
  static Real round(Real x) { return x; }
};

// Calls body with the one of these that dtype is.
template <class Body>
void with_format(Dtype dtype, const Body& body) {
  switch (dtype) {
    case Dtype::f32: return body(Itself<float>());
    case Dtype::f64: return body(Itself<double>());
    case Dtype::bf16: return body(Bf16());
    case Dtype::f16: return body(F16());
  }
}

template <class Format>
void drop(typename Format::Number* y, int64_t n, double probability, uint64_t key, int layer) {
  using Real = decltype(Format::widen(*y));
  const uint32_t threshold = static_cast<uint32_t>(std::nearbyint(probability * 16777216.0));
  const Real scale = Real(1) / (Real(1) - static_cast<Real>(probability));
  for (int64_t block = 0; block * 4 < n; ++block) {
    const Philox random = dropout_block(key, static_cast<uint64_t>(block), static_cast<uint32_t>(layer));
    for (int64_t e = block * 4; e < std::min(n, block * 4 + 4); ++e) {
      y[e] = Format::round(dropout_keeps(random.word[e % 4], threshold) ? Format::widen(y[e]) * scale : Real(0));
    }
  }
}

// Dropout of a layer's output, or of its gradient: the same factor for both.
void drop(const Problem& problem, void* y, int layer) {
  if (problem.dropout <= 0) return;
  const int64_t n = problem.T * problem.B * problem.directions * problem.H;
  with_format(problem.dtype, [&](auto format) {
    using Format = decltype(format);
    drop<Format>(static_cast<typename Format::Number*>(y), n, problem.dropout, problem.dropout_key, layer);
  });
}

// The kernels of a pack, which stay those it was made for, or of a call without one.
const LayerKernel& layer_kernel(const Problem& problem, Isa isa, bool int8) {
  return int8 ? int8_kernel(isa, problem.cell) : kernel_set(isa, problem.dtype).layers[static_cast<int>(problem.cell)];
}

}  // namespace

void add(Dtype dtype, void* sum, const void* term, int64_t n) {
  with_format(dtype, [&](auto format) {
    using Format = decltype(format);
    auto* to = static_cast<typename Format::Number*>(sum);
    const auto* from = static_cast<const typename Format::Number*>(term);
    for (int64_t i = 0; i < n; ++i) to[i] = Format::round(Format::widen(to[i]) + Format::widen(from[i]));
  });
}

void forward(const ForwardArgs& args, const Execution& execution) {
  const Problem& p = args.problem;
  const bool int8 = args.packed && args.packed->int8;
  const Isa isa = args.packed ? args.packed->isa : execution.isa;
  const LayerKernel& kernel = layer_kernel(p, isa, int8);
  const Order order(p);
  for (int l = 0; l < p.layers; ++l) {
    LayerRun<LayerForwardCall> layer{kernel.forward, {}, {}};
    const bool fusible = kernel.fusible && (l || !p.ids) && !p.lengths &&
                         (args.packed || !args.layer[l * p.directions].weights.b_ih_per_sequence);
    const Plan plan = plan_directions(p, order, l, {1, fusible, kernel.weight_size, isa}, execution.num_threads);
    for (int d = 0; d < p.directions; ++d) {
      LayerForwardCall call{};
      call.dtype = p.dtype;
      call.I = input_size(p, l);
      call.H = p.H;
      call.schedule = order.schedule(reversed(p, d));
      call.x = l ? args.y[l - 1] : args.x;
      call.x_stride = call.I;
      call.ids = l ? nullptr : p.ids;
      call.io = args.layer[l * p.directions + d];
      call.packed = args.packed ? args.packed->layer[static_cast<size_t>(l * p.directions + d)].data : nullptr;
      call.y = offset(args.y[l], d * p.H, p.dtype);
      call.y_stride = p.directions * p.H;
      call.threads = plan.threads;
      call.split_batch = plan.split_batch;
      call.fused = plan.fused;
      layer.add(call, kernel.forward_scratch(call));
    }
    explain(kernel.forward_name, p, l, plan, layer.scratch_bytes);
    layer.run(plan.threads);
    if (l + 1 < p.layers) drop(p, args.y[l], l);
  }
}

void backward(const BackwardArgs& args, const Execution& execution) {
  const Problem& p = args.problem;
  const LayerKernel& kernel = layer_kernel(p, execution.isa, false);
  const Order order(p);
  std::unique_ptr<Scratch> dy, dy_below;  // gradients of this layer's output and of that of the layer below
  for (int l = p.layers - 1; l >= 0; --l) {
    const bool top = l + 1 == p.layers;
    const int64_t I = input_size(p, l), dx_size = p.T * p.B * I;
    const size_t dx_bytes = static_cast<size_t>(dx_size) * size_of(p.dtype);
    dy = std::move(dy_below);
    if (l) dy_below = std::make_unique<Scratch>(dx_bytes);
    void* dx = l ? dy_below->data : args.dx;
    Scratch second_dx(dx && p.directions == 2 ? dx_bytes : 0);
    LayerRun<LayerBackwardCall> layer{kernel.backward, {}, {}};
    const double weight_size = static_cast<double>(size_of(computed_in(p.dtype)));
    const Plan plan = plan_directions(p, order, l, {3, false, weight_size, execution.isa}, execution.num_threads);
    for (int d = 0; d < p.directions; ++d) {
      LayerBackwardCall call{};
      call.dtype = p.dtype;
      call.I = I;
      call.H = p.H;
      call.schedule = order.schedule(reversed(p, d));
      call.x = args.x[l];
      call.x_stride = I;
      call.ids = l ? nullptr : p.ids;
      call.io = args.layer[l * p.directions + d];
      call.dy = offset(top ? args.dy : dy->data, d * p.H, p.dtype);
      call.dy_stride = p.directions * p.H;
      call.dx = d ? second_dx.data : dx;
      call.accumulate = args.accumulate;
      call.accumulate_dx = args.accumulate && l == 0 && d == 0;
      call.split_batch = plan.split_batch;
      layer.add(call, kernel.backward_scratch(call));
    }
    explain(kernel.backward_name, p, l, plan, layer.scratch_bytes);
    layer.run(plan.threads);
    if (second_dx.data) add(p.dtype, dx, second_dx.data, dx_size);
    if (l) drop(p, dx, l - 1);
  }
}

PackedStack* pack_stack(const Problem& problem, const Weights* weights, bool int8, const Execution& execution) {
  const LayerKernel& kernel = layer_kernel(problem, execution.isa, int8);
  auto packed = std::make_unique<PackedStack>();
  packed->isa = execution.isa;
  packed->int8 = int8;
  for (int l = 0; l < problem.layers; ++l) {
    for (int d = 0; d < problem.directions; ++d) {
      const int64_t I = input_size(problem, l);
      packed->layer.emplace_back(kernel.packed_bytes(I, problem.H));
      kernel.pack(weights[l * problem.directions + d], problem.dtype, I, problem.H, packed->layer.back().data,
                  {0, 1, nullptr});
    }
  }
  return packed.release();
}

void free_packed(PackedStack* packed) { delete packed; }

}  // namespace cpu
}  // namespace rnnkernels
