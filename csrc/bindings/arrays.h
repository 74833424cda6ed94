// NumPy arrays as checked views: every rule about what an argument may be stands here, once, with its error text.
//
// Names and shapes are plain data until something is wrong: no string is made for a call that succeeds.
// Subclasses of numpy.ndarray are read as plain arrays, except masked ones, whose mask would be lost in silence.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "../cpu/dispatch.h"
#include "../cpu/scratch.h"

namespace rnnkernels::bindings {

namespace py = pybind11;

static_assert(sizeof(py::ssize_t) == sizeof(int64_t), "a 64-bit platform");

constexpr std::size_t to_size(int64_t n) { return static_cast<std::size_t>(n); }

// Where an argument stands: `h0`, `saved.h0`, `params[1][0].w_hh`, `out['y']`.
struct Name {
  Name(const char* field_) : field(field_) {}
  Name(const char* owner_, const char* field_, int layer_ = -1, int direction_ = -1)
      : owner(owner_), field(field_), layer(layer_), direction(direction_) {}
  std::string text() const;

  const char* owner = "";
  const char* field;
  int layer = -1;
  int direction = -1;
};

// The sizes an array must have, -1 where any will do, and their letters; "G*H" is printed with the cell's own G.
struct Shape {
  static constexpr int max_rank = 64;  // NumPy's

  Shape(const char* symbols_, std::initializer_list<int64_t> sizes_, int gates_ = 1);
  // The leading sizes of `like`, then `last` (if it is not negative).
  Shape(const char* symbols_, const py::array& like, int leading, int64_t last);

  bool matches(const py::array& array) const;
  std::string text() const;                       // "(4*H, H) = (512, 128)"
  std::size_t bytes(std::size_t itemsize) const;  // ValueError where an array of it could not be addressed

  const char* symbols;
  int gates = 1;
  int rank = 0;
  py::ssize_t sizes[max_rank];
};

[[noreturn]] void bad_value(const Name& name, const std::string& expected, const std::string& got);
[[noreturn]] void bad_type(const Name& name, const std::string& expected, const std::string& got);
std::string type_text(py::handle value);         // "list"
std::string dtype_text(const py::array& array);  // "float32"
std::string shape_text(const py::array& array);  // "(512, 64)"
std::string tuple_text(const py::ssize_t* values, int count);

// The four elements that numbers come in, the two that ids come in, and everything else. bfloat16 is not NumPy's own: any
// dtype of 16 bits with that name will do (ml_dtypes has it), and results have the one that was seen first.
enum class Element { f32, f64, bf16, f16, i32, i64, other };
Element element_of(const py::array& array);
bool is_transposed(const py::array& array);  // the transpose of a C-contiguous, aligned matrix

py::array as_array(const Name& name, py::handle value);  // TypeError for anything but an array
bool is_number(py::handle value);                        // a real Python or NumPy scalar, not a bool
bool read_bool(const Name& name, py::handle value);
int64_t read_int64(const Name& name, py::handle value);

inline py::array no_array() { return py::reinterpret_steal<py::array>(py::handle()); }  // py::array() would allocate
py::array new_array(Element element, const Shape& shape);
py::array new_array(Dtype dtype, const Shape& shape);

// Memory of a call that no Python object owns.  The nothrow form, as sanitizers end the process where the other throws.
template <class T>
std::unique_ptr<T[]> new_buffer(std::size_t n) {
  std::unique_ptr<T[]> buffer(new (std::nothrow) T[n]);
  if (!buffer) throw std::bad_alloc();
  return buffer;
}

using cpu::Scratch;
Scratch new_scratch(Dtype dtype, const Shape& shape);

// Every array that a call reads, held (with the copies made of strided ones) until the call returns.
class Inputs {
 public:
  py::array array(const Name& name, py::handle value);  // any array
  void lead(const Name& name, const py::array& array);  // the first one of floats: fixes the dtype
  void lead(Dtype dtype, const char* whose) { dtype_ = dtype, whose_ = whose; }
  Dtype dtype() const { return dtype_; }

  // The data of an array of the dtype and shape, C-contiguous and aligned: of a copy where the array is not.
  const void* real(const Name& name, py::handle value, const Shape& shape) { return real(name, value, shape, dtype_); }
  const void* optional(const Name& name, py::handle value, const Shape& shape) {  // null for None
    return optional(name, value, shape, dtype_);
  }
  // The same of the dtype that this one is computed in.
  const void* wide(const Name& name, py::handle value, const Shape& shape) {
    return real(name, value, shape, computed_in(dtype_));
  }
  const void* optional_wide(const Name& name, py::handle value, const Shape& shape) {
    return optional(name, value, shape, computed_in(dtype_));
  }

  void check_dtype(const Name& name, const py::array& array) const { check_dtype(name, array, dtype_); }
  void check_dtype(const Name& name, const py::array& array, Dtype dtype) const;
  const void* contiguous(const py::array& array);

 private:
  friend class Outputs;
  const void* real(const Name& name, py::handle value, const Shape& shape, Dtype dtype);
  const void* optional(const Name& name, py::handle value, const Shape& shape, Dtype dtype);

  struct Argument {
    Name name;
    py::array array;
  };
  std::vector<Argument> arguments_;
  std::vector<py::object> copies_;
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
  void check(const Name& name, const py::array& array, const Shape& shape, Dtype dtype) const;
  void check_overlap(const Name& name, const py::array& array) const;

  struct Given {
    Name name;
    py::array array;
    py::object buffer;  // null: written directly
  };
  const Inputs& inputs_;
  bool accumulate_;
  std::vector<Given> given_;
};

// (B) integers in [0, T] as a new int64 array, or None for None.
py::object read_lengths(Inputs& inputs, const Name& name, py::handle value, int64_t T, int64_t B);

// (T, B) token ids in [0, I) as int64; padding is not looked at and reads 0.
std::unique_ptr<int64_t[]> read_ids(Inputs& inputs, const Name& name, const py::array& ids, const int64_t* lengths,
                                    int64_t T, int64_t B, int64_t I);

// Class indices in [0, V) or ignore_index, as int64.
struct Targets {
  std::unique_ptr<int64_t[]> values;
  int64_t count;  // that are not ignored
};
Targets read_targets(Inputs& inputs, const Name& name, py::handle value, const Shape& shape, int64_t V,
                     int64_t ignore_index);

}  // namespace rnnkernels::bindings
