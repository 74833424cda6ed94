// Forward of one layer in one direction, any cell.
//
// Units are cut into panels of one or two vectors. For each panel and row (a step of a sequence) a buffer holds one vector per
// slot of the cell: first the bias, then the input's products, then the state's are accumulated there, in place, and the
// cell's equations read them. No gate leaves the buffer unless backward needs it. In a wide batch all of this happens tile by
// tile, in a buffer of one tile (`fused`); else the input's products of a chunk of steps come first, so that their tiles are
// full, and the buffer `xg` holds the chunk.
//
// Arrays of 16-bit numbers (Half) differ at the border alone: weights are widened as they are packed, rows of x as they are
// gathered, and a state is rounded as soon as it is computed, so that the next step sees what the caller sees.
#pragma once

#include "layer.h"

RNNKERNELS_BEGIN_NAMESPACE

// One matrix of a layer in panels of [k][N][lanes]. Int8Matrix (int8.h) offers the same for weights of 8 bits, Bf16Matrix
// (bf16/matrix.h) for products of 16.
template <class Real>
struct RealMatrix {
  using V = Vec<Real>;
  using Weight = Real;
  using Rows = Operand<Real>;            // what it multiplies
  using Number = Real;                   // of a state that it multiplies
  using State = Real*;                   // to those
  using Reset = Real*;                   // and to r*h_prev
  struct Multiplier {};                  // of the processor, set up while a thread multiplies
  static constexpr int group = 1;        // terms that are read at once: beyond a row's end are zeros
  static constexpr bool rounds = false;  // its rows
  static constexpr bool fuses = true;    // input and state can share a tile
  template <class Storage>
  static constexpr bool multiplies = !Storage::converts;  // x as it is stored

  int64_t K;
  int N;
  Real* data;

  RealMatrix(int64_t K_, int N_, int64_t panels, Arena& arena)
      : K(K_), N(N_), data(arena.take<Real>(panels * K * N * V::lanes)) {}

  Real* at(int64_t panel, int64_t k, int vector) const { return data + ((panel * K + k) * N + vector) * V::lanes; }
  V row(int64_t panel, int64_t k, int vector) const { return V::load(at(panel, k, vector)); }
  Panels<Real> panels(Range all, const Tile& tile) const { return panels_at(data, K, N, all, tile); }
  int64_t K_in_blocks() const { return K; }
  bool in_whole_groups() const { return true; }  // rows of x, to be multiplied as they are stored
  static Rows operand(const Real* rows, int64_t stride) { return {rows, stride}; }

  // One vector of a panel: lane l of row k is from[l*across + k*along] for l < count, else 0.
  template <class Pointer>
  void pack(int64_t panel, int vector, Pointer from, int64_t across, int64_t along, int64_t count) const {
    if (along == 1) return PackedMatrix<Real>::pack_lanes(at(panel, 0, vector), N * V::lanes, from, across, count, K);
    for (int64_t k = 0; k < K; ++k) {
      for (int l = 0; l < V::lanes; ++l) at(panel, k, vector)[l] = l < count ? from[l * across + k * along] : Real(0);
    }
  }

  // Rows of x in the order of work.
  struct Copies {
    int64_t K;
    Real* data;

    Copies(int64_t rows, int64_t K_, Arena& arena) : K(K_), data(arena.take<Real>(rows * K)) {}
    Rows from(int64_t row) const { return {data + row * K, K}; }
    template <class Pointer>
    void set(int64_t row, Pointer from) const {
      copy(from, data + row * K, K);
    }
  };
};

// The weights of a layer as forward reads them: its matrices, a panel of units after the other, and the sum of the biases.
template <class Real, class Cell, class Matrix = RealMatrix<Real>, class Storage = Plain<Real>>
struct PackedLayer {
  static constexpr int lanes = Vec<Real>::lanes;

  int64_t H;
  int blocks;   // vectors of units in a panel: a cell of one slot takes two, for a better tile
  int vectors;  // of a panel's row: slots * blocks
  int64_t panels;
  Matrix x, h;
  Matrix n;    // reset_before: the second product
  Real* bias;  // [panels][vectors][lanes]

