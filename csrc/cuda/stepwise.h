// A layer on the device by the stepwise tier: which kernels run, in which order, on what memory. All pointers of a call are of
// the device. Work is queued on the caller's stream; nothing is allocated and nothing waits, so that it can be captured.
//
// Time goes in chunks, so that the workspace is bounded: x's projection a chunk of steps at a time in forward, dgates and
// the gradients made of them in backward. Chunks follow from the sizes alone, and so do all sums.
#pragma once

#include <algorithm>

#include "../api.h"
#include "launch.h"
#include "stepwise.cuh"
#include "workspace.h"

namespace rnnkernels::cuda {

// One layer in one direction. I is the layer's own, and so is reverse.
struct ForwardCall {
  const Problem* problem;
  const LayerForward* layer;
  int64_t I;
  bool reverse;
  const void* x;  // (T, B, I), unless problem->ids
  void* y;        // (T, B, H), a row every y_stride elements; null: nobody asks
  int64_t y_stride;
};

struct BackwardCall {
  const Problem* problem;
  const LayerBackward* layer;
  int64_t I;
  bool reverse;
  const void* x;
  const void* dy;  // (T, B, H), a row every dy_stride elements, or null
  int64_t dy_stride;
  void* dx;
  bool accumulate, accumulate_dx;  // a second direction adds to the first's dx
};

template <class E>
constexpr int64_t pad_row(int64_t count) {
  constexpr int64_t width = sizeof(Chunk) / sizeof(E);
  return (count + width - 1) / width * width;
}

constexpr int64_t chunk_bytes = int64_t{64} << 20;

inline int64_t steps_of_chunk(int64_t T, int64_t bytes_of_step) {
  return std::max<int64_t>(1, std::min(T, chunk_bytes / std::max<int64_t>(1, bytes_of_step)));
}

// What both passes need of a call and queue alike.
template <class Number>
class StepwisePass {
 protected:
  using T = typename Number::T;
  using Real = typename Number::Real;

  StepwisePass(const Problem& problem, int64_t I, bool reverse, Workspace& workspace, cudaStream_t stream)
      : p_(problem),
        I_(I),
        H_(problem.H),
        rows_(problem.B),
        sequences_{problem.lengths, problem.T, static_cast<int>(problem.B), reverse},
        workspace_(workspace),
        stream_(stream) {}

  template <class... P, class... A>
  void queue(const char* name, dim3 grid, int threads, size_t shared, void (*kernel)(P...), A... arguments) const {
    LaunchShape shape;
    shape.grid = grid, shape.block = static_cast<unsigned>(threads), shape.shared_bytes = shared, shape.stream = stream_;
    launch(name, shape, kernel, arguments...);
  }

  static unsigned blocks(int64_t count, int64_t each) { return static_cast<unsigned>((count + each - 1) / each); }

  void zero(void* memory, int64_t bytes) const {
    if (bytes) check(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes), stream_), "cudaMemsetAsync");
  }

  template <class To, class From>
  void copy(To* to, int64_t to_stride, int64_t to_columns, const From* from, int64_t from_stride, int64_t rows,
            int64_t columns, bool accumulate = false) const {
    if (rows * to_columns == 0) return;
    queue("copy_rows", blocks(rows * to_columns, array_threads), array_threads, 0, copy_rows<To, From>, to, to_stride,
          to_columns, from, from_stride, rows, columns, accumulate);
  }

  // A (B, H) state of Real from one of any type, or zeros.
  template <class From>
  void begin_state(Real* state, const void* from) const {
    if (from)
      copy(state, H_, H_, static_cast<const From*>(from), H_, p_.B, H_);
    else
      zero(state, p_.B * H_ * static_cast<int64_t>(sizeof(Real)));
  }

  template <class Math, class Out>
  void multiply(const char* name, Rows<typename Math::Element> a, Rows<typename Math::Element> b, int64_t K,
                Out out) const {
    using Block = Product<Math, 4, 2>;
    if (a.count == 0 || b.count == 0) return;
    queue(name, dim3(blocks(b.count, Block::columns), blocks(a.count, Block::rows)), Block::threads, Block::shared_bytes,
          gemm<Math, Out>, a, b, K, out);
  }

  template <class From>
  Rows<Real> transposed(Real* to, int64_t stride, From from, int64_t rows, int64_t columns) const {
    constexpr size_t shared = 32 * 33 * sizeof(Real);
    if (stride && columns)
      queue("transpose", dim3(blocks(stride, 32), blocks(columns, 32)), array_threads, shared, transpose<Real, From>, to,
            stride, from, rows, columns);
    return {to, stride, columns};
  }

  // [first, end) of each chunk in turn, in the order of the pass.
  template <class Act>
  void for_chunks(int64_t steps, bool descending, Act act) const {
    const int64_t count = (p_.T + steps - 1) / steps;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t first = (descending ? count - 1 - i : i) * steps;
      act(first, std::min(first + steps, p_.T));
    }
  }

  const Problem& p_;
  int64_t I_, H_, rows_;  // rows_: of a step
  Sequences sequences_;
  Workspace& workspace_;
  cudaStream_t stream_;
};

