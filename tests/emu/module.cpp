// What tests ask of the emulator that runs the kernels of the extension module: the order, and graphs. programs.py links it with
// the sources of _cuda; device_arrays.py calls it.
#include <emulator/runtime.h>

#include <cstdlib>

namespace {

const bool chosen = [] {
  const char* seed = std::getenv("EMU_SEED");
  emu::options().order = emu::Order::random;
  emu::options().seed = seed ? std::strtoull(seed, nullptr, 10) : 1;
  return true;
}();

cudaGraph_t graph = nullptr;

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED void begin_capture(cudaStream_t stream) { cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal); }
EXPORTED void end_capture(cudaStream_t stream) { cudaStreamEndCapture(stream, &graph); }
EXPORTED int64_t nodes_of_graph() { return static_cast<int64_t>(graph->size()); }
EXPORTED void destroy_graph() { cudaGraphDestroy(graph); }

// The status; a launch is aborted after so many turns of warps, if that is not negative.
EXPORTED int replay_graph(int64_t turns) {
  emu::options().turns_left = turns;
  const int status = cudaGraphLaunch(graph, nullptr);
  emu::options().turns_left = -1;
  return status;
}
