// Runs layers of the stepwise tier, forward and backward, on problems from standard input, for tests/emu/stepwise.py, which
// writes and reads them. `stepwise ORDER SEED` names the emulator's order; `stepwise time N` prints what N calls take.
#include "../../csrc/cuda/stepwise.h"

#include "problems.h"

using namespace rnnkernels;
using namespace rnnkernels::cuda;
using namespace harness;

namespace {

struct Header {
  int64_t cell, number, T, B, I, H;
  int64_t reverse, bias_per_sequence, transposed_w_ih, accumulate, chunk_bytes;
};
template <class Cell, class Number>
void run(const Header& p) {
  constexpr int64_t size = sizeof(typename Number::T), wide = sizeof(typename Number::Real), G = Cell::gates;
  enum { X, IDS, W_IH, W_HH, B_IH, B_HH, H0, C0, LENGTHS, DY, DH_N, DC_N, inputs };
  std::vector<Array> in;
  for (int i = 0; i < inputs; ++i) in.push_back(Array::received());
  const bool c = Cell::has_c, again = p.accumulate;
  const int64_t rows = p.T * p.B, state = p.B * p.H;
  const Array y = Array::result(true, rows * p.H * size, false), h_n = Array::result(true, state * size, false);
  const Array c_n = Array::result(c, state * wide, false);
  const Array gates = Array::result(Cell::saved_gates > 0, rows * Cell::saved_gates * p.H * size, false);
  const Array saved_c = Array::result(c, rows * p.H * wide, false), h = Array::result(true, rows * p.H * size, false);
  const Array dx = Array::result(!in[IDS].get(), rows * p.I * size, again);
  const Array dw_ih = Array::result(true, G * p.H * p.I * size, again);
  const Array dw_hh = Array::result(true, G * p.H * p.H * size, again);
  const int64_t biases = p.bias_per_sequence ? p.B : 1;
  const Array db_ih = Array::result(in[B_IH].get(), biases * G * p.H * size, again);
  const Array db_hh = Array::result(in[B_HH].get(), G * p.H * size, again);
  const Array dh0 = Array::result(true, state * size, again), dc0 = Array::result(c, state * wide, again);

  Problem problem = {};
  problem.T = p.T, problem.B = p.B, problem.I = p.I, problem.H = p.H;
  problem.layers = problem.directions = 1;
  problem.lengths = static_cast<const int64_t*>(in[LENGTHS].get());
  problem.ids = static_cast<const int64_t*>(in[IDS].get());
  Weights w = {in[W_IH].get(), in[W_HH].get(), in[B_IH].get(), in[B_HH].get(), p.I, 1, p.bias_per_sequence != 0};
  if (p.transposed_w_ih) w.w_ih_row_stride = 1, w.w_ih_col_stride = G * p.H;
  const LayerForward forward = {w,         in[H0].get(), in[C0].get(),  h_n.get(),
                                c_n.get(), gates.get(),  saved_c.get(), h.get()};
  LayerBackward backward = {};
  backward.weights = w;
  backward.h0 = in[H0].get(), backward.c0 = in[C0].get();
  backward.gates = gates.get(), backward.c = saved_c.get(), backward.h = h.get();
  backward.dh_n = in[DH_N].get(), backward.dc_n = in[DC_N].get();
  backward.dw_ih = dw_ih.get(), backward.dw_hh = dw_hh.get(), backward.db_ih = db_ih.get(),
  backward.db_hh = db_hh.get();
  backward.dw_ih_row_stride = w.w_ih_row_stride, backward.dw_ih_col_stride = w.w_ih_col_stride;
  backward.dh0 = dh0.get(), backward.dc0 = dc0.get();

  const bool reverse = p.reverse;
  ForwardCall forward_call = {&problem, &forward, p.I, reverse, in[X].get(), y.get(), p.H};
  BackwardCall backward_call = {&problem,     &backward, p.I,      reverse, in[X].get(),
                                in[DY].get(), p.H,       dx.get(), again,   again};
  if (p.chunk_bytes) forward_call.chunk_bytes = backward_call.chunk_bytes = p.chunk_bytes;
  run_pass("forward", [&](Workspace& workspace, cudaStream_t stream) {
    return StepwiseForward<Cell, Number>(forward_call, workspace, stream);
  });
  for (int i = 0; i <= again; ++i)
    run_pass("backward", [&](Workspace& workspace, cudaStream_t stream) {
      return StepwiseBackward<Cell, Number>(backward_call, workspace, stream);
    });
  if (timed_calls) return;
  const Array* results[] = {&y, &h_n, &c_n, &gates, &saved_c, &h, &dx, &dw_ih, &dw_hh, &db_ih, &db_hh, &dh0, &dc0};
  for (const Array* array : results) array->send();
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

int main(int argc, char** argv) {
  void (*const numbers[])(const Header&) = {
#ifdef ONLY_NUMBER  // for a look at one type's kernels
      run_cell<ONLY_NUMBER>, run_cell<ONLY_NUMBER>, run_cell<ONLY_NUMBER>, run_cell<ONLY_NUMBER>, run_cell<ONLY_NUMBER>
#else
      run_cell<NumberF64>, run_cell<NumberF32>, run_cell<NumberTf32>, run_cell<NumberBf16>, run_cell<NumberF16>
#endif
  };
  return run_problems<Header>(argc, argv, [&](const Header& header) { numbers[header.number](header); });
}
