// Memory for a call, its results, or a pack of weights.
#pragma once

#include <cstddef>
#include <utility>

namespace rnnkernels::cpu {

constexpr size_t kept_from = size_t(1) << 16;  // bytes of a block worth keeping

// Uninitialised, on a cache line; large blocks on huge pages where the system has them. Blocks are kept for the next call
// (512 MiB at most), since the system zeroes fresh pages more slowly than a core multiplies them.
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(size_t bytes);  // throws std::bad_alloc
  Scratch(Scratch&& other) noexcept : data(std::exchange(other.data, nullptr)), size_(other.size_) {}
  Scratch& operator=(Scratch&& other) noexcept {
    std::swap(data, other.data);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Scratch();

  char* data = nullptr;  // null where bytes is 0

 private:
  size_t size_ = 0;
};

}  // namespace rnnkernels::cpu
