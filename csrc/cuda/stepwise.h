// A layer on the device by the stepwise tier: which kernels run, in which order, on what memory. A step is one product and one
// kernel of the cell, two of each for reset_before. All pointers of a call are of the device. Work is queued on the caller's
// stream; nothing is allocated and nothing waits, so that it can be captured.
//
// Time goes in chunks, so that the workspace is bounded: x's projection a chunk of steps at a time in forward, dgates and
// the gradients made of them in backward. Chunks follow from the sizes alone, and so do all sums. B, I, H and G*H lie below
// 2^31, which callers check.
#pragma once

#include "../api.h"
#include "queue.h"
#include "stepwise.cuh"

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
  int64_t chunk_bytes = usual_chunk_bytes;
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
  int64_t chunk_bytes = usual_chunk_bytes;
};

// What both passes of a layer need of a call and queue alike.
template <class Number>
class StepwisePass : protected Queue<Number> {
 protected:
  using T = typename Number::T;
  using Real = typename Number::Real;

  StepwisePass(const Problem& problem, int64_t I, bool reverse, Workspace& workspace, Stream stream)
      : Queue<Number>(workspace, stream),
        p_(problem),
        I_(I),
        H_(problem.H),
        sequences_{problem.lengths, problem.T, static_cast<int>(problem.B), reverse} {}

  // A (B, H) state of Real from one of any type, or zeros.
  template <class From>
  void begin_state(Real* state, const void* from) const {
    if (from)
      this->copy(state, H_, H_, static_cast<const From*>(from), H_, p_.B, H_);
    else
      this->zero(state, p_.B * H_ * static_cast<int64_t>(sizeof(Real)));
  }

  template <class Step>
  void queue_cell(const char* name, void (*kernel)(Step), const Step& step) const {
    this->queue(name, dim3(static_cast<unsigned>(p_.B), this->blocks(H_, step_threads)), step_threads, 0, kernel, step);
  }

  // [first, end) of each chunk in turn, in the order of the pass.
  template <class Act>
  void for_chunks(int64_t steps, bool descending, Act act) const {
    const int64_t count = pieces(p_.T, steps);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t first = (descending ? count - 1 - i : i) * steps;
      act(first, std::min(first + steps, p_.T));
    }
  }

  const Problem& p_;
  int64_t I_, H_;
  Sequences sequences_;
};

template <class Cell, class Number>
class StepwiseForward : StepwisePass<Number> {
  using Pass = StepwisePass<Number>;
  using Pass::H_, Pass::I_, Pass::p_, Pass::sequences_, Pass::workspace_;
  using typename Pass::Real;
  using typename Pass::T;
  using Math = typename Number::Forward;

 public:
  StepwiseForward(const ForwardCall& call, Workspace& workspace, Stream stream)
      : Pass(*call.problem, call.I, call.reverse, workspace, stream), call_(call), layer_(*call.layer) {}