template <class Cell, class Number>
class StepwiseForward : StepwisePass<Number> {
  using Pass = StepwisePass<Number>;
  using typename Pass::Real;
  using typename Pass::T;
  using Pass::H_, Pass::I_, Pass::p_, Pass::sequences_, Pass::stream_, Pass::workspace_;

 public:
  StepwiseForward(const ForwardCall& call, Workspace& workspace, cudaStream_t stream)
      : Pass(*call.problem, call.I, call.reverse, workspace, stream), call_(call), layer_(*call.layer) {}

  void run() {
    const Weights& w = layer_.weights;
    const int64_t G_H = Cell::gates * H_, B = p_.B, padded = pad_row<T>(H_);
    const int64_t steps = steps_of_chunk(p_.T, B * (G_H + I_) * static_cast<int64_t>(sizeof(Real)));
    const auto w_hh = operand(w.w_hh, G_H, H_);
    const auto w_ih = p_.ids ? Rows<T>{} : operand(w.w_ih, G_H, I_);
    const bool packs_x = !p_.ids && !usable(call_.x, I_);
    T* x_packed = packs_x ? workspace_.template take<T>({steps, B, pad_row<T>(I_)}) : nullptr;
    Real* xg = workspace_.template take<Real>({steps, B, G_H});
    T* states[2] = {workspace_.template take<T>({B, padded}), workspace_.template take<T>({B, padded})};
    StepForward<Number> step = {};
    step.c = Cell::has_c ? workspace_.template take<Real>({B, H_}) : nullptr;
    if (Cell::reset_before) {
      step.reset_h = {workspace_.template take<T>({B, padded}), padded, B};
      step.reset_gate = workspace_.template take<Real>({B, H_}), step.update = workspace_.template take<Real>({B, H_});
    }
    if (workspace_.counts_only() || B == 0) return;

    for (T* state : states) this->zero(state, B * padded * static_cast<int64_t>(sizeof(T)));
    if (Cell::reset_before)
      this->zero(const_cast<T*>(step.reset_h.data), B * padded * static_cast<int64_t>(sizeof(T)));
    if (layer_.h0) this->copy(states[0], padded, padded, static_cast<const T*>(layer_.h0), H_, B, H_);
    if (Cell::has_c) this->template begin_state<Real>(step.c, layer_.c0);
    step.sequences = sequences_, step.H = static_cast<int>(H_), step.w_hh = w_hh;
    step.b_hh = static_cast<const T*>(w.b_hh), step.y_stride = call_.y_stride;

    this->for_chunks(steps, call_.reverse, [&](int64_t first, int64_t end) {
      project(xg, w_ih, x_packed, first, end);
      for (int64_t i = 0; i < end - first; ++i) {
        step.t = call_.reverse ? end - 1 - i : first + i;
        step.xg = xg + (step.t - first) * B * G_H;
        step.h_prev = {states[0], padded, B}, step.h = states[1];
        place_outputs(step);
        queue_step(step);
        std::swap(states[0], states[1]);
      }
    });
    if (layer_.h_n) this->copy(static_cast<T*>(layer_.h_n), H_, H_, states[0], padded, B, H_);
    if (Cell::has_c && layer_.c_n) this->copy(static_cast<Real*>(layer_.c_n), H_, H_, step.c, H_, B, H_);
  }

