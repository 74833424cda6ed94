// Arguments as checked views, and results: every rule about what an array may be stands here, once, with its error text.
#pragma once

#include <utility>
#include <vector>

#include "backend.h"

namespace rnnkernels::bindings {

inline Array new_array(Dtype dtype, const Shape& shape, const Execution& execution) {
  return new_array(element_of(dtype), shape, execution);
}
inline Scratch new_scratch(Dtype dtype, const Shape& shape, const Execution& execution) {
  return new_scratch(shape.bytes(size_of(dtype)), execution);
}

// Every array that a call reads, held (with the copies made of strided ones) until the call returns.
class Inputs {
 public:
  explicit Inputs(const Execution& execution) : execution_(execution) {}

  Array array(const Name& name, py::handle value);  // any array
  void lead(const Name& name, const Array& array);  // the first one of floats: fixes the dtype
  void lead(Dtype dtype, const char* whose) { dtype_ = dtype, whose_ = whose; }
  Dtype dtype() const { return dtype_; }

  // The data of an array of the dtype and shape, C-contiguous and aligned: of a copy where the array is not.
  const void* real(const Name& name, py::handle value, const Shape& shape) { return real(name, value, shape, dtype_); }
  const void* optional(const Name& name, py::handle value, const Shape& shape) {  // null for None
    return optional(name, value, shape, dtype_);
  }
  // Of one that array() has given.
  const void* real(const Name& name, const Array& array, const Shape& shape) {
    return real(name, array, shape, dtype_);
  }
  // The same of the dtype that this one is computed in.
  const void* wide(const Name& name, py::handle value, const Shape& shape) {
    return real(name, value, shape, computed_in(dtype_));
  }
  const void* optional_wide(const Name& name, py::handle value, const Shape& shape) {
    return optional(name, value, shape, computed_in(dtype_));
  }

  void check_dtype(const Name& name, const Array& array) const { check_dtype(name, array, dtype_); }
  void check_dtype(const Name& name, const Array& array, Dtype dtype) const;
  Array direct(const Array& array);  // itself, or a C-contiguous and aligned copy
  const void* contiguous(const Array& array) { return data_of(direct(array)); }

  const Execution& execution() const { return execution_; }

 private:
  friend class Outputs;
  const void* real(const Name& name, const Array& array, const Shape& shape, Dtype dtype);
  const void* real(const Name& name, py::handle value, const Shape& shape, Dtype dtype) {
    return real(name, array(name, value), shape, dtype);
  }
  const void* optional(const Name& name, py::handle value, const Shape& shape, Dtype dtype);

  struct Argument {
    Name name;
    Array array;
  };
  const Execution& execution_;
  std::vector<Argument> arguments_;
  std::vector<Array> copies_;
  Dtype dtype_ = Dtype::f32;
  const char* whose_ = "x";
};

// An array of the result, and where the kernel writes it: there, or in a C-contiguous copy of it.
struct Output {
  py::object array;
  void* data;
  bool transposed;  // the data are column-major
};

// Every array that a call returns.  `accumulate`: the given ones are added to, the others start at zero.
class Outputs {
 public:
  Outputs(const Inputs& inputs, bool accumulate) : inputs_(inputs), accumulate_(accumulate) {}

  // `given` is the caller's array, or null or None for a new one.  `transposed` asks for a column-major matrix.
  Output add(const char* field, py::handle given, const Shape& shape, bool transposed = false) {
    return add(field, given, shape, transposed, inputs_.dtype());
  }
  // Of the dtype that the inputs' is computed in.
  Output add_wide(const char* field, py::handle given, const Shape& shape) {
    return add(field, given, shape, false, computed_in(inputs_.dtype()));
  }
  void finish();  // copies into the given arrays that are strided

 private:
  Output add(const char* field, py::handle given, const Shape& shape, bool transposed, Dtype dtype);
  void check(const Name& name, const Array& array, const Shape& shape, Dtype dtype) const;
  void check_overlap(const Name& name, const Array& array) const;

  struct Given {
    Name name;
    Array array;
    Array buffer;  // none: written directly
    bool buffered;
  };
  const Inputs& inputs_;
  bool accumulate_;
  std::vector<Given> given_;
};

// (B) integers in [0, T] as a new int64 array of NumPy, or None for None. They are of the host in either module.
py::object read_lengths(Inputs& inputs, const Name& name, py::handle value, int64_t T, int64_t B);

// Class indices in [0, V) or ignore_index.
Integers read_targets(Inputs& inputs, const Name& name, py::handle value, const Shape& shape, int64_t V,
                      int64_t ignore_index);

}  // namespace rnnkernels::bindings