  PackedLayer(int64_t I, int64_t H_, Arena& arena)
      : H(H_),
        blocks(Cell::slots == 1 && H > lanes ? 2 : 1),
        vectors(Cell::slots * blocks),
        panels(ceil_div(H, units())),
        x(I, Cell::x_count * blocks, panels, arena),
        h(H, Cell::h_count * blocks, panels, arena),
        n(H, Cell::reset_before ? 1 : 0, panels, arena),
        bias(arena.take<Real>(panels * vectors * lanes)) {}

  int64_t units() const { return blocks * lanes; }

  // Vector `at` of a panel's row holds this slot of units unit .. unit + lanes - 1.
  static int slot(int at) { return at % Cell::slots; }
  int64_t unit(int64_t panel, int at) const { return panel * units() + at / Cell::slots * lanes; }
  int valid(int64_t unit) const { return static_cast<int>(larger(0, smaller(lanes, H - unit))); }

  void pack(const Weights& weights, Storage arrays, Range own, bool with_x) const {
    const int64_t across = weights.w_ih_row_stride, along = weights.w_ih_col_stride;
    for (int64_t panel = own.begin; panel < own.end; ++panel) {
      for (int at = 0; at < vectors; ++at) {
        const int64_t first = unit(panel, at), row = Cell::gate_of_slot[slot(at)] * H + first;
        const int64_t count = valid(first);
        const auto w_hh = arrays.from(weights.w_hh) + row * H;
        if (with_x && in_x(slot(at)))
          x.pack(panel, at - Cell::x_first, arrays.from(weights.w_ih) + row * across, across, along, count);
        if (in_h(slot(at))) {
          h.pack(panel, at - Cell::h_first, w_hh, H, 1, count);
        } else if (Cell::reset_before) {
          n.pack(panel, 0, w_hh, H, 1, count);
        }
        const auto b_ih = arrays.from(weights.b_ih_per_sequence ? nullptr : weights.b_ih);
        sum_biases(b_ih, arrays.from(weights.b_hh), panel, at).store(bias + (panel * vectors + at) * lanes);
      }
    }
  }

  // What a slot starts from: the biases of the products that reach it. b_ih: (G*H), of the layer or of one sequence.
  template <class Pointer>
  Vec<Real> sum_biases(Pointer b_ih, Pointer b_hh, int64_t panel, int at) const {
    const int64_t first = unit(panel, at), row = Cell::gate_of_slot[slot(at)] * H + first;
    const int count = valid(first);
    Vec<Real> sum(0);
    if (in_x(slot(at))) sum = load_or_zero(b_ih, row, count);
    if (in_h(slot(at)) || Cell::reset_before) sum = sum + load_or_zero(b_hh, row, count);
    return sum;
  }

  static bool in_x(int slot) { return slot >= Cell::x_first && slot < Cell::x_first + Cell::x_count; }
  static bool in_h(int slot) { return slot >= Cell::h_first && slot < Cell::h_first + Cell::h_count; }
};

template <class Real, class Cell, class Matrix = RealMatrix<Real>, class Storage = Plain<Real>>
class ForwardLayer {
  using V = Vec<Real>;
  using Weight = typename Matrix::Weight;
  using Rows = typename Matrix::Rows;
  static constexpr int lanes = V::lanes;
  static constexpr bool x_as_stored = Matrix::template multiplies<Storage>;

 public:
  static constexpr double weight_size = sizeof(*Matrix::data);
  static constexpr bool fusible = Matrix::fuses && !Cell::reset_before;
  using Arrays = Storage;
  using Packed = PackedLayer<Real, Cell, Matrix, Storage>;

