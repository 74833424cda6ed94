// Back-propagation through time of one layer in one direction, any cell.
//
// Steps run backwards. dh of a step is the product of the following step's dgates with W_hh, and the cell's gradient is
// applied to it tile by tile. dgates live for a chunk of steps only: at its end they are multiplied into the weight
// gradients and dx while they are still in cache. A sum over rows is thus a sum of chunk sums, in an order fixed by the problem.
//
// Of arrays of 16-bit numbers (Half) the weight gradients are summed in scratch, and rounded once at the end.
#pragma once

#include "forward.h"

RNNKERNELS_BEGIN_NAMESPACE

// What products are of, and how gradients of gates are held for them. PairProducts (bf16/avx512bf16.h) offers the same for
// numbers of 16 bits.
template <class Real>
struct RealProducts {
  using Number = Real;
  using Gates = Real*;
  using Stored = Real;
  struct Multiplier {};  // of the processor, set up while a thread multiplies

  static Operand<Number> operand(Gates rows, int64_t stride) { return {rows, stride}; }
  static Number* numbers(Gates at) { return at; }
};

// A row of r*h_prev, as forward multiplied it.
template <class Pointer>
struct ResetState {
  Pointer h{}, r{};  // h: null for zeros

  ResetState operator+(int64_t n) const { return {row_or_null(h, n, 1), r + n}; }
  explicit operator bool() const { return static_cast<bool>(r); }
};
template <class Pointer>
RNNKERNELS_INLINE auto read(ResetState<Pointer> p, int n) {
  return read(p.r, n) * load_or_zero(p.h, 0, n);
}
template <class Pointer>
inline void prefetch(ResetState<Pointer> p, int64_t n) {
  if (p.h) prefetch(p.h, n);
}

template <class Real, class Cell, class Storage = Plain<Real>, class Products = RealProducts<Real>>
class BackwardLayer {
  using V = Vec<Real>;
  using Number = typename Products::Number;
  using Gates = typename Products::Gates;
  using Matrix = PackedMatrix<Number>;
  using Layout = PackedLayer<Real, Cell>;
  static constexpr int lanes = V::lanes;

 public:
  explicit BackwardLayer(const LayerBackwardCall& call_)
      : call(call_),
        schedule(call.schedule),
        arrays(call.dtype),
        H(call.H),
        arena{call.scratch},
        w_hh(Cell::h_count * slot_size(), H),
        w_hn(Cell::reset_before ? slot_size() : 0, H),
        w_ih(Cell::x_count * slot_size(), call.I) {
    const int64_t state = schedule.B * stride();
    capacity = chunk_capacity(schedule, chunk_rows_backward);
    w_hh.data = arena.take<Number>(w_hh.size());
    w_hn.data = arena.take<Number>(w_hn.size());
    w_ih.data = arena.take<Number>(call.dx ? w_ih.size() : 0);
    dh = arena.take<Real>(state);
    dc = arena.take<Real>(Cell::has_c ? state : 0);
    for (Gates& chunk : dgates) take(arena, round_up(capacity, Matrix::whole) * dgates_stride(), chunk);
    user = arena.take<int64_t>(capacity);
    previous = arena.take<int64_t>(capacity);
    inputs = arena.take<Number>(call.io.dw_ih && !call.ids ? Matrix(capacity, call.I).size() : 0);
    states = arena.take<Number>(call.io.dw_hh ? Matrix(capacity, H).size() : 0);
    reset_panels = arena.take<Number>(call.io.dw_hh && Cell::reset_before ? Matrix(capacity, H).size() : 0);
    for_each_weight_gradient([&](void* gradient, Real*& sum, int64_t size) {
      sum = Storage::converts ? arena.take<Real>(gradient ? size : 0) : static_cast<Real*>(gradient);
    });
  }

  size_t scratch_size() const { return arena.used; }