 private:
  // Whether rows of an array begin at multiples of 16 bytes.
  static bool usable(const void* data, int64_t columns) {
    return reinterpret_cast<uintptr_t>(data) % sizeof(Chunk) == 0 && pad_row<T>(columns) == columns;
  }

  // The array itself where it is usable, else a copy.
  Rows<T> operand(const void* data, int64_t rows, int64_t columns) {
    const T* from = static_cast<const T*>(data);
    if (usable(data, columns)) return {from, columns, rows};
    const int64_t padded = pad_row<T>(columns);
    T* to = workspace_.template take<T>({rows, padded});
    if (!workspace_.counts_only()) this->copy(to, padded, padded, from, columns, rows, columns);
    return {to, padded, rows};
  }

  void project(Real* xg, Rows<T> w_ih, T* x_packed, int64_t first, int64_t end) const {
    const Weights& w = layer_.weights;
    const int64_t G_H = Cell::gates * H_, rows = (end - first) * p_.B;
    const int64_t shared = Cell::reset_before ? G_H : (Cell::x_count + Cell::h_count - Cell::slots) * H_;
    const Biases<T> biases = {static_cast<const T*>(w.b_ih), static_cast<const T*>(w.b_hh), G_H, shared,
                              static_cast<int>(p_.B), w.b_ih_per_sequence};
    if (p_.ids) {
      this->queue("gather_inputs", this->blocks(rows * G_H, array_threads), array_threads, 0, gather_inputs<T>, xg,
                  biases, static_cast<const T*>(w.w_ih), w.w_ih_row_stride, w.w_ih_col_stride, p_.ids, first, rows,
                  sequences_);
      return;
    }
    const T* from = static_cast<const T*>(call_.x) + first * p_.B * I_;
    Rows<T> x = {from, I_, rows};
    if (x_packed) {
      x = {x_packed, pad_row<T>(I_), rows};
      this->copy(x_packed, x.stride, x.stride, from, I_, rows, I_);
    }
    this->template multiply<typename Number::Forward>("project", w_ih, x, I_, ProjectInput<T>{xg, biases});
  }

  void place_outputs(StepForward<Number>& step) const {
    const int64_t row = step.t * p_.B;
    auto at = [&](void* array, auto type, int64_t stride) {
      return array ? static_cast<decltype(type)*>(array) + row * stride : nullptr;
    };
    step.y = at(call_.y, T(), call_.y_stride);
    step.gates = at(layer_.gates, T(), Cell::saved_gates * H_);
    step.saved_h = at(layer_.h, T(), H_);
    step.saved_c = at(layer_.c, Real(), H_);
  }

  template <Phase phase>
  void queue_kernel(const char* name, const StepForward<Number>& step) const {
    using Block = Product<typename Number::Forward, StateSlots<Cell, phase>::count, 1>;
    this->queue(name, step_grid(static_cast<int>(p_.B), static_cast<int>(H_)), Block::threads, Block::shared_bytes,
                step_forward<Cell, Number, phase>, step);
  }

  void queue_step(const StepForward<Number>& step) const {
    if constexpr (Cell::reset_before) {
      queue_kernel<Phase::reset>("step_forward, of r and z", step);
      queue_kernel<Phase::after_reset>("step_forward, of n", step);
    } else {
      queue_kernel<Phase::whole>("step_forward", step);
    }
  }

  const ForwardCall& call_;
  const LayerForward& layer_;
};

template <class Cell, class Number>
class StepwiseBackward : StepwisePass<Number> {
  using Pass = StepwisePass<Number>;
  using typename Pass::Real;
  using typename Pass::T;
  using Pass::H_, Pass::I_, Pass::p_, Pass::sequences_, Pass::stream_, Pass::workspace_;
  static constexpr int64_t G = Cell::gates, slots = Cell::slots;

 public:
  StepwiseBackward(const BackwardCall& call, Workspace& workspace, cudaStream_t stream)
      : Pass(*call.problem, call.I, call.reverse, workspace, stream), call_(call), layer_(*call.layer) {}

