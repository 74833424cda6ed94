// What arguments are called and what sizes they must have, and the errors that say so; scalars. Names and shapes are plain data
// until something is wrong: no string is made for a call that succeeds.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <new>
#include <string>

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

// The sizes of an array as it is.
struct Sizes {
  const py::ssize_t* of;
  int rank;
};

// The sizes an array must have, -1 where any will do, and their letters; "G*H" is printed with the cell's own G.
struct Shape {
  static constexpr int max_rank = 64;  // NumPy's

  Shape(const char* symbols_, std::initializer_list<int64_t> sizes_, int gates_ = 1);
  // The leading sizes of `like`, then `last` (if it is not negative).
  Shape(const char* symbols_, const Sizes& like, int leading, int64_t last);

  bool matches(const Sizes& array) const;
  std::string text() const;                       // "(4*H, H) = (512, 128)"
  std::size_t bytes(std::size_t itemsize) const;  // ValueError where an array of it could not be addressed

  const char* symbols;
  int gates = 1;
  int rank = 0;
  py::ssize_t sizes[max_rank];
};

[[noreturn]] void bad_value(const Name& name, const std::string& expected, const std::string& got);
[[noreturn]] void bad_type(const Name& name, const std::string& expected, const std::string& got);
std::string type_text(py::handle value);     // "list"
std::string text_of(py::handle value);       // str(value)
std::string shape_text(const Sizes& array);  // "(512, 64)"

bool is_integer(py::handle value);  // of Python or NumPy, not a bool
bool is_number(py::handle value);   // a real one of either, not a bool
bool read_bool(const Name& name, py::handle value);
int64_t read_int64(const Name& name, py::handle value);
int64_t to_int64(py::handle integer, int* overflow);

// Memory of a call that no Python object owns.  The nothrow form, as sanitizers end the process where the other throws.
template <class T>
std::unique_ptr<T[]> new_buffer(std::size_t n) {
  std::unique_ptr<T[]> buffer(new (std::nothrow) T[n]);
  if (!buffer) throw std::bad_alloc();
  return buffer;
}

// What is asked of the numpy module, looked up once and never let go of: the interpreter may end before statics do.
struct NumPy {
  py::handle bool_, integer, floating, generic, masked_array, may_share_memory;
};
const NumPy& numpy();

}  // namespace rnnkernels::bindings
