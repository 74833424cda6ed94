// The CPU backend on NumPy arrays, as backend.h says.
#pragma once

#include <cstring>

#include "../cpu/dispatch.h"
#include "../cpu/scratch.h"
#include "numpy_arrays.h"

namespace rnnkernels::bindings {

namespace backend = cpu;
using cpu::Execution;
using cpu::Scratch;
using Array = py::array;

// Runs a kernel with the GIL released.
template <class Args>
void run(void (*kernel)(const Args&, const Execution&), const Args& args, const Execution& execution) {
  const py::gil_scoped_release release;
  kernel(args, execution);
}

constexpr const char* an_array = "a NumPy array";
inline bool is_array(py::handle value) { return py::isinstance<py::array>(value); }
inline Array as_array(const Name& name, py::handle value, const Execution&) { return as_numpy(name, value); }
inline Array no_array() { return no_numpy(); }
inline py::object object_of(const Array& array) { return array; }
Array new_array(Element element, const Shape& shape, const Execution&);
inline Array direct_copy(const Array& array, const Execution&) { return direct_copy(array); }
inline Array transposed(const Array& matrix) { return matrix.attr("T"); }
inline void copy_into(const Array& to, const Array& from, const Execution&) { copy_into(to, from); }

inline Scratch new_scratch(std::size_t bytes, const Execution&) { return Scratch(bytes); }
inline void zero(void* memory, std::size_t bytes, const Execution&) { std::memset(memory, 0, bytes); }
inline void copy(void* to, const void* from, std::size_t bytes, const Execution&) { std::memcpy(to, from, bytes); }
inline void add(Dtype dtype, void* sum, const void* term, int64_t n, const Execution&) {
  cpu::add(dtype, sum, term, n);
}

class Integers {
 public:
  Integers() = default;
  explicit Integers(std::unique_ptr<int64_t[]> values) : own_(std::move(values)), data_(own_.get()) {}
  explicit Integers(const int64_t* values) : data_(values) {}
  const int64_t* data() const { return data_; }

 private:
  std::unique_ptr<int64_t[]> own_;
  const int64_t* data_ = nullptr;
};

// Values that outlive the call.
inline Integers place(const int64_t* values, int64_t, const Execution&) { return Integers(values); }
// (T, B) ids of a direct array, each in [0, I); padding is not looked at and reads 0. ValueError for another.
Integers place_ids(const Name& name, const Array& ids, const int64_t* lengths, int64_t I, const Execution&);
// Classes in [0, V) or ignore_index, of a direct array.
Integers place_targets(const Name& name, const Array& targets, int64_t V, int64_t ignore_index, const Execution&);

class Count {
 public:
  explicit Count(const Execution&) {}
  int64_t* data() { return &value_; }
  py::object object() const { return py::int_(value_); }

 private:
  int64_t value_ = 0;
};

}  // namespace rnnkernels::bindings