  void run() {
    take_buffers();
    if (workspace_.counts_only()) return;
    begin();
    StepBackward<Number> step = {};
    step.sequences = sequences_, step.H = static_cast<int>(H_), step.padded = static_cast<int>(padded_);
    step.w_hh_t = this->transposed(w_hh_t_, G * padded_, gate_rows(layer_.weights.w_hh, H_), G * padded_, H_);
    if (call_.dx)
      w_ih_rows_ = this->transposed(w_ih_t_, G * padded_, gate_rows(layer_.weights.w_ih, I_), G * padded_, I_);
    step.dh = dh_, step.dc = dc_;
    step.all_h = static_cast<const T*>(layer_.h), step.h0 = static_cast<const T*>(layer_.h0);
    step.all_c = static_cast<const Real*>(layer_.c), step.c0 = static_cast<const Real*>(layer_.c0);
    step.dy_stride = call_.dy_stride;
    if (p_.B)
      this->for_chunks(steps_, !call_.reverse, [&](int64_t first, int64_t end) {
        run_steps(step, first, end);
        add_gradients(first, end);
      });
    finish();
  }

 private:
  // Which columns of d belong to which rows of w_hh: not all to the same where n is kept apart as xn and hn, or sees r*h.
  struct Parts {
    GatePart part[2];
  };
  Parts state_parts() const {
    if constexpr (Cell::slots > Cell::gates)
      return {{{0, 0, 2 * padded_}, {3 * padded_, 2 * padded_, padded_}}};
    else if constexpr (Cell::reset_before)
      return {{{0, 0, 2 * padded_}, {2 * padded_, 2 * padded_, padded_}}};
    else
      return {{{0, 0, G * padded_}, {0, 0, 0}}};
  }

  GateRows<T> gate_rows(const void* w, int64_t columns) const {
    return {static_cast<const T*>(w), columns, static_cast<uint32_t>(H_), static_cast<uint32_t>(padded_)};
  }

  void take_buffers() {
    const int64_t B = p_.B;
    padded_ = pad_row<Real>(H_);
    const bool dense = !p_.ids, wants_dw_ih = layer_.dw_ih, wants_dw_hh = layer_.dw_hh;
    const int64_t columns = 2 * slots * padded_ + (dense && wants_dw_ih ? I_ : 0) + (wants_dw_hh ? 2 * H_ : 0);
    steps_ = steps_of_chunk(p_.T, B * columns * static_cast<int64_t>(sizeof(Real)));
    const int64_t rows = pad_row<Real>(steps_ * B);
    auto take = [&](bool wanted, std::initializer_list<int64_t> sizes) {
      return wanted ? workspace_.template take<Real>(sizes) : nullptr;
    };
    w_hh_t_ = take(true, {H_, G * padded_});
    w_ih_t_ = take(call_.dx, {I_, G * padded_});
    d_ = take(true, {steps_, B, slots * padded_});
    reset_h_ = take(Cell::reset_before, {steps_, B, padded_});
    d_t_ = take((dense && wants_dw_ih) || wants_dw_hh, {slots * padded_, rows});
    x_t_ = take(dense && wants_dw_ih, {I_, rows});
    h_t_ = take(wants_dw_hh, {H_, rows});
    reset_h_t_ = take(wants_dw_hh && Cell::reset_before, {H_, rows});
    dw_ih_ = take(wants_dw_ih, {G * H_, I_});
    dw_hh_ = take(wants_dw_hh, {G * H_, H_});
    db_ = take(layer_.db_ih || layer_.db_hh, {slots * padded_});
    db_sequence_ = take(layer_.db_ih && layer_.weights.b_ih_per_sequence, {B, G * padded_});
    dh_ = take(true, {B, H_});
    dc_ = take(Cell::has_c, {B, H_});
  }

  void begin() const {
    constexpr int64_t size = sizeof(Real);
    this->zero(d_, steps_ * p_.B * slots * padded_ * size);
    if (reset_h_) this->zero(reset_h_, steps_ * p_.B * padded_ * size);
    if (dw_ih_) this->zero(dw_ih_, G * H_ * I_ * size);
    if (dw_hh_) this->zero(dw_hh_, G * H_ * H_ * size);
    if (db_) this->zero(db_, slots * padded_ * size);
    if (db_sequence_) this->zero(db_sequence_, p_.B * G * padded_ * size);
    this->template begin_state<T>(dh_, layer_.dh_n);
    if (dc_) this->template begin_state<Real>(dc_, layer_.dc_n);
  }