  void run() {
    const Weights& w = layer_.weights;
    const int64_t G_H = Cell::gates * H_, B = p_.B, padded = pad_row<T>(H_);
    const int64_t steps = rows_of_chunk(p_.T, B * (G_H + I_) * static_cast<int64_t>(sizeof(Real)), call_.chunk_bytes);
    const auto w_hh = this->operand(w.w_hh, G_H, H_);
    const auto w_ih = p_.ids ? Rows<T>{} : this->operand(w.w_ih, G_H, I_);
    const bool packs_x = !p_.ids && !this->usable(static_cast<const T*>(call_.x), I_);
    T* x_packed = packs_x ? this->template take<T>({steps, B, pad_row<T>(I_)}) : nullptr;
    Real* xg = this->template take<Real>({steps, B, G_H});
    T* states[2] = {this->template take<T>({B, padded}), this->template take<T>({B, padded})};
    StepForward<T> step = {};
    step.c = Cell::has_c ? this->template take<Real>({B, H_}) : nullptr;
    Real* partials = this->template take_partials<Math>(Cell::h_count * H_, B, H_);
    if (Cell::reset_before) {
      step.reset_h = this->template take<T>({B, padded});
      step.reset = this->template take<Real>({B, H_}), step.update = this->template take<Real>({B, H_});
      last_partials_ = this->template take_partials<Math>(H_, B, H_);
    }
    if (workspace_.counts_only() || B == 0) return;

    for (T* state : states) this->zero(state, B * padded * static_cast<int64_t>(sizeof(T)));
    if (Cell::reset_before) this->zero(step.reset_h, B * padded * static_cast<int64_t>(sizeof(T)));
    if (layer_.h0) this->copy(states[0], padded, padded, static_cast<const T*>(layer_.h0), H_, B, H_);
    if (Cell::has_c) this->template begin_state<Real>(step.c, layer_.c0);
    step.sequences = sequences_, step.H = static_cast<int>(H_), step.h_stride = padded;
    step.b_hh = static_cast<const T*>(w.b_hh), step.y_stride = call_.y_stride;

    this->for_chunks(steps, call_.reverse, [&](int64_t first, int64_t end) {
      project(xg, w_ih, x_packed, first, end);
      for (int64_t i = 0; i < end - first; ++i) {
        step.t = call_.reverse ? end - 1 - i : first + i;
        step.xg = xg + (step.t - first) * B * G_H;
        step.h_prev = states[0], step.h = states[1];
        place_outputs(step);
        queue_step(step, w_hh, partials);
        std::swap(states[0], states[1]);
      }
    });
    if (layer_.h_n) this->copy(static_cast<T*>(layer_.h_n), H_, H_, states[0], padded, B, H_);
    if (Cell::has_c && layer_.c_n) this->copy(static_cast<Real*>(layer_.c_n), H_, H_, step.c, H_, B, H_);
  }

 private:
  void project(Real* xg, Rows<T> w_ih, T* x_packed, int64_t first, int64_t end) const {
    const Weights& w = layer_.weights;
    const int64_t G_H = Cell::gates * H_, rows = (end - first) * p_.B;
    const int64_t shared = Cell::reset_before ? G_H : (Cell::x_count + Cell::h_count - Cell::slots) * H_;
    const Biases<T> biases = {static_cast<const T*>(w.b_ih),
                              static_cast<const T*>(w.b_hh),
                              G_H,
                              shared,
                              static_cast<int>(p_.B),
                              w.b_ih_per_sequence};
    if (p_.ids) {
      this->queue("gather_inputs", this->blocks(rows * G_H, array_threads), array_threads, 0, gather_inputs<T>, xg,
                  biases, static_cast<const T*>(w.w_ih), w.w_ih_row_stride, w.w_ih_col_stride, p_.ids, I_, first, rows,
                  sequences_);
      return;
    }
    const T* from = static_cast<const T*>(call_.x) + first * p_.B * I_;
    Rows<T> x = {from, I_, rows};
    if (x_packed) {
      x = {x_packed, pad_row<T>(I_), rows};
      this->copy(x_packed, x.stride, x.stride, from, I_, rows, I_);
    }
    this->template multiply<Math>("project", w_ih, x, I_, ProjectInput<T>{xg, biases});
  }

  void place_outputs(StepForward<T>& step) const {
    const int64_t row = step.t * p_.B;
    auto at = [&](void* array, auto type, int64_t stride) {
      return array ? static_cast<decltype(type)*>(array) + row * stride : nullptr;
    };
    step.y = at(call_.y, T(), call_.y_stride);
    step.gates = at(layer_.gates, T(), Cell::saved_gates * H_);
    step.saved_h = at(layer_.h, T(), H_);
    step.saved_c = at(layer_.c, Real(), H_);
  }

  void queue_step(StepForward<T>& step, Rows<T> w_hh, Real* partials) const {
    const Rows<T> h_prev = {step.h_prev, step.h_stride, p_.B};
    const Rows<T> w = {w_hh.data, w_hh.stride, Cell::h_count * H_};
    step.hg = this->template multiply_parts<Math>("product with h", w, h_prev, H_, H_, partials);
    if constexpr (Cell::reset_before) {
      this->queue_cell("step_forward, of r and z", step_forward<Cell, T, Phase::reset>, step);
      const Rows<T> reset_h = {step.reset_h, step.h_stride, p_.B};
      const Rows<T> w_n = {w_hh.data + w.count * w_hh.stride, w_hh.stride, H_};
      step.hg = this->template multiply_parts<Math>("product with r*h", w_n, reset_h, H_, H_, last_partials_);
      this->queue_cell("step_forward, of n", step_forward<Cell, T, Phase::after_reset>, step);
    } else {
      this->queue_cell("step_forward", step_forward<Cell, T, Phase::whole>, step);
    }
  }

