// Runs heads, forward and backward, on problems from standard input, for tests/emu/heads.py, which writes and reads them;
// arguments as those of stepwise.cu.
#include "../../csrc/cuda/heads.h"

#include "problems.h"

using namespace rnnkernels;
using namespace rnnkernels::cuda;
using namespace harness;

namespace {

enum class Head : int64_t { linear, cross_entropy, linear_cross_entropy };

struct Header {
  Head head;
  int64_t number, N, I, O, accumulate, chunk_bytes, ignore_index;
};

// One pass after the other on arguments of api.h.
template <class Pass, class Args>
void run_pass_of(const char* name, const Args& args, const Header& p) {
  run_pass(name, [&](Workspace& workspace, cudaStream_t stream) {
    return Pass(args, workspace, stream, p.chunk_bytes ? p.chunk_bytes : usual_chunk_bytes);
  });
}

template <class Number>
void run(const Header& p) {
  constexpr int64_t size = sizeof(typename Number::T), wide = sizeof(typename Number::Real);
  enum { X, W, B, TARGETS, D, inputs };  // x, h or logits; dy or dloss
  std::vector<Array> in;
  for (int i = 0; i < inputs; ++i) in.push_back(Array::received());
  const bool linear = p.head == Head::linear, products = p.head != Head::cross_entropy, again = p.accumulate;
  const int64_t columns = products ? p.I : p.O;
  const Array y = Array::result(linear, p.N * p.O * size, false), loss = Array::result(!linear, p.N * wide, false);
  const Array lse = Array::result(!linear, p.N * wide, false), dx = Array::result(true, p.N * columns * size, again);
  const Array dw = Array::result(products, p.O * p.I * size, again);
  const Array db = Array::result(products && in[B].get(), p.O * size, again);
  const auto* targets = static_cast<const int64_t*>(in[TARGETS].get());
  const Dtype dtype{};  // Number says it
  const int times = again ? 2 : 1;
  switch (p.head) {
    case Head::linear: {
      const LinearArgs forward = {dtype, p.N, p.I, p.O, in[X].get(), in[W].get(), in[B].get(), y.get()};
      const LinearBackwardArgs backward = {dtype,       p.N,      p.I,      p.O,      in[X].get(), in[W].get(),
                                           in[D].get(), dx.get(), dw.get(), db.get(), again};
      run_pass_of<LinearForward<Number>>("forward", forward, p);
      for (int i = 0; i < times; ++i) run_pass_of<LinearBackward<Number>>("backward", backward, p);
      break;
    }
    case Head::cross_entropy: {
      const CrossEntropyArgs forward = {dtype, p.N, p.O, in[X].get(), targets, p.ignore_index, loss.get(), lse.get()};
      const CrossEntropyBackwardArgs backward = {dtype,          p.N,       p.O,         in[X].get(), targets,
                                                 p.ignore_index, lse.get(), in[D].get(), dx.get()};
      run_pass_of<CrossEntropyForward<Number>>("forward", forward, p);
      run_pass_of<CrossEntropyBackward<Number>>("backward", backward, p);
      break;
    }
    case Head::linear_cross_entropy: {
      const LinearCrossEntropyArgs forward = {
          dtype, p.N, p.I, p.O, in[X].get(), in[W].get(), in[B].get(), targets, p.ignore_index, loss.get(), lse.get()};
      const LinearCrossEntropyBackwardArgs backward = {
          dtype,          p.N,       p.I,         p.O,      in[X].get(), in[W].get(), in[B].get(), targets,
          p.ignore_index, lse.get(), in[D].get(), dx.get(), dw.get(),    db.get(),    again};
      run_pass_of<LinearCrossEntropyForward<Number>>("forward", forward, p);
      for (int i = 0; i < times; ++i) run_pass_of<LinearCrossEntropyBackward<Number>>("backward", backward, p);
      break;
    }
  }
  if (timed_calls) return;
  for (const Array* array : {&y, &loss, &lse, &dx, &dw, &db}) array->send();
}

}  // namespace

int main(int argc, char** argv) {
  void (*const numbers[])(const Header&) = {
#ifdef ONLY_NUMBER  // for a look at one type's kernels
      run<ONLY_NUMBER>, run<ONLY_NUMBER>, run<ONLY_NUMBER>, run<ONLY_NUMBER>, run<ONLY_NUMBER>
#else
      run<NumberF64>, run<NumberF32>, run<NumberTf32>, run<NumberBf16>, run<NumberF16>
#endif
  };
  return run_problems<Header>(argc, argv, [&](const Header& header) { numbers[header.number](header); });
}
