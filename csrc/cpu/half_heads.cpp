// A head of halves cuts its rows into blocks, widens them, runs the head of float32, and rounds what comes out. Weights are
// widened whole, and their gradients are summed over the blocks in float32. Losses and log-sum-exps are float32 for the caller
// too. Blocks follow from the sizes alone, so the bits depend neither on threads nor, for results of a row, on other rows.
#include "half_heads.h"

#include <algorithm>

#include "kernel_sets.h"
#include "plan.h"

namespace rnnkernels::cpu::half {
namespace {

// n elements from `begin` on of an array of 16-bit numbers, or null.
template <class Void>
Void* elements(Void* array, int64_t begin) {
  using Bits = std::conditional_t<std::is_const_v<Void>, const uint16_t, uint16_t>;
  return array ? static_cast<Bits*>(array) + begin : nullptr;
}

struct Floats {
  Scratch memory;
  float* data;

  explicit Floats(int64_t n)
      : memory(static_cast<size_t>(n) * sizeof(float)), data(reinterpret_cast<float*>(memory.data)) {}
};

// What a gradient is summed in, if it is wanted.
Floats zeros_for(const void* gradient, int64_t n) {
  Floats floats(gradient ? n : 0);
  std::fill_n(floats.data, gradient ? n : 0, 0.0f);
  return floats;
}

// Between a caller's arrays and floats, on the threads of a call.
class Conversion {
 public:
  Conversion(Dtype dtype, const Execution& execution)
      : set_(kernel_set(execution.isa, dtype)), most_threads_(execution.num_threads) {}

  // Nothing of an array that is absent.
  Floats widened(const void* from, int64_t n) const {
    Floats floats(from ? n : 0);
    if (from)
      share(n,
            [&](int64_t begin, int64_t end) { set_.widen(elements(from, begin), floats.data + begin, end - begin); });
    return floats;
  }

  void round(const Floats& from, void* to, int64_t n, bool add = false) const {
    if (!to) return;
    share(n, [&](int64_t begin, int64_t end) { set_.round(from.data + begin, elements(to, begin), end - begin, add); });
  }

 private:
  template <class Body>
  void share(int64_t n, const Body& body) const {
    struct Shared {
      int64_t n;
      const Body& body;
    } shared{n, body};
    constexpr double flops_each = 16;  // as long as those take
    run_team(
        plan_rows(flops_each * static_cast<double>(n), n, most_threads_),
        [](void* context, const Team& team) {
          const Shared& s = *static_cast<Shared*>(context);
          s.body(s.n * team.rank / team.size, s.n * (team.rank + 1) / team.size);
        },
        &shared);
  }

