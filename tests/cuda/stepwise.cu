// Runs a layer step by step on arrays from standard input, for tests/emu/test_stepwise.py: words cell, T, B, I, H, then x, w_ih,
// w_hh, b_ih, b_hh, h0, c0 in float32. Writes y (T, B, H) and c_n (B, H). `stepwise ORDER SEED` names the emulator's order.
#include "../../csrc/cuda/stepwise.cuh"

#include "harness.h"

using namespace rnnkernels::cuda;
using namespace harness;

namespace {

std::vector<float> read(size_t count) {
  std::vector<float> values(count);
  expect(std::fread(values.data(), sizeof(float), count, stdin) == count, "the input ends early");
  return values;
}

void write(const std::vector<float>& values) {
  expect(std::fwrite(values.data(), sizeof(float), values.size(), stdout) == values.size(), "no output");
}

template <class Cell>
void run(int T, int B, int I, int H) {
  const size_t G = Cell::gates, state = static_cast<size_t>(B) * H, input = static_cast<size_t>(B) * I;
  const DeviceArray<float> x(read(T * input)), w_ih(read(G * H * I)), w_hh(read(G * H * H));
  const DeviceArray<float> b_ih(read(G * H)), b_hh(read(G * H)), h0(read(state)), c(read(state)), y(T * state);
  LaunchShape shape;
  shape.grid = StepTile::grid(B, H);
  shape.block = StepTile::threads;
  shape.shared_bytes = StepTile::shared_bytes(Cell::slots);
  for (int t = 0; t < T; ++t) {
    const float* h_prev = t ? y.get() + (t - 1) * state : h0.get();
    const StepArguments step = {x.get() + t * input, h_prev,  c.get(), w_ih.get(), w_hh.get(), b_ih.get(), b_hh.get(),
                                y.get() + t * state, c.get(), B,       I,          H};
    launch("step_forward_f32", shape, step_forward_f32<Cell>, step);
  }
  write(y.host());
  write(c.host());
}

void choose_order([[maybe_unused]] int argc, [[maybe_unused]] char** argv) {
#ifdef RNNKERNELS_EMULATOR
  const std::string order = argc > 1 ? argv[1] : "round_robin";
  emu::options().order = order == "random"    ? emu::Order::random
                         : order == "reverse" ? emu::Order::reverse
                                              : emu::Order::round_robin;
  emu::options().seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
#endif
}

}  // namespace

int main(int argc, char** argv) {
  choose_order(argc, argv);
  try {
    int size[5];
    expect(std::fread(size, sizeof(int), 5, stdin) == 5, "no sizes");
    void (*const cells[])(int, int, int, int) = {run<rnnkernels::Lstm>, run<rnnkernels::Gru>, run<rnnkernels::RnnTanh>,
                                                 run<rnnkernels::RnnRelu>};
    cells[size[0]](size[1], size[2], size[3], size[4]);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