  const ForwardCall& call_;
  const LayerForward& layer_;
  Real* last_partials_ = nullptr;
};

template <class Cell, class Number>
class StepwiseBackward : StepwisePass<Number> {
  using Pass = StepwisePass<Number>;
  using Pass::H_, Pass::I_, Pass::p_, Pass::sequences_, Pass::workspace_;
  using typename Pass::Real;
  using typename Pass::T;
  using Math = typename Number::Backward;
  static constexpr int64_t G = Cell::gates, slots = Cell::slots;
  // The slots of h, and with reset_before the one of r*h besides.
  static constexpr int64_t h_first = Cell::h_first, h_count = Cell::h_count, reset_slot = Cell::gates - 1;

 public:
  StepwiseBackward(const BackwardCall& call, Workspace& workspace, Stream stream)
      : Pass(*call.problem, call.I, call.reverse, workspace, stream), call_(call), layer_(*call.layer) {}

  void run() {
    take_buffers();
    if (workspace_.counts_only()) return;
    begin();
    StepBackward<T> step = {};
    step.sequences = sequences_, step.H = static_cast<int>(H_), step.padded = static_cast<int>(padded_);
    const Weights& w = layer_.weights;
    this->transposed(w_hh_t_, G * padded_, gate_rows(w.w_hh, H_, h_order), G * padded_, H_);
    if (call_.dx) w_ih_rows_ = this->transposed(w_ih_t_, G * padded_, gate_rows(w.w_ih, I_, x_order), G * padded_, I_);
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
  static constexpr GateOrder x_order = gate_order<Cell>(Cell::x_first), h_order = gate_order<Cell>(Cell::h_first);

  GateRows<T> gate_rows(const void* w, int64_t columns, GateOrder order) const {
    return {static_cast<const T*>(w), columns, static_cast<uint32_t>(H_), static_cast<uint32_t>(padded_), order};
  }

  void take_buffers() {
    const int64_t B = p_.B;
    padded_ = pad_row<Real>(H_);
    const bool dense = !p_.ids, wants_dw_ih = layer_.dw_ih, wants_dw_hh = layer_.dw_hh;
    const int64_t columns = 2 * slots * padded_ + (dense && wants_dw_ih ? I_ : 0) + (wants_dw_hh ? 2 * H_ : 0);
    steps_ = rows_of_chunk(p_.T, B * columns * static_cast<int64_t>(sizeof(Real)), call_.chunk_bytes);
    const int64_t rows = pad_row<Real>(steps_ * B);  // as d_t and its like are padded
    auto take = [&](bool wanted, std::initializer_list<int64_t> sizes) {
      return wanted ? this->template take<Real>(sizes) : nullptr;
    };
    w_hh_t_ = take(true, {H_, G * padded_});
    w_ih_t_ = take(call_.dx, {I_, G * padded_});
    d_ = take(true, {steps_, B, slots * padded_});
    partials_ = this->template take_partials<Math>(H_, B, h_count * padded_);
    if (Cell::reset_before) reset_partials_ = this->template take_partials<Math>(H_, B, padded_);
    reset_h_ = take(Cell::reset_before, {steps_, B, padded_});
    d_t_ = take((dense && wants_dw_ih) || wants_dw_hh, {slots * padded_, rows});
    x_t_ = take(dense && wants_dw_ih, {I_, rows});
    h_t_ = take(wants_dw_hh, {H_, rows});
    reset_h_t_ = take(wants_dw_hh && Cell::reset_before, {H_, rows});
    most_rows_ = steps_ * B;
    auto take_partials = [&](bool wanted, int64_t M, int64_t N) {
      return wanted ? this->template take_partials<Math>(M, N, most_rows_) : nullptr;
    };
    input_partials_ = take_partials(dense && wants_dw_ih, I_, G * padded_);
    weight_partials_ = take_partials(wants_dw_hh, H_, h_count * padded_);
    reset_weight_partials_ = take_partials(wants_dw_hh && Cell::reset_before, H_, padded_);
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

  void run_steps(StepBackward<T>& step, int64_t first, int64_t end) const {
    const int64_t B = p_.B;
    step.of_product = -1;
    for (int64_t i = 0; i < end - first; ++i) {
      const int64_t t = call_.reverse ? first + i : end - 1 - i, row = t * B;
      step.t = t;
      step.dy = call_.dy ? static_cast<const T*>(call_.dy) + row * call_.dy_stride : nullptr;
      step.gates = layer_.gates ? static_cast<const T*>(layer_.gates) + row * Cell::saved_gates * H_ : nullptr;
      step.h = step.all_h + row * H_;
      step.c = Cell::has_c ? step.all_c + row * H_ : nullptr;
      step.d = d_ + (t - first) * B * slots * padded_;
      step.reset_h = reset_h_ ? reset_h_ + (t - first) * B * padded_ : nullptr;
      if constexpr (Cell::reset_before) {
        this->queue_cell("step_backward, of z and n", step_backward<Cell, T, Phase::reset>, step);
        multiply_gates(step, reset_slot, 1, reset_partials_);
        this->queue_cell("step_backward, of r", step_backward<Cell, T, Phase::after_reset>, step);
      } else {
        this->queue_cell("step_backward", step_backward<Cell, T, Phase::whole>, step);
      }
      multiply_gates(step, h_first, h_count, partials_);
    }
    this->queue_cell("finish_gradient", finish_gradient<T>, step);
  }

  // The product of dgates of the step that was just done with w_hh.
  void multiply_gates(StepBackward<T>& step, int64_t slot, int64_t count, Real* partials) const {
    const Rows<Real> w = {w_hh_t_ + (slot - h_first) * padded_, G * padded_, H_};
    const Rows<Real> d = {step.d + slot * padded_, slots * padded_, p_.B};
    step.product =
        this->template multiply_parts<Math>("product with dgates", w, d, count * padded_, count * padded_, partials);
    step.of_product = step.t;
  }

  // What the dgates of a chunk give: dx, and their shares of the gradients of weights and biases.
  void add_gradients(int64_t first, int64_t end) const {
    const int64_t rows = (end - first) * p_.B, stride = pad_row<Real>(rows), d_row = slots * padded_;
    const T* x = static_cast<const T*>(call_.x);
    if (call_.dx)
      this->template multiply<Math>(
          "gradient of x", w_ih_rows_, {d_, d_row, rows}, G * padded_,
          StoreRows<T>{static_cast<T*>(call_.dx) + first * p_.B * I_, I_, call_.accumulate_dx});
    Rows<Real> d_t = {};
    if (d_t_) d_t = this->transposed(d_t_, stride, PlainRows<Real>{d_, d_row}, rows, d_row);
    if (dw_ih_ && p_.ids) add_by_ids(first, rows);
    if (dw_ih_ && !p_.ids) {
      const auto x_t = this->transposed(x_t_, stride, StepRows<T>{x, I_, first, sequences_}, rows, I_);
      add_products_of(dw_ih_, x_t, d_t, Cell::x_first, Cell::x_count, x_order, rows, input_partials_);
    }
    if (dw_hh_) {
      const PreviousRows<T> previous = {static_cast<const T*>(layer_.h), static_cast<const T*>(layer_.h0), H_, first,
                                        sequences_};
      const auto h_t = this->transposed(h_t_, stride, previous, rows, H_);
      auto last_h_t = h_t;
      if (reset_h_) last_h_t = this->transposed(reset_h_t_, stride, PlainRows<Real>{reset_h_, padded_}, rows, H_);
      add_products_of(dw_hh_, h_t, d_t, h_first, h_count, h_order, rows, weight_partials_);
      if (Cell::reset_before)
        add_products_of(dw_hh_, last_h_t, d_t, reset_slot, 1, gate_order<Cell>(reset_slot), rows,
                        reset_weight_partials_);
    }
    if (db_) add_sums(db_, rows, d_row, 1);
    if (db_sequence_) add_sums(db_sequence_, rows, G * padded_, p_.B);
  }

  void add_products_of(Real* dw, Rows<Real> a_t, Rows<Real> d_t, int64_t slot, int64_t count, GateOrder order,
                       int64_t rows, Real* partials) const {
    const Rows<Real> d = {d_t.data + slot * padded_ * d_t.stride, d_t.stride, count * padded_};
    this->template add_gradients_of_weights<Math>(dw, a_t, d, H_, padded_, order, rows, most_rows_, partials);
  }

  void add_by_ids(int64_t first, int64_t rows) const {
    this->queue("scatter_gradients", dim3(static_cast<unsigned>(I_), this->blocks(G * H_, array_threads)),
                array_threads, array_threads * sizeof(int), scatter_gradients<Real>, dw_ih_,
                static_cast<const Real*>(d_), slots * padded_, static_cast<uint32_t>(H_),
                static_cast<uint32_t>(padded_), static_cast<int>(G), x_order, p_.ids, first, rows, sequences_);
  }

  void add_sums(Real* sums, int64_t rows, int64_t columns, int64_t groups) const {
    this->add_rows(sums, d_, slots * padded_, rows, columns, groups);
  }

  void finish() const {
    const bool add = call_.accumulate;
    const LayerBackward& l = layer_;
    if (dw_ih_) {  // by ids it was made as the transpose
      const View<T> to = {static_cast<T*>(l.dw_ih), p_.ids ? l.dw_ih_row_stride : I_, p_.ids ? l.dw_ih_col_stride : 1,
                          I_};
      this->copy(to, View<const Real>{dw_ih_, p_.ids ? 1 : I_, p_.ids ? G * H_ : 1, I_}, G * H_, add);
    }
    if (dw_hh_) this->copy(static_cast<T*>(l.dw_hh), H_, H_, dw_hh_, H_, G * H_, H_, add);
    const int64_t last_h = Cell::reset_before ? G : h_count;  // what b_hh goes into
    for (int64_t i = 0; i < G; ++i) {
      const int64_t x_gate = Cell::gate_of_slot[Cell::x_first + i], gate_row = G * H_;
      if (l.db_ih && db_sequence_)
        this->copy(static_cast<T*>(l.db_ih) + x_gate * H_, gate_row, H_, db_sequence_ + i * padded_, G * padded_, p_.B,
                   H_, add);
      if (l.db_ih && !db_sequence_)
        this->copy(static_cast<T*>(l.db_ih) + x_gate * H_, H_, H_, db_ + i * padded_, padded_, 1, H_, add);
      if (l.db_hh && i < last_h)
        this->copy(static_cast<T*>(l.db_hh) + Cell::gate_of_slot[h_first + i] * H_, H_, H_,
                   db_ + (h_first + i) * padded_, padded_, 1, H_, add);
    }
    if (l.dh0) this->copy(static_cast<T*>(l.dh0), H_, H_, dh_, H_, p_.B, H_, add);
    if (l.dc0) this->copy(static_cast<Real*>(l.dc0), H_, H_, dc_, H_, p_.B, H_, add);
  }

  const BackwardCall& call_;
  const LayerBackward& layer_;
  int64_t padded_ = 0, steps_ = 0, most_rows_ = 0;
  Rows<Real> w_ih_rows_ = {};
  Real *partials_ = nullptr, *reset_partials_ = nullptr;  // of a step's products
  Real *input_partials_ = nullptr, *weight_partials_ = nullptr, *reset_weight_partials_ = nullptr;
  Real *w_hh_t_ = nullptr, *w_ih_t_ = nullptr, *d_ = nullptr, *reset_h_ = nullptr;
  Real *d_t_ = nullptr, *x_t_ = nullptr, *h_t_ = nullptr, *reset_h_t_ = nullptr;
  Real *dw_ih_ = nullptr, *dw_hh_ = nullptr, *db_ = nullptr, *db_sequence_ = nullptr, *dh_ = nullptr, *dc_ = nullptr;
};

}  // namespace rnnkernels::cuda