  void run(const Team& team_) {
    [[maybe_unused]] const typename Products::Multiplier multiplier;
    team = team_;
    panels = share_if(!call.split_batch, w_hh.panels(), team);
    rows = share_if(call.split_batch, schedule.B, team);  // where there are no steps; else of each chunk
    pack_weights();
    start(share(schedule.B, team));
    zero_padding(schedule, arrays.to(call.accumulate_dx ? nullptr : call.dx), call.I, call.I, team);
    add = call.accumulate && !Storage::converts;
    if (!add) clear_weight_gradients();
    sync(team);
    for (int64_t last = schedule.steps; last > 0;) {
      const Range chunk = chunk_ending_at(last);
      if (call.split_batch) rows = balanced_rows(schedule, chunk, team);
      for (int64_t s = last - 1; s >= chunk.begin; --s) step(chunk, s);
      finish_chunk(chunk);
      add = true;
      last = chunk.begin;
      current = 1 - current;
    }
    finish_start();
    round_weight_gradients();
  }

 private:
  int64_t stride() const { return padded_stride<Real>(w_hh.panels() * w_hh.width()); }
  int64_t slot_size() const { return round_up(H, Matrix::whole); }  // of a row of dgates: whole groups, ended by zeros
  int64_t dgates_stride() const { return padded_stride<typename Products::Stored>(Cell::slots * slot_size()); }

  void meet() const {
    if (!call.split_batch) sync(team);
  }

  Range chunk_ending_at(int64_t end) const {
    int64_t begin = end - 1;
    while (begin > 0 && schedule.first_row[end] - schedule.first_row[begin] < chunk_rows_backward) --begin;
    return {begin, end};
  }

  void pack_weights() const {
    const auto hh = arrays.from(call.io.weights.w_hh), ih = arrays.from(call.io.weights.w_ih);
    const auto row_of = [&](auto w, int64_t columns, int first_slot) {
      return [=](int64_t k) {
        const int64_t slot = k / slot_size(), unit = k % slot_size();
        if (Matrix::whole > 1 && unit >= H) return decltype(w)();
        return w + (Cell::gate_of_slot[first_slot + slot] * H + unit) * columns;
      };
    };
    w_hh.pack(share(w_hh.panels(), team), row_of(hh, H, Cell::h_first));
    if constexpr (Cell::reset_before) w_hn.pack(share(w_hn.panels(), team), row_of(hh, H, Cell::N));
    if (call.dx) w_ih.pack(share(w_ih.panels(), team), row_of(ih, call.I, Cell::x_first));
  }

  // What reaches the last valid step of each sequence from outside.
  void start(Range own) const {
    for (int64_t j = own.begin; j < own.end; ++j) {
      const int64_t b = sequence(schedule, j);
      start_state(dh, arrays.from(call.io.dh_n), j, b);
      if (Cell::has_c) start_state(dc, static_cast<const Real*>(call.io.dc_n), j, b);
    }
  }

  template <class Pointer>
  void start_state(Real* state, Pointer from, int64_t j, int64_t b) const {
    const Pointer row = row_or_null(from, b, H);
    for (int64_t u = 0; u < w_hh.panels() * w_hh.width(); u += lanes) {
      load_or_zero(row, u, valid(u)).store(state + j * stride() + u);
    }
  }

  int valid(int64_t unit) const { return static_cast<int>(larger(0, smaller(lanes, H - unit))); }

  // dgates of step s, from those of step s + 1.
  void step(Range chunk, int64_t s) {
    step_rows(s, chunk, {rows.begin, smaller(rows.end, schedule.active[s])},
              [&](const Real* sums, int64_t j, int64_t unit) { apply_cells(sums, chunk, s, j, unit); });
    meet();
    if constexpr (Cell::reset_before) {
      reset_step(chunk, s);
      meet();
    }
  }

  // body(dh, row, unit) for the panels of each row of step s: dh is the sum of dy, what reached h directly, and
  // W_hh^T dgates of step s + 1 for the sequences that go on there.
  template <class Body>
  void step_rows(int64_t s, Range chunk, Range active, const Body& body) const {
    const int64_t going_on =
        s + 1 < schedule.steps ? larger(active.begin, smaller(active.end, schedule.active[s + 1])) : active.begin;
    const auto init = [&](Real* sums, const Tile& tile) { start_tile(sums, s, tile); };
    const auto done = [&](const Real* sums, const Tile& tile) {
      for_each_row(w_hh, tile, [&](int64_t at, int64_t j, int64_t unit) { body(sums + at, j, unit); });
    };
    if (active.begin < going_on) {
      multiply(dgates_operand(next_dgates(chunk, s), Cell::h_first), w_hh, {active.begin, going_on}, panels, init,
               done);
    }
    if (going_on < active.end) {
      Matrix nothing = w_hh;  // no step follows: a product over no k
      nothing.K = 0;
      multiply(Operand<Number>{}, nothing, {going_on, active.end}, panels, init, done);
    }
  }

