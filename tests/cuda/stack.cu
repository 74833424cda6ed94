// Runs stacks, forward and backward, on problems from standard input, for tests/emu/stacks.py, which writes and reads them;
// arguments as those of stepwise.cu.
#include "../../csrc/cuda/stack.h"

#include "problems.h"

using namespace rnnkernels;
using namespace rnnkernels::cuda;
using namespace harness;

namespace {

struct Header {
  int64_t cell, number, T, B, I, H, layers, directions, chunk_bytes;
  uint64_t key;
  double dropout;
};

// What each layer and direction has of its own.
struct Own {
  Array w_ih, w_hh, b_ih, b_hh, gates, c, h, dw_ih, dw_hh, db_ih, db_hh;
};

template <class Cell, class Number>
void run(const Header& p) {
  constexpr int64_t size = sizeof(typename Number::T), wide = sizeof(typename Number::Real), G = Cell::gates;
  enum { X, IDS, LENGTHS, DY, H0, C0, DH_N, DC_N, inputs };
  std::vector<Array> in;
  for (int i = 0; i < inputs; ++i) in.push_back(Array::received());
  const int64_t rows = p.T * p.B, state = p.B * p.H, cells = p.layers * p.directions;
  auto result = [](bool wanted, int64_t bytes) { return Array::result(wanted, bytes, false); };
  std::vector<Own> own;
  for (int64_t i = 0; i < cells; ++i) {
    const int64_t I = i < p.directions ? p.I : p.directions * p.H;
    Array weights[4] = {Array::received(), Array::received(), Array::received(), Array::received()};
    own.push_back({std::move(weights[0]), std::move(weights[1]), std::move(weights[2]), std::move(weights[3]),
                   result(Cell::saved_gates > 0, rows * Cell::saved_gates * p.H * size),
                   result(Cell::has_c, rows * p.H * wide), result(true, rows * p.H * size),
                   result(true, G * p.H * I * size), result(true, G * p.H * p.H * size), result(true, G * p.H * size),
                   result(true, G * p.H * size)});
  }
  const Array h_n = result(true, cells * state * size), c_n = result(Cell::has_c, cells * state * wide);
  const Array dh0 = result(true, cells * state * size), dc0 = result(Cell::has_c, cells * state * wide);
  const Array dx = result(!in[IDS].get(), rows * p.I * size);
  std::vector<Array> y;
  for (int64_t l = 0; l < p.layers; ++l) y.push_back(result(true, rows * p.directions * p.H * size));

  Problem problem = {};
  problem.T = p.T, problem.B = p.B, problem.I = p.I, problem.H = p.H;
  problem.layers = static_cast<int>(p.layers), problem.directions = static_cast<int>(p.directions);
  problem.lengths = static_cast<const int64_t*>(in[LENGTHS].get());
  problem.ids = static_cast<const int64_t*>(in[IDS].get());
  problem.dropout = p.dropout, problem.dropout_key = p.key;
  auto part = [&](const Array& array, int64_t i, int64_t bytes_of_number) -> void* {
    return array.get() ? static_cast<unsigned char*>(array.get()) + i * state * bytes_of_number : nullptr;
  };
  std::vector<LayerForward> forward;
  std::vector<LayerBackward> backward;
  for (int64_t i = 0; i < cells; ++i) {
    const Own& o = own[static_cast<size_t>(i)];
    const int64_t I = i < p.directions ? p.I : p.directions * p.H;
    const Weights w = {o.w_ih.get(), o.w_hh.get(), o.b_ih.get(), o.b_hh.get(), I, 1, false};
    forward.push_back({w, part(in[H0], i, size), part(in[C0], i, wide), part(h_n, i, size), part(c_n, i, wide),
                       o.gates.get(), o.c.get(), o.h.get()});
    LayerBackward b = {};
    b.weights = w, b.h0 = part(in[H0], i, size), b.c0 = part(in[C0], i, wide);
    b.gates = o.gates.get(), b.c = o.c.get(), b.h = o.h.get();
    b.dh_n = part(in[DH_N], i, size), b.dc_n = part(in[DC_N], i, wide);
    b.dw_ih = o.dw_ih.get(), b.dw_hh = o.dw_hh.get(), b.db_ih = o.db_ih.get(), b.db_hh = o.db_hh.get();
    b.dw_ih_row_stride = I, b.dw_ih_col_stride = 1;
    b.dh0 = part(dh0, i, size), b.dc0 = part(dc0, i, wide);
    backward.push_back(b);
  }
  std::vector<void*> outputs;
  std::vector<const void*> x = {in[X].get()};
  for (const Array& array : y) outputs.push_back(array.get()), x.push_back(array.get());
  const ForwardArgs forward_args = {problem, in[X].get(), forward.data(), outputs.data(), nullptr};
  const BackwardArgs backward_args = {problem, x.data(), backward.data(), in[DY].get(), dx.get(), false};
  const int64_t chunk_bytes = p.chunk_bytes ? p.chunk_bytes : usual_chunk_bytes;
  run_pass("forward", [&](Workspace& workspace, cudaStream_t stream) {
    return StackForward<Cell, Number>(forward_args, workspace, stream, chunk_bytes);
  });
  run_pass("backward", [&](Workspace& workspace, cudaStream_t stream) {
    return StackBackward<Cell, Number>(backward_args, workspace, stream, chunk_bytes);
  });
  if (timed_calls) return;
  const Array& top = y.back();
  for (const Array* array : {&top, &h_n, &c_n, &dx, &dh0, &dc0}) array->send();
  for (const Own& o : own)
    for (const Array* array : {&o.dw_ih, &o.dw_hh, &o.db_ih, &o.db_hh}) array->send();
}

template <class Number>
void run_cell(const Header& header) {
  switch (static_cast<Cell>(header.cell)) {
#define RNNKERNELS_CELL(name, type) \
  case Cell::name: return run<type, Number>(header);
#include "../../csrc/core/cells.inc"
#undef RNNKERNELS_CELL
  }
}

}  // namespace

// Of two types: what a stack adds to its layers does not depend on more.
int main(int argc, char** argv) {
  void (*const numbers[])(const Header&) = {run_cell<NumberF32>, run_cell<NumberBf16>};
  return run_problems<Header>(argc, argv, [&](const Header& header) { numbers[header.number](header); });
}