  explicit ForwardLayer(const LayerForwardCall& call_)
      : call(call_),
        schedule(call.schedule),
        arrays(call.dtype),
        H(call.H),
        arena{call.scratch},
        weights(open_weights()),
        chunk_rows(call.split_batch ? ceil_div(chunk_rows_forward, call.threads) : chunk_rows_forward),
        capacity(call.fused         ? 0
                 : call.split_batch ? call.threads * (chunk_rows - 1) + schedule.B
                                    : chunk_capacity(schedule, chunk_rows)),
        xg(arena.take<Real>(weights.panels * capacity * row_size())),
        gathered(call.ids || reads_x_in_place() ? 0
                 : call.fused                   ? 2 * schedule.B
                                                : capacity,
                 call.I, arena),
        rounded(Matrix::rounds ? (call.split_batch ? 1 : call.threads) * schedule.B : 0, H, arena) {
    const int64_t state = schedule.B * stride();
    for (auto& buffer : h) take(arena, state, buffer);
    take(arena, Cell::has_c ? state : 0, c);
    take(arena, Cell::reset_before ? state : 0, reset_h);
  }

  size_t scratch_size() const { return arena.used; }

  void run(const Team& team_) {
    [[maybe_unused]] const typename Matrix::Multiplier multiplier;
    team = team_;
    panels = share_if(!call.split_batch, weights.panels, team);
    rows = call.split_batch ? balanced_rows(schedule, {0, schedule.steps}, team) : Range{0, schedule.B};
    if (!call.packed) weights.pack(call.io.weights, arrays, share(weights.panels, team), !call.ids);
    start(share(schedule.B, team));
    clear_padding();
    if (call.fused) gather_step(0);
    sync(team);
    for (Range chunk{0, 0}; chunk.end < schedule.steps;) {
      chunk = next_chunk(chunk.end);
      if (!call.fused) project(chunk);
      int64_t first = first_in_xg();
      for (int64_t s = chunk.begin; s < chunk.end; first += active(s).size(), ++s) step(s, first - rows.begin);
    }
  }

 private:
  // Packed weights lie in memory of their own, or at the start of this call's scratch.
  Packed open_weights() {
    if (!call.packed) return Packed(call.I, H, arena);
    Arena packed{const_cast<char*>(static_cast<const char*>(call.packed))};
    return Packed(call.I, H, packed);
  }

  bool reads_x_in_place() const {
    return x_as_stored && weights.x.in_whole_groups() && (call.fused || in_user_order(schedule));
  }

  int64_t row_size() const { return weights.vectors * lanes; }
  int64_t stride() const { return padded_stride<typename Matrix::Number>(weights.panels * weights.units()); }
  Real* xg_row(int64_t panel, int64_t row) const { return xg + (panel * capacity + row) * row_size(); }
  Sums<Real> xg_tile(const Tile& tile, int64_t first) const {
    return Sums<Real>::in_place(xg_row(tile.panel, first + tile.row), row_size(), capacity * row_size());
  }

  void meet() const {
    if (!call.split_batch) sync(team);
  }

  // This member's rows of a step; all, unless the team shares sequences. Those of the steps of a chunk stand in xg one after
  // another, and each member who shares sequences has chunks and a part of xg of its own, and waits for nobody.
  Range active(int64_t s) const { return {rows.begin, larger(rows.begin, smaller(rows.end, schedule.active[s]))}; }
  int64_t first_in_xg() const { return call.split_batch ? team.rank * (chunk_rows - 1) + rows.begin : 0; }

  Range next_chunk(int64_t begin) const {
    int64_t end = begin + 1;
    for (int64_t count = active(begin).size(); end < schedule.steps && count < chunk_rows; ++end) {
      count += active(end).size();
    }
    return {begin, end};
  }

  int64_t rows_of(Range steps) const {
    int64_t count = 0;
    for (int64_t s = steps.begin; s < steps.end; ++s) count += active(s).size();
    return count;
  }

  // The states before the first step, and the result of sequences that have none.
  void start(Range own) const {
    for (int64_t j = own.begin; j < own.end; ++j) {
      const int64_t b = sequence(schedule, j);
      clear_groups(j);
      start_state(h[0], arrays.from(call.io.h0), arrays.to(call.io.h_n), j, b);
      if (Cell::has_c) start_state(c, static_cast<const Real*>(call.io.c0), static_cast<Real*>(call.io.c_n), j, b);
    }
  }