  // Rows of dgates from a slot on, as a product's left operand.
  Operand<Number> dgates_operand(Gates rows_from, int slot) const {
    return Products::operand(rows_from + slot * slot_size(), dgates_stride());
  }

  // The first row of step s + 1, in this chunk or the one done before it.
  Gates next_dgates(Range chunk, int64_t s) const {
    if (s + 1 >= chunk.end) return dgates[1 - current];
    return dgates[current] + (schedule.first_row[s + 1] - schedule.first_row[chunk.begin]) * dgates_stride();
  }

  void start_tile(Real* sums, int64_t s, const Tile& tile) const {
    for_each_row(w_hh, tile, [&](int64_t at, int64_t j, int64_t first) {
      const Real* from = dh + j * stride() + first;
      for (int64_t v = 0; v < w_hh.width(); v += lanes) V::load(from + v).store(sums + at + v);
      if (s < 0) return;
      const int64_t now = user_row(schedule, s, j);
      const auto dy = row_or_null(arrays.from(call.dy), now, call.dy_stride);
      for_each_vector<Real>(w_hh.width(), first, H, [&](int64_t v, int64_t unit, int n) {
        if (dy) (V::load(from + v) + read(dy + unit, n)).store(sums + at + v);
      });
      prefetch_saved(now, previous_row(s, j), first, smaller(w_hh.width(), H - first));
    });
  }

  // What apply_cell will be the first to read of n units when the tile's product is done.
  void prefetch_saved(int64_t now, int64_t before, int64_t unit, int64_t n) const {
    const auto ask = [&](auto row) {
      if (row) prefetch(row + unit, n);
    };
    for (int q = 0; q < (Cell::saved_gates ? Cell::slots : 0); ++q) ask(gates_row(now, q));
    if constexpr (Cell::has_c) {
      ask(c_row(before));
    } else {
      ask(h_row(Cell::saved_gates ? before : now));
    }
  }

  Gates dgates_row(Range chunk, int64_t s, int64_t j) const {
    return dgates[current] + (schedule.first_row[s] - schedule.first_row[chunk.begin] + j) * dgates_stride();
  }

  // The user's row of h_{s-1} and c_{s-1}; -1 - b where that is the initial state of sequence b.
  int64_t previous_row(int64_t s, int64_t j) const {
    return s > 0 ? user_row(schedule, s - 1, j) : -1 - sequence(schedule, j);
  }

  template <class Pointer>
  Pointer state_row(Pointer saved, Pointer initial, int64_t row) const {
    return row >= 0 ? saved + row * H : row_or_null(initial, -1 - row, H);
  }
  auto h_row(int64_t row) const { return state_row(arrays.from(call.io.h), arrays.from(call.io.h0), row); }
  const Real* c_row(int64_t row) const {
    return state_row(static_cast<const Real*>(call.io.c), static_cast<const Real*>(call.io.c0), row);
  }

  auto gates_row(int64_t row, int slot) const {
    return arrays.from(call.io.gates) + (row * Cell::saved_gates + Cell::saved_index[slot]) * H;
  }

  // The cell's gradient for the units of a panel from `unit` on, two vectors at a time.
  void apply_cells(const Real* sums, Range chunk, int64_t s, int64_t j, int64_t unit) const {
    unit + lanes < smaller(H, unit + w_hh.width()) ? apply_cell<2>(sums, chunk, s, j, unit)
                                                   : apply_cell<1>(sums, chunk, s, j, unit);
  }

