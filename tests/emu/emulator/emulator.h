// The emulator as a program sees it: how a grid is scheduled, and a launch that returns when the grid has ended.
// Everything runs on the calling thread, each CUDA thread on a fiber of its own; the same options give the same
// run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>

#include "vector_types.h"

// In a namespace of its own, so that functions which take one are not looked up among the emulator's.
namespace emu::places {

// Where in a kernel something was called, as a default argument of what it calls.
struct Where {
  const char* file;
  int line;
  Where(const char* file_ = __builtin_FILE(), int line_ = __builtin_LINE()) : file(file_), line(line_) {}
};

}  // namespace emu::places

namespace emu {

using places::Where;

enum class Order {
  round_robin,  // blocks, warps and lanes ascending; as many blocks at once as fit
  reverse,      // descending; blocks that need not be there together run one after the other
  random,       // shuffled every round, some warps starved for a while; any number of blocks at once
};

struct Options {
  Order order = Order::round_robin;
  uint64_t seed = 0;
  int multiprocessors = 8;
  int idle_rounds = 3000;   // rounds in which threads ran and nothing changed: a livelock
  int64_t turns_left = -1;  // of warps, until a launch is aborted in its midst; -1: none is
  size_t shared_limit = 227 * 1024;
  size_t shared_of_multiprocessor = 228 * 1024;
};
Options& options();

// What the emulator has to say against a kernel or a launch: "file:line: block (..) thread (..): what".
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Shape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  unsigned cluster = 1;
  bool cooperative = false;
};

// Throws Failure; whatever happened, the next launch starts afresh.
void launch(const Shape& shape, const std::function<void()>& kernel);

}  // namespace emu
