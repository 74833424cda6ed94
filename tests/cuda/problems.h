// What programs share that run problems from standard input, for tests/emu: a header of words of 64 bits, then arrays, each the
// count of its bytes, -1 where it is absent, and the bytes. Results come back as arrays in the same way.
#pragma once

#include <algorithm>

#include "../../csrc/cuda/workspace.h"
#include "harness.h"

namespace harness {

using rnnkernels::cuda::Workspace;
using Bytes = std::vector<unsigned char>;

inline bool read(void* to, size_t bytes) { return std::fread(to, 1, bytes, stdin) == bytes; }

inline void write(const void* from, size_t bytes) { expect(std::fwrite(from, 1, bytes, stdout) == bytes, "no output"); }

// An array of the device, or none.
class Array {
 public:
  static Array received() {
    int64_t bytes;
    expect(read(&bytes, sizeof bytes), "the input ends early");
    if (bytes < 0) return Array();
    Bytes data(static_cast<size_t>(bytes));
    expect(read(data.data(), data.size()), "the input ends early");
    return Array(data);
  }
  static Array result(bool wanted, int64_t bytes, bool zeros) {
    return wanted ? Array(Bytes(static_cast<size_t>(bytes), zeros ? 0 : 0xff)) : Array();
  }
  void send() const {
    const Bytes data = memory_ ? memory_->host() : Bytes();
    const int64_t bytes = memory_ ? static_cast<int64_t>(data.size()) : -1;
    write(&bytes, sizeof bytes);
    if (memory_) write(data.data(), data.size());
  }
  void* get() const { return memory_ ? memory_->get() : nullptr; }

 private:
  Array() = default;
  explicit Array(const Bytes& data) : memory_(std::make_unique<DeviceArray<unsigned char>>(data)) {}
  std::unique_ptr<DeviceArray<unsigned char>> memory_;
};

inline int timed_calls = 0;  // 0: results are asked for, not times

#ifndef RNNKERNELS_EMULATOR
// Median milliseconds of a call, replayed from a graph.
template <class Call>
float time_of(Call call) {
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "cudaStreamCreate");
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  call(stream);
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&replay, graph, 0), "cudaGraphInstantiate");
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "cudaEventCreate");
  check(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<float> times;
  for (int i = 0; i < timed_calls; ++i) {
    check(cudaEventRecord(begin, stream), "cudaEventRecord");
    check(cudaGraphLaunch(replay, stream), "cudaGraphLaunch");
    check(cudaEventRecord(end, stream), "cudaEventRecord");
    check(cudaEventSynchronize(end), "cudaEventSynchronize");
    times.push_back(0);
    check(cudaEventElapsedTime(&times.back(), begin, end), "cudaEventElapsedTime");
  }
  check(cudaGraphExecDestroy(replay), "cudaGraphExecDestroy");
  check(cudaGraphDestroy(graph), "cudaGraphDestroy");
  check(cudaStreamDestroy(stream), "cudaStreamDestroy");
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}
#endif

// A pass on a workspace of just the size it asks for: make(workspace, stream) has run().
template <class Make>
void run_pass([[maybe_unused]] const char* name, const Make& make) {
  Workspace count;
  make(count, nullptr).run();
  DeviceArray<unsigned char> memory(static_cast<size_t>(count.bytes()));
  check(cudaMemset(memory.get(), 0xff, static_cast<size_t>(count.bytes())), "cudaMemset");  // NaN, if read
  auto queue = [&](cudaStream_t stream) {
    Workspace workspace(memory.get());
    make(workspace, stream).run();
    expect(workspace.bytes() == count.bytes(), "another size was counted");
  };
#ifndef RNNKERNELS_EMULATOR
  if (timed_calls) {
    std::printf("{\"pass\": \"%s\", \"ms\": %.5f, \"workspace\": %lld}\n", name, time_of(queue),
                static_cast<long long>(count.bytes()));
    return;
  }
#endif
  queue(nullptr);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

inline void choose(int argc, char** argv) {
  const std::string order = argc > 1 ? argv[1] : "round_robin";
  [[maybe_unused]] const auto number = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
#ifdef RNNKERNELS_EMULATOR
  emu::options().order = order == "random"    ? emu::Order::random
                         : order == "reverse" ? emu::Order::reverse
                                              : emu::Order::round_robin;
  emu::options().seed = number;
#else
  if (order == "time") timed_calls = static_cast<int>(number);
#endif
}

// One problem after the other, by run(header).
template <class Header, class Run>
int run_problems(int argc, char** argv, const Run& run) {
  choose(argc, argv);
  try {
    Header header;
    while (read(&header, sizeof header)) run(header);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

}  // namespace harness