  // What products read of a state's row beyond its units: it stays 0.
  void clear_groups(int64_t j) const {
    if constexpr (Matrix::group > 1) {
      for (int64_t u = 0; u < round_up(H, Matrix::group); u += lanes) {
        for (const auto& state : h) write(V(0), state + (j * stride() + u));
        if (Cell::reset_before) write(V(0), reset_h + (j * stride() + u));
      }
    }
  }

  // Of a panel's units beyond the last some may be NaN, which products by 0 would pass on.
  template <class State>
  static RNNKERNELS_INLINE void write_state(V value, State to, int valid) {
    if constexpr (Matrix::group > 1) {
      write(value, to, valid);
    } else {
      write(value, to);
    }
  }

  template <class State, class From, class To>
  void start_state(State state, From initial, To final, int64_t j, int64_t b) const {
    const From from = row_or_null(initial, b, H);
    for (int64_t u = 0; u < weights.panels * weights.units(); u += lanes) {
      const int n = weights.valid(u);
      const V value = load_or_zero(from, u, n);
      write(value, state + (j * stride() + u));
      if (length(schedule, b) == 0) write(value, final + (b * H + u), n);
    }
  }

  void clear_padding() const {
    zero_padding(schedule, arrays.to(call.y), call.y_stride, H, team);
    zero_padding(schedule, arrays.to(call.io.gates), Cell::saved_gates * H, Cell::saved_gates * H, team);
    zero_padding(schedule, static_cast<Real*>(call.io.c), H, H, team);
    zero_padding(schedule, arrays.to(call.io.h), H, H, team);
  }

  // xg = bias + x W_ih^T for this member's rows and panels of a chunk.
  void project(Range chunk) {
    int64_t first = first_in_xg();
    if (!call.split_batch || call.ids || !reads_x_in_place()) return project_rows(chunk, first);
    for (int64_t s = chunk.begin; s < chunk.end; first += active(s).size(), ++s) {  // its rows of x do not lie together
      project_rows({s, s + 1}, first);
    }
  }