  void run_steps(StepBackward<Number>& step, int64_t first, int64_t end) const {
    const int64_t d_row = slots * padded_, B = p_.B;
    step.t_later = -1;
    for (int64_t i = 0; i < end - first; ++i) {
      const int64_t t = call_.reverse ? first + i : end - 1 - i, row = t * B;
      step.t = t;
      step.dy = call_.dy ? static_cast<const T*>(call_.dy) + row * call_.dy_stride : nullptr;
      step.gates = layer_.gates ? static_cast<const T*>(layer_.gates) + row * Cell::saved_gates * H_ : nullptr;
      step.h = step.all_h + row * H_;
      step.c = Cell::has_c ? step.all_c + row * H_ : nullptr;
      step.d = d_ + (t - first) * B * d_row;
      step.reset_h = reset_h_ ? reset_h_ + (t - first) * B * padded_ : nullptr;
      use_state_parts(step);
      if constexpr (Cell::reset_before) {
        queue_step("step_backward, of z and n", step_backward<Cell, Number, Phase::reset>, step);
        look_at(step, t);
        step.parts[0] = state_parts().part[1], step.parts[1] = {};
        queue_step("step_backward, of r", step_backward<Cell, Number, Phase::after_reset>, step);
      } else {
        queue_step("step_backward", step_backward<Cell, Number, Phase::whole>, step);
      }
      look_at(step, t);
    }
    use_state_parts(step);
    queue_step("finish_gradient", finish_gradient<Number>, step);
  }

  void look_at(StepBackward<Number>& step, int64_t t) const {
    step.d_later = {step.d, slots * padded_, p_.B}, step.t_later = t;
  }

  void use_state_parts(StepBackward<Number>& step) const {
    const Parts parts = state_parts();
    step.parts[0] = parts.part[0], step.parts[1] = Cell::reset_before ? GatePart{} : parts.part[1];
  }

  void queue_step(const char* name, void (*kernel)(StepBackward<Number>), const StepBackward<Number>& step) const {
    using Block = BackwardBlock<Number>;
    this->queue(name, step_grid(static_cast<int>(p_.B), static_cast<int>(H_)), Block::threads, Block::shared_bytes,
                kernel, step);
  }

  // What the dgates of a chunk give: dx, and their shares of the gradients of weights and biases.
  void add_gradients(int64_t first, int64_t end) const {
    using Math = typename Number::Backward;
    const int64_t rows = (end - first) * p_.B, stride = pad_row<Real>(rows), d_row = slots * padded_;
    const T* x = static_cast<const T*>(call_.x);
    if (call_.dx)
      this->template multiply<Math>("gradient of x", w_ih_rows_, {d_, d_row, rows}, G * padded_,
                                    StoreRows<T>{static_cast<T*>(call_.dx) + first * p_.B * I_, I_, call_.accumulate_dx});
    Rows<Real> d_t = {};
    if (d_t_) d_t = this->transposed(d_t_, stride, PlainRows<Real>{d_, d_row}, rows, d_row);
    if (dw_ih_ && p_.ids) add_by_ids(first, rows);
    if (dw_ih_ && !p_.ids) {
      const auto x_t = this->transposed(x_t_, stride, StepRows<T>{x, I_, first, sequences_}, rows, I_);
      add_products(dw_ih_, I_, x_t, d_t, {0, 0, G * padded_}, rows);
    }
    if (dw_hh_) {
      const PreviousRows<T> previous = {static_cast<const T*>(layer_.h), static_cast<const T*>(layer_.h0), H_, first,
                                        sequences_};
      const auto h_t = this->transposed(h_t_, stride, previous, rows, H_);
      auto last_h_t = h_t;
      if (reset_h_) last_h_t = this->transposed(reset_h_t_, stride, PlainRows<Real>{reset_h_, padded_}, rows, H_);
      const Parts parts = state_parts();
      add_products(dw_hh_, H_, h_t, d_t, parts.part[0], rows);
      if (parts.part[1].count) add_products(dw_hh_, H_, last_h_t, d_t, parts.part[1], rows);
    }
    if (db_) add_sums(db_, rows, d_row, 1);
    if (db_sequence_) add_sums(db_sequence_, rows, G * padded_, p_.B);
  }

