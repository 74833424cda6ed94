// Memory for a call, or for a pack of weights.
#pragma once

#include <cstddef>

namespace rnnkernels::cpu {

// Uninitialised, on a cache line; large blocks on huge pages where the system has them. Blocks are kept for the next call
// (256 MiB at most), since the system zeroes fresh pages more slowly than a core multiplies them.
class Scratch {
 public:
  explicit Scratch(size_t bytes);  // throws std::bad_alloc
  Scratch(Scratch&& other) noexcept : data(other.data) { other.data = nullptr; }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch();

  char* data;  // null where bytes is 0
};

}  // namespace rnnkernels::cpu