  template <int count>
  RNNKERNELS_INLINE void apply_cell(const Real* sums, Range chunk, int64_t s, int64_t j, int64_t unit) const {
    using Vectors = Several<V, count>;
    const int64_t now = user_row(schedule, s, j), before = previous_row(s, j);
    const int last = valid(unit + (count - 1) * lanes);  // valid lanes of the last vector; others are full
    const auto load = [&](auto row) { return row ? Vectors::load(row + unit, last) : Vectors(0); };
    Real* const dh_row = dh + j * stride() + unit;
    Real* const dc_row = dc + j * stride() + unit;
    Vectors a[Cell::slots], da[Cell::slots], dh_unit = Vectors::load(sums, lanes), dc_unit(0), c_prev(0), c_unit(0);
    RNNKERNELS_UNROLL
    for (int q = 0; q < (Cell::saved_gates ? Cell::slots : 0); ++q) {
      a[q] = load(gates_row(now, q));
    }
    if (Cell::reset_before) da[0] = Vectors(0);  // R, which needs the second product
    if (Cell::has_c) {
      dc_unit = Vectors::load(dc_row, lanes);
      c_prev = load(c_row(before));
      c_unit = load(c_row(now));
    }
    Cell::backward(a, load(h_row(before)), load(h_row(now)), c_prev, c_unit, dh_unit, dc_unit, da);
    dh_unit.store(dh_row, lanes);
    if (Cell::has_c) dc_unit.store(dc_row, lanes);
    const Gates to = dgates_row(chunk, s, j) + unit;
    RNNKERNELS_UNROLL
    for (int q = 0; q < Cell::slots; ++q) da[q].store(to + q * slot_size(), last);
    if (Matrix::whole > 1 && unit + count * lanes >= H) end_slots(dgates_row(chunk, s, j));
  }

  // Zeros after the last unit.
  void end_slots(Gates row) const {
    if constexpr (Matrix::whole > 1) {
      for (int q = 0; q < Cell::slots; ++q) fill_zero((row + q * slot_size() + H).data, slot_size() - H);
    }
  }

  // The second product of reset_before: the gradient of r*h_prev, from dgates of n.
  void reset_step(Range chunk, int64_t s) const {
    if constexpr (Cell::reset_before) {
      const Range active{rows.begin, smaller(rows.end, schedule.active[s])};
      if (active.begin >= active.end) return;
      multiply(
          dgates_operand(dgates_row(chunk, s, 0), Cell::N), w_hn, active, panels,
          [&](Real* sums, const Tile& tile) { fill_zero(sums, tile.pieces() * w_hn.width()); },
          [&](const Real* sums, const Tile& tile) {
            for_each_vector(w_hn, tile, [&](int64_t at, int64_t j, int64_t unit, int n) {
              apply_reset(V::load(sums + at), chunk, s, j, unit, n);
            });
          });
    }
  }

  void apply_reset(V d_reset_h, Range chunk, int64_t s, int64_t j, int64_t unit, int n) const {
    if constexpr (Cell::reset_before) {
      const auto h_prev = h_row(previous_row(s, j));
      V dh_unit = V::load(dh + j * stride() + unit), da_r;
      const V r = read(gates_row(user_row(schedule, s, j), Cell::R) + unit, n);
      Cell::reset_backward(r, load_or_zero(h_prev, unit, n), d_reset_h, dh_unit, da_r);
      dh_unit.store(dh + j * stride() + unit);
      write(da_r, dgates_row(chunk, s, j) + (Cell::R * slot_size() + unit), n);
    }
  }

  // dh0 and dc0: what is left before the first step.
  void finish_start() const {
    if (!call.io.dh0 && !call.io.dc0) return;
    step_rows(-1, {0, 0}, rows, [&](const Real* sums, int64_t j, int64_t first) {
      const int64_t b = sequence(schedule, j);
      for_each_vector<Real>(w_hh.width(), first, H, [&](int64_t v, int64_t unit, int n) {
        deliver(arrays.to(call.io.dh0), b * H + unit, n, V::load(sums + v), call.accumulate);
        if (!Cell::has_c) return;
        deliver(static_cast<Real*>(call.io.dc0), b * H + unit, n, V::load(dc + j * stride() + unit), call.accumulate);
      });
    });
  }

  template <class Pointer>
  static void deliver(Pointer gradient, int64_t at, int n, V value, bool add) {
    if (!gradient) return;
    const Pointer to = gradient + at;
    write(add ? read(to, n) + value : value, to, n);
  }

  // ---- weight gradients and dx of a chunk ----