  void add_products(Real* dw, int64_t columns, Rows<Real> a_t, Rows<Real> d_t, const GatePart& part, int64_t rows) const {
    Rows<Real> d = d_t.from(part.d_column);
    d.count = part.count;
    Real* out = dw + part.w_column / padded_ * H_ * columns;
    this->template multiply<typename Number::Backward>(
        "gradient of weights", a_t, d, rows,
        ContinueGates<Real>{out, columns, static_cast<uint32_t>(H_), static_cast<uint32_t>(padded_)});
  }

  void add_by_ids(int64_t first, int64_t rows) const {
    this->queue("scatter_gradients", dim3(static_cast<unsigned>(I_), this->blocks(G * H_, array_threads)), array_threads,
                array_threads * sizeof(int), scatter_gradients<Real>, dw_ih_, static_cast<const Real*>(d_),
                slots * padded_, static_cast<uint32_t>(H_), static_cast<uint32_t>(padded_), static_cast<int>(G), p_.ids,
                first, rows, sequences_);
  }

  void add_sums(Real* sums, int64_t rows, int64_t columns, int64_t groups) const {
    this->queue("sum_rows", dim3(static_cast<unsigned>(groups), this->blocks(columns, 32)), array_threads,
                array_threads * sizeof(Real), sum_rows<Real>, sums, static_cast<const Real*>(d_), slots * padded_, rows,
                columns, groups);
  }

  void finish() const {
    const bool add = call_.accumulate;
    const LayerBackward& l = layer_;
    if (dw_ih_ && p_.ids && I_)
      this->queue("copy_transposed", this->blocks(G * H_ * I_, array_threads), array_threads, 0, copy_transposed<T>,
                  static_cast<T*>(l.dw_ih), l.dw_ih_row_stride, l.dw_ih_col_stride, static_cast<const Real*>(dw_ih_),
                  G * H_, I_, add);
    if (dw_ih_ && !p_.ids) this->copy(static_cast<T*>(l.dw_ih), I_, I_, dw_ih_, I_, G * H_, I_, add);
    if (dw_hh_) this->copy(static_cast<T*>(l.dw_hh), H_, H_, dw_hh_, H_, G * H_, H_, add);
    if (l.db_ih && db_sequence_)
      this->copy(static_cast<T*>(l.db_ih), H_, H_, db_sequence_, padded_, p_.B * G, H_, add);
    if (l.db_ih && !db_sequence_) this->copy(static_cast<T*>(l.db_ih), H_, H_, db_, padded_, G, H_, add);
    if (l.db_hh)
      for (const GatePart& part : state_parts().part)
        this->copy(static_cast<T*>(l.db_hh) + part.w_column / padded_ * H_, H_, H_, db_ + part.d_column, padded_,
                   part.count / padded_, H_, add);
    if (l.dh0) this->copy(static_cast<T*>(l.dh0), H_, H_, dh_, H_, p_.B, H_, add);
    if (l.dc0) this->copy(static_cast<Real*>(l.dc0), H_, H_, dc_, H_, p_.B, H_, add);
  }

  const BackwardCall& call_;
  const LayerBackward& layer_;
  int64_t padded_ = 0, steps_ = 0;
  Rows<Real> w_ih_rows_ = {};
  Real *w_hh_t_ = nullptr, *w_ih_t_ = nullptr, *d_ = nullptr, *reset_h_ = nullptr;
  Real *d_t_ = nullptr, *x_t_ = nullptr, *h_t_ = nullptr, *reset_h_t_ = nullptr;
  Real *dw_ih_ = nullptr, *dw_hh_ = nullptr, *db_ = nullptr, *db_sequence_ = nullptr, *dh_ = nullptr, *dc_ = nullptr;
};

}  // namespace rnnkernels::cuda
