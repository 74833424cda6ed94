// The caller's memory for a call, handed out piece by piece; or a count of what it takes, by the same code that uses it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>

namespace rnnkernels::cuda {

class Workspace {
 public:
  Workspace() = default;  // counts only
  explicit Workspace(void* memory) : counts_only_(false), memory_(static_cast<unsigned char*>(memory)) {}

  bool counts_only() const { return counts_only_; }
  int64_t bytes() const { return most_; }  // that were ever taken at once

  // What is taken after mark() is free again with release(mark).
  int64_t mark() const { return taken_; }
  void release(int64_t mark) { taken_ = mark; }

  // An array of these sizes, uninitialised; null while counting, and where a size is 0.
  template <class T>
  T* take(std::initializer_list<int64_t> sizes) {
    int64_t bytes = sizeof(T);
    for (const int64_t size : sizes)
      if (__builtin_mul_overflow(bytes, size, &bytes)) throw std::length_error("a workspace of more than 2^63 bytes");
    const int64_t begin = taken_;
    if (__builtin_add_overflow(begin, round_up(bytes), &taken_))
      throw std::length_error("a workspace of more than 2^63 bytes");
    most_ = taken_ > most_ ? taken_ : most_;
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

  bool counts_only_ = true;
  unsigned char* memory_ = nullptr;
  int64_t taken_ = 0, most_ = 0;
};

}  // namespace rnnkernels::cuda