  void finish_chunk(Range chunk) {
    const int64_t base = schedule.first_row[chunk.begin], count = schedule.first_row[chunk.end] - base;
    sync(team);  // nobody reads what the chunk before left in the lists and panels
    list_rows(chunk, share(count, team));
    sync(team);
    Matrix x(count, call.I), h(count, H), reset_h(count, H);
    x.data = inputs, h.data = states, reset_h.data = reset_panels;
    const auto pack = [&](const Matrix& matrix, const auto& row) {  // the last rows of a group may be missing
      matrix.pack(share(matrix.panels(), team),
                  [&](int64_t k) { return Matrix::whole == 1 || k < count ? row(k) : decltype(row(k))(); });
    };
    if (inputs) pack(x, [&](int64_t k) { return row_or_null(arrays.from(call.x), user[k], call.x_stride); });
    if (states) pack(h, [&](int64_t k) { return h_row(previous[k]); });
    if constexpr (Cell::reset_before) {
      using State = ResetState<decltype(h_row(0))>;
      if (states) pack(reset_h, [&](int64_t k) { return State{h_row(previous[k]), gates_row(user[k], Cell::R)}; });
    }
    sync(team);
    add_weight_gradients(count, x, h, reset_h);
    sync(team);  // the next step writes where the products' copies are
    if (call.dx) add_dx(share(count, team));
  }

  void list_rows(Range chunk, Range own) const {
    const int64_t base = schedule.first_row[chunk.begin];
    int64_t s = chunk.begin;
    for (int64_t k = own.begin; k < own.end; ++k) {
      while (k >= schedule.first_row[s + 1] - base) ++s;
      const int64_t j = k - (schedule.first_row[s] - base);
      user[k] = user_row(schedule, s, j);
      previous[k] = previous_row(s, j);
    }
  }

  // body(the caller's array, where it is summed, elements)
  template <class Body>
  void for_each_weight_gradient(const Body& body) {
    const int64_t gate_rows = Cell::gates * H, sequences = call.io.weights.b_ih_per_sequence ? schedule.B : 1;
    body(call.io.dw_ih, dw_ih, gate_rows * call.I);
    body(call.io.dw_hh, dw_hh, gate_rows * H);
    body(call.io.db_ih, db_ih, gate_rows * sequences);
    body(call.io.db_hh, db_hh, gate_rows);
  }

  void round_weight_gradients() {
    if constexpr (Storage::converts) {
      sync(team);
      for_each_weight_gradient([&](void* gradient, const Real* sum, int64_t size) {
        const Range own = share(size, team);
        if (gradient) round_to(arrays.to(gradient) + own.begin, sum + own.begin, own.size(), call.accumulate);
      });
    }
  }

  void clear_weight_gradients() const {
    const Range own = share(Cell::gates * H, team);
    const auto clear = [&](Real* gradient, int64_t columns) {
      if (gradient) fill_zero(gradient + own.begin * columns, own.size() * columns);
    };
    const bool products_store = schedule.steps > 0;  // then the first chunk's overwrite what a dense gradient holds
    if (dw_ih && (call.ids || !products_store)) {
      if (call.io.dw_ih_col_stride == 1) {
        clear(dw_ih, call.I);
      } else {
        for (int64_t i = 0; i < call.I; ++i) {
          for (int64_t m = own.begin; m < own.end; ++m) {
            dw_ih[m * call.io.dw_ih_row_stride + i * call.io.dw_ih_col_stride] = 0;
          }
        }
      }
    }
    if (!products_store) clear(dw_hh, H);
    clear(db_hh, 1);
    const int64_t sequences = call.io.weights.b_ih_per_sequence ? schedule.B : 1;
    for (int64_t b = 0; db_ih && b < sequences; ++b) clear(db_ih + b * Cell::gates * H, 1);
  }