  // Of the rows of these steps, which stand in xg from `first` on.
  void project_rows(Range steps, int64_t first) {
    const Range own{0, rows_of(steps)};
    for_each_row(steps, own, [&](int64_t row, int64_t user, int64_t b) {
      for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
        start_row(xg_row(panel, first + row), panel, user, b);
      }
    });
    if (call.ids || own.size() == 0) return;
    const Rows x = x_operand(steps, own, first);
    for_each_tile<Weight>(own, panels, weights.x.N, weights.x.K_in_blocks(), [&](const Tile& tile) {
      accumulate(weights.x.N, tile.rows, tile.panels, xg_tile(tile, first).vectors_from(Cell::x_first), x, tile.row,
                 weights.x.panels(panels, tile));
    });
  }

  Rows x_operand(Range steps, Range own, int64_t first) const {
    if constexpr (x_as_stored) {
      if (reads_x_in_place()) {
        return Matrix::operand(x_row(user_row(schedule, steps.begin, rows.begin)), call.x_stride);
      }
    }
    for_each_row(steps, call.split_batch ? own : share(own.size(), team),
                 [&](int64_t row, int64_t user, int64_t) { gathered.set(first + row, x_row(user)); });
    meet();
    return gathered.from(first);
  }

  auto x_row(int64_t user) const { return row_or_null(arrays.from(call.x), user, call.x_stride); }

  // Rows of x of a step to be fused, of which a step and the next are kept, where the user's cannot be read in place.
  void gather_step(int64_t s) const {
    if (reads_x_in_place() || s >= schedule.steps) return;
    const Range own = call.split_batch ? rows : share(schedule.B, team);
    for (int64_t j = own.begin; j < own.end; ++j) gathered.set(s % 2 * schedule.B + j, x_row(user_row(schedule, s, j)));
  }

  Rows fused_x_operand(int64_t s) const {
    if constexpr (x_as_stored) {
      if (reads_x_in_place()) return Matrix::operand(x_row(user_row(schedule, s, 0)), call.x_stride);
    }
    return gathered.from(s % 2 * schedule.B);
  }

  // A state as a product's left operand. Each member rounds all that it reads: that takes less than to meet once more.
  template <class State>
  auto state_operand(State state, Range active) const {
    if constexpr (Matrix::rounds) {
      const int64_t first = call.split_batch ? 0 : team.rank * schedule.B;
      for (int64_t j = active.begin; j < active.end; ++j) rounded.set(first + j, state + j * stride());
      return rounded.from(first);
    } else {
      return Matrix::operand(state, stride());
    }
  }

  // Calls body(row, user's row, sequence) for some of this member's rows of steps, counted from the first one's.
  template <class Body>
  void for_each_row(Range steps, Range own, const Body& body) const {
    int64_t first = 0;
    for (int64_t s = steps.begin; s < steps.end; first += active(s).size(), ++s) {
      const Range part{larger(own.begin, first), smaller(own.end, first + active(s).size())};
      for (int64_t row = part.begin; row < part.end; ++row) {
        const int64_t j = rows.begin + row - first;
        body(row, user_row(schedule, s, j), sequence(schedule, j));
      }
    }
  }

  // A row's slots before any product with a dense operand: the bias, and with token ids a column of w_ih.
  void start_row(Real* to, int64_t panel, int64_t user, int64_t b) const {
    const Weights& w = call.io.weights;
    for (int at = 0; at < weights.vectors; ++at) {
      V value = V::load(bias(panel) + at * lanes);
      if (bias_per_sequence())
        value =
            weights.sum_biases(row_or_null(arrays.from(w.b_ih), b, Cell::gates * H), arrays.from(w.b_hh), panel, at);
      if (call.ids && Packed::in_x(weights.slot(at))) value = value + column(call.ids[user], panel, at);
      value.store(to + at * lanes);
    }
  }

  bool bias_per_sequence() const { return !call.packed && call.io.weights.b_ih_per_sequence; }
  const Real* bias(int64_t panel) const { return weights.bias + panel * row_size(); }

  V column(int64_t id, int64_t panel, int at) const {
    if (call.packed) return weights.x.row(panel, id, at - Cell::x_first);
    const Weights& w = call.io.weights;
    const int64_t unit = weights.unit(panel, at);
    const int valid = weights.valid(unit);
    const auto from = arrays.from(w.w_ih) +
                      (id * w.w_ih_col_stride + (Cell::gate_of_slot[weights.slot(at)] * H + unit) * w.w_ih_row_stride);
    if (w.w_ih_row_stride == 1) return read(from, valid);
    Real lane[lanes] = {};
    for (int l = 0; l < valid; ++l) lane[l] = from[l * w.w_ih_row_stride];
    return V::load(lane);
  }

  // Row j of the step stands in xg at first + j.
  void step(int64_t s, int64_t first) const {
    if (call.fused) return fused_step(s);
    const Rows h_prev = state_operand(h[s % 2], active(s));
    const auto before = [&](const Tile& tile) { prefetch_outputs(s, tile); };
    const auto equations = [&](const Tile& tile) { finish(xg_tile(tile, first), s, tile); };
    for_each_tile<Weight>(
        active(s), panels, weights.h.N, weights.h.K_in_blocks(), before,
        [&](const Tile& tile) {
          accumulate(weights.h.N, tile.rows, tile.panels, xg_tile(tile, first).vectors_from(Cell::h_first), h_prev,
                     tile.row, weights.h.panels(panels, tile));
        },
        [&](const Tile& tile) { Cell::reset_before ? reset(xg_tile(tile, first), s, tile) : equations(tile); });
    meet();
    if constexpr (Cell::reset_before) {
      const auto reset_prev = state_operand(reset_h, active(s));
      for_each_tile<Weight>(
          active(s), panels, 1, weights.n.K_in_blocks(), [](const Tile&) {},
          [&](const Tile& tile) {
            accumulate(1, tile.rows, tile.panels, xg_tile(tile, first).vectors_from(Cell::N), reset_prev, tile.row,
                       weights.n.panels(panels, tile));
          },
          equations);
      meet();
    }
  }

  // Both products and the equations, tile by tile; the rows of x are those of the user, whose order is kept. Never with
  // reset_before, whose second product needs the whole of the first.
  void fused_step(int64_t s) const {
    if constexpr (fusible) {
      with_constant<Cell::slots == 1 ? 2 : 1>(weights.blocks,
                                              [&](auto blocks) { fused_step_of<decltype(blocks)::value>(s); });
    }
  }

  template <int n>
  void fused_step_of(int64_t s) const {
    constexpr int vectors = Cell::slots * n;
    alignas(cache_line) Real buffer[3][rows_per_tile<Weight>(vectors) * vectors * lanes];
    const Rows h_prev = state_operand(h[s % 2], rows), x = fused_x_operand(s);
    const auto sums = [&](const Tile& tile) {
      return Sums<Real>{buffer[tile.slot], row_size(), row_size(), bias(tile.panel), 0};
    };
    for_each_tile<Weight>(
        rows, panels, vectors, 0, [&](const Tile& tile) { prefetch_outputs(s, tile); },
        [&](const Tile& tile) {
          accumulate_two<vectors, Cell::x_first * n, Cell::x_count * n, Cell::h_first * n, Cell::h_count * n>(
              tile.rows, sums(tile), x, weights.x.panels(panels, tile), h_prev, weights.h.panels(panels, tile),
              tile.row);
        },
        [&](const Tile& tile) { finish(sums(tile), s, tile); }, false);
    gather_step(s + 1);
    meet();
  }

  // Stores wait for their line of cache, and the next tile for them.
  void prefetch_outputs(int64_t s, const Tile& tile) const {
    const int64_t unit = tile.panel * weights.units(), count = smaller(tile.panels * weights.units(), H - unit);
    for (int64_t j = tile.row; j < tile.row + tile.rows; ++j) {
      const int64_t user = user_row(schedule, s, j);
      prefetch(h[(s + 1) % 2] + j * stride() + unit, count);
      prefetch(arrays.from(call.y) + (user * call.y_stride + unit), count);
      if (Cell::has_c) prefetch(c + j * stride() + unit, count);
      if (!call.io.h) continue;
      prefetch(arrays.from(call.io.h) + (user * H + unit), count);
      if (Cell::has_c) prefetch(static_cast<const Real*>(call.io.c) + user * H + unit, count);
      for (int g = 0; g < Cell::saved_gates; ++g) {
        prefetch(arrays.from(call.io.gates) + ((user * Cell::saved_gates + g) * H + unit), count);
      }
    }
  }

  // Between the two products of reset_before.
  void reset(const Sums<Real>& z, int64_t s, const Tile& tile) const {
    if constexpr (Cell::reset_before) {
      for (int64_t i = 0; i < tile.pieces(); ++i) {
        Real* slots = z.at(tile.across(i), tile.down(i));
        V a[Cell::slots];
        RNNKERNELS_UNROLL
        for (int q = 0; q < Cell::slots; ++q) a[q] = V::load(slots + q * lanes);
        const int64_t unit = (tile.panel + tile.across(i)) * lanes, at = (tile.row + tile.down(i)) * stride() + unit;
        write_state(Cell::reset(a, read(h[s % 2] + at)), reset_h + at, weights.valid(unit));
        a[Cell::R].store(slots + Cell::R * lanes);
        a[Cell::Z].store(slots + Cell::Z * lanes);
      }
    }
  }

  // The cell's equations for a tile whose pre-activations are complete, vectors of two rows (or two panels) at a time.
  void finish(const Sums<Real>& z, int64_t s, const Tile& tile) const {
    for (int block = 0; block < weights.blocks; ++block) {
      int64_t first = 0;
      for (; first + 2 <= tile.pieces(); first += 2) finish_vectors<2>(z, s, tile, first, block);
      if (first < tile.pieces()) finish_vectors<1>(z, s, tile, first, block);
    }
  }

  template <int count>
  RNNKERNELS_INLINE void finish_vectors(const Sums<Real>& z, int64_t s, const Tile& tile, int64_t first,
                                        int block) const {
    Several<V, count> a[Cell::slots], h_prev, c_prev(0), h_new, c_new;
    int64_t row[count], unit[count];
    RNNKERNELS_UNROLL
    for (int i = 0; i < count; ++i) {
      const int64_t down = tile.down(first + i), across = tile.across(first + i);
      row[i] = tile.row + down;
      unit[i] = (tile.panel + across) * weights.units() + block * lanes;
      const Real* slots = z.at(across, down) + block * Cell::slots * lanes;
      RNNKERNELS_UNROLL
      for (int q = 0; q < Cell::slots; ++q) a[q].v[i] = V::load(slots + q * lanes);
      h_prev.v[i] = read(h[s % 2] + (row[i] * stride() + unit[i]));
      if (Cell::has_c) c_prev.v[i] = V::load(c + row[i] * stride() + unit[i]);
    }
    Cell::forward(a, h_prev, c_prev, h_new, c_new);
    RNNKERNELS_UNROLL
    for (int i = 0; i < count; ++i) {
      V gates[Cell::slots];
      RNNKERNELS_UNROLL
      for (int q = 0; q < Cell::slots; ++q) gates[q] = a[q].v[i];
      deliver(s, row[i], unit[i], gates, h_new.v[i], c_new.v[i]);
    }
  }

  RNNKERNELS_INLINE void deliver(int64_t s, int64_t j, int64_t unit, const V (&a)[Cell::slots], V h_new,
                                 V c_new) const {
    const int64_t b = sequence(schedule, j), user = user_row(schedule, s, j), at = j * stride() + unit;
    const int n = weights.valid(unit);
    h_new = arrays.rounded(h_new);
    write_state(h_new, h[(s + 1) % 2] + at, n);
    if (Cell::has_c) c_new.store(c + at);
    if (n == 0) return;
    write(h_new, arrays.to(call.y) + (user * call.y_stride + unit), n);
    if (call.io.h) save_row(user, unit, n, a, h_new, c_new);
    if (j < schedule.active[s + 1]) return;  // it goes on
    write(h_new, arrays.to(call.io.h_n) + (b * H + unit), n);
    if (Cell::has_c) c_new.store(static_cast<Real*>(call.io.c_n) + b * H + unit, n);
  }

  void save_row(int64_t user, int64_t unit, int n, const V (&a)[Cell::slots], V h_new, V c_new) const {
    write(h_new, arrays.to(call.io.h) + (user * H + unit), n);
    if (Cell::has_c) c_new.store(static_cast<Real*>(call.io.c) + user * H + unit, n);
    if constexpr (Cell::saved_gates > 0) {
      const auto gates = arrays.to(call.io.gates) + (user * Cell::saved_gates * H + unit);
      RNNKERNELS_UNROLL
      for (int q = 0; q < Cell::slots; ++q) write(a[q], gates + Cell::saved_index[q] * H, n);
    }
  }

  const LayerForwardCall& call;
  const Schedule& schedule;
  const Storage arrays;
  const int64_t H;
  Arena arena;
  const Packed weights;
  const int64_t chunk_rows;                // of a member, about
  const int64_t capacity;                  // rows of all members' chunks, at most
  Real* const xg;                          // [panels][capacity][vectors][lanes]
  const typename Matrix::Copies gathered;  // [capacity][I]: rows of x, where the user's cannot be read in place
  const typename Matrix::Copies rounded;   // [a member each][B][H]: rows of a state
  typename Matrix::State h[2];             // [B][stride]: read by one step and written by it, in turns
  Real* c;                                 // [B][stride]
  typename Matrix::Reset reset_h;          // [B][stride]: r*h_prev
  Team team{};
  Range panels{}, rows{};
};

RNNKERNELS_END_NAMESPACE
