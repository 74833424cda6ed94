// The caller's memory for a call, handed out piece by piece. Without memory it only counts: the same code that uses a workspace
// says how large it has to be.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>

namespace rnnkernels::cuda {

class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(void* memory) : memory_(static_cast<unsigned char*>(memory)) {}

  bool counts_only() const { return !memory_; }
  int64_t bytes() const { return bytes_; }

  // An array of these sizes, uninitialised; null while counting, and where a size is 0.
  template <class T>
  T* take(std::initializer_list<int64_t> sizes) {
    int64_t bytes = sizeof(T);
    for (const int64_t size : sizes)
      if (__builtin_mul_overflow(bytes, size, &bytes)) throw std::length_error("a workspace of more than 2^63 bytes");
    const int64_t begin = bytes_;
    if (__builtin_add_overflow(begin, round_up(bytes), &bytes_))
      throw std::length_error("a workspace of more than 2^63 bytes");
    return memory_ && bytes ? reinterpret_cast<T*>(memory_ + begin) : nullptr;
  }

 private:
  static constexpr int64_t alignment = 256;
  static int64_t round_up(int64_t bytes) {
    int64_t raised;
    if (__builtin_add_overflow(bytes, alignment - 1, &raised))
      throw std::length_error("a workspace of more than 2^63 bytes");
    return raised / alignment * alignment;
  }

  unsigned char* memory_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace rnnkernels::cuda