  const KernelSet& set_;
  int most_threads_;
};

// Calls body(first row, rows) for blocks of some MiB, of whole blocks of the float32 heads.
template <class Body>
void for_each_block(int64_t N, int64_t columns, const Body& body) {
  constexpr int64_t elements_of_block = int64_t(1) << 20, rows_of_heads = 256;
  const int64_t rows =
      std::max(elements_of_block / std::max<int64_t>(columns, 1) / rows_of_heads, int64_t(1)) * rows_of_heads;
  for (int64_t row = 0; row < N; row += rows) body(row, std::min(rows, N - row));
}

}  // namespace

void linear_forward(const LinearArgs& args, const Execution& execution) {
  const Conversion convert(args.dtype, execution);
  const Floats w = convert.widened(args.w, args.O * args.I), b = convert.widened(args.b, args.O);
  for_each_block(args.N, args.I + args.O, [&](int64_t row, int64_t rows) {
    const Floats x = convert.widened(elements(args.x, row * args.I), rows * args.I), y(rows * args.O);
    cpu::linear_forward({Dtype::f32, rows, args.I, args.O, x.data, w.data, b.data, y.data}, execution);
    convert.round(y, elements(args.y, row * args.O), rows * args.O);
  });
}

void linear_backward(const LinearBackwardArgs& args, const Execution& execution) {
  const Conversion convert(args.dtype, execution);
  const Floats w = convert.widened(args.w, args.O * args.I);
  const Floats dw = zeros_for(args.dw, args.O * args.I), db = zeros_for(args.db, args.O);
  for_each_block(args.N, args.I + args.O, [&](int64_t row, int64_t rows) {
    const Floats x = convert.widened(elements(args.x, row * args.I), rows * args.I);
    const Floats dy = convert.widened(elements(args.dy, row * args.O), rows * args.O);
    const Floats dx = zeros_for(args.dx, rows * args.I);
    cpu::linear_backward({Dtype::f32, rows, args.I, args.O, x.data, w.data, dy.data, dx.data, dw.data, db.data, true},
                         execution);
    convert.round(dx, elements(args.dx, row * args.I), rows * args.I, args.accumulate);
  });
  convert.round(dw, args.dw, args.O * args.I, args.accumulate);
  convert.round(db, args.db, args.O, args.accumulate);
}

void cross_entropy_forward(const CrossEntropyArgs& args, const Execution& execution) {
  const Conversion convert(args.dtype, execution);
  for_each_block(args.N, args.V, [&](int64_t row, int64_t rows) {
    const Floats logits = convert.widened(elements(args.logits, row * args.V), rows * args.V);
    cpu::cross_entropy_forward({Dtype::f32, rows, args.V, logits.data, args.targets + row, args.ignore_index,
                                static_cast<float*>(args.loss) + row, static_cast<float*>(args.lse) + row},
                               execution);
  });
}

void cross_entropy_backward(const CrossEntropyBackwardArgs& args, const Execution& execution) {
  const Conversion convert(args.dtype, execution);
  for_each_block(args.N, args.V, [&](int64_t row, int64_t rows) {
    const Floats logits = convert.widened(elements(args.logits, row * args.V), rows * args.V);
    cpu::cross_entropy_backward(
        {Dtype::f32, rows, args.V, logits.data, args.targets + row, args.ignore_index,
         static_cast<const float*>(args.lse) + row, static_cast<const float*>(args.dloss) + row, logits.data},
        execution);
    convert.round(logits, elements(args.dlogits, row * args.V), rows * args.V);
  });
}

void linear_cross_entropy_forward(const LinearCrossEntropyArgs& args, const Execution& execution) {
  const Conversion convert(args.dtype, execution);
  const Floats w = convert.widened(args.w, args.V * args.H), b = convert.widened(args.b, args.V);
  for_each_block(args.N, args.H, [&](int64_t row, int64_t rows) {
    const Floats h = convert.widened(elements(args.h, row * args.H), rows * args.H);
    cpu::linear_cross_entropy_forward(
        {Dtype::f32, rows, args.H, args.V, h.data, w.data, b.data, args.targets + row, args.ignore_index,
         static_cast<float*>(args.loss) + row, static_cast<float*>(args.lse) + row},
        execution);
  });
}

void linear_cross_entropy_backward(const LinearCrossEntropyBackwardArgs& args, const Execution& execution) {
  const Conversion convert(args.dtype, execution);
  const Floats w = convert.widened(args.w, args.V * args.H), b = convert.widened(args.b, args.V);
  const Floats dw = zeros_for(args.dw, args.V * args.H), db = zeros_for(args.db, args.V);
  for_each_block(args.N, args.H, [&](int64_t row, int64_t rows) {
    const Floats h = convert.widened(elements(args.h, row * args.H), rows * args.H);
    const Floats dh = zeros_for(args.dh, rows * args.H);
    cpu::linear_cross_entropy_backward({Dtype::f32, rows, args.H, args.V, h.data, w.data, b.data, args.targets + row,
                                        args.ignore_index, static_cast<const float*>(args.lse) + row,
                                        static_cast<const float*>(args.dloss) + row, dh.data, dw.data, db.data, true},
                                       execution);
    convert.round(dh, elements(args.dh, row * args.H), rows * args.H, args.accumulate);
  });
  convert.round(dw, args.dw, args.V * args.H, args.accumulate);
  convert.round(db, args.db, args.V, args.accumulate);
}

}  // namespace rnnkernels::cpu::half