  // Gate rows are shared by the team, so each sum has one owner.
  void add_weight_gradients(int64_t count, const Matrix& x, const Matrix& h, const Matrix& reset_h) const {
    const Range own = share(Cell::slots * H, team);
    for (int q = 0; q < Cell::slots; ++q) {
      const Range m{larger(own.begin, q * H), smaller(own.end, (q + 1) * H)};
      if (m.begin >= m.end) continue;
      const int64_t gate_row = (Cell::gate_of_slot[q] - q) * H;  // m + gate_row is the row of the weights
      const bool second = Cell::reset_before && !Layout::in_h(q);
      const Gates of_slot = dgates[current] + q * (slot_size() - H);  // column m of the slots without their zeros
      add_bias_gradients(count, of_slot, m, gate_row, Layout::in_x(q), Layout::in_h(q) || second);
      const bool from_x = dw_ih && Layout::in_x(q), from_h = dw_hh && (Layout::in_h(q) || second);
      if (from_x && call.ids) scatter(count, of_slot, m, gate_row);
      multiply_transposed<Number>(
          of_slot, dgates_stride(), count, m,
          {{from_x && !call.ids ? &x : nullptr, {row_or_null(dw_ih, gate_row, call.I), nullptr, add}},
           {from_h ? second ? &reset_h : &h : nullptr, {row_or_null(dw_hh, gate_row, H), nullptr, add}}},
          // of this member, and what no step reads any more
          Products::numbers(dgates[1 - current]) + own.begin * Matrix::numbers(count));
    }
  }

  // Token ids: row k of dgates belongs to column ids[user[k]] of dw_ih.
  void scatter(int64_t count, Gates of_slot, Range m, int64_t gate_row) const {
    const int64_t across = call.io.dw_ih_row_stride;
    for (int64_t k = 0; k < count; ++k) {
      const Gates from = of_slot + k * dgates_stride();
      Real* to = dw_ih + call.ids[user[k]] * call.io.dw_ih_col_stride + gate_row * across;
      if (across == 1) {
        for (int64_t i = m.begin; i < m.end; ++i) to[i] += from[i];
      } else {
        for (int64_t i = m.begin; i < m.end; ++i) to[i * across] += from[i];
      }
    }
  }

  void add_bias_gradients(int64_t count, Gates of_slot, Range m, int64_t gate_row, bool of_x, bool of_h) const {
    Real* to_ih = of_x ? db_ih : nullptr;
    Real* to_hh = of_h ? db_hh : nullptr;
    if (to_ih && call.io.weights.b_ih_per_sequence) {
      add_bias_per_sequence(count, of_slot, m, gate_row);
      to_ih = nullptr;
    }
    if (!to_ih && !to_hh) return;
    for_each_column_sum<Real>(of_slot, dgates_stride(), count, m, [&](int64_t i, Real sum) {
      if (to_ih) to_ih[i + gate_row] += sum;
      if (to_hh) to_hh[i + gate_row] += sum;
    });
  }

  void add_bias_per_sequence(int64_t count, Gates of_slot, Range m, int64_t gate_row) const {
    for (int64_t k = 0; k < count; ++k) {
      Real* to = db_ih + user[k] % schedule.B * Cell::gates * H + gate_row;
      const Gates from = of_slot + k * dgates_stride();
      for (int64_t i = m.begin; i < m.end; ++i) to[i] += from[i];
    }
  }

  void add_dx(Range own) const {
    const auto init = [&](Real* sums, const Tile& tile) { fill_zero(sums, tile.pieces() * w_ih.width()); };
    const auto done = [&](const Real* sums, const Tile& tile) {
      for_each_vector(w_ih, tile, [&](int64_t at, int64_t row, int64_t column, int n) {
        deliver(arrays.to(call.dx), user[row] * call.I + column, n, V::load(sums + at), call.accumulate_dx);
      });
    };
    multiply(dgates_operand(dgates[current], Cell::x_first), w_ih, own, w_ih.all(), init, done);
  }

  const LayerBackwardCall& call;
  const Schedule& schedule;
  const Storage arrays;
  const int64_t H;
  Arena arena;
  Matrix w_hh, w_hn, w_ih;
  int64_t capacity;          // rows of a chunk, at most
  Real *dh, *dc;             // [B][stride]: what reaches h and c of the next step to run other than through the gates
  Gates dgates[2];           // [capacity][slots*slot_size]: of the current chunk and of the one before
  int64_t *user, *previous;  // [capacity]: rows of the user's arrays
  Number *inputs, *states;   // x and h_prev of a chunk, packed
  Number* reset_panels;      // and r*h_prev
  Real *dw_ih, *dw_hh, *db_ih, *db_hh;  // where the weight gradients are summed
  int current = 0;
  bool add = false;  // to the weight gradients: all chunks do but the first
  Team team{};
  Range panels{}, rows{};
};

RNNKERNELS_END_NAMESPACE
