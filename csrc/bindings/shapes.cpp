#include "shapes.h"

#include <algorithm>
#include <limits>

namespace rnnkernels::bindings {
namespace {

std::string tuple_text(const Sizes& sizes) {
  std::string text = "(";
  for (int i = 0; i < sizes.rank; ++i) text += (i > 0 ? ", " : "") + std::to_string(sizes.of[i]);
  return text + (sizes.rank == 1 ? ",)" : ")");
}

bool is_bool(py::handle value) { return PyBool_Check(value.ptr()) || py::isinstance(value, numpy().bool_); }

}  // namespace

const NumPy& numpy() {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<NumPy> storage;
  return storage
      .call_once_and_store_result([] {
        const auto get = [](const char* module, const char* name) {
          return py::module_::import(module).attr(name).cast<py::object>().release();
        };
        return NumPy{get("numpy", "bool_"),   get("numpy", "integer"),        get("numpy", "floating"),
                     get("numpy", "generic"), get("numpy.ma", "MaskedArray"), get("numpy", "may_share_memory")};
      })
      .get_stored();
}

// -- texts ------------------------------------------------------------------------------------------------------

std::string Name::text() const {
  std::string text = owner;
  if (layer >= 0) text += "[" + std::to_string(layer) + "][" + std::to_string(direction) + "].";
  if (text == "out") return "out['" + std::string(field) + "']";
  text += field;
  if (!text.empty() && text.back() == '.') text.pop_back();  // of a whole layer
  return text;
}

std::string type_text(py::handle value) { return Py_TYPE(value.ptr())->tp_name; }

std::string text_of(py::handle value) { return py::str(value).cast<std::string>(); }

std::string shape_text(const Sizes& array) { return tuple_text(array); }

void bad_value(const Name& name, const std::string& expected, const std::string& got) {
  throw py::value_error(name.text() + ": expected " + expected + ", got " + got);
}

void bad_type(const Name& name, const std::string& expected, const std::string& got) {
  throw py::type_error(name.text() + ": expected " + expected + ", got " + got);
}

// -- shapes -----------------------------------------------------------------------------------------------------

Shape::Shape(const char* symbols_, std::initializer_list<int64_t> sizes_, int gates_)
    : symbols(symbols_), gates(gates_), rank(static_cast<int>(sizes_.size())) {
  std::copy(sizes_.begin(), sizes_.end(), sizes);
}

Shape::Shape(const char* symbols_, const Sizes& like, int leading, int64_t last) : symbols(symbols_), rank(leading) {
  std::copy_n(like.of, leading, sizes);
  if (last >= 0) sizes[rank++] = last;
}

bool Shape::matches(const Sizes& array) const {
  if (array.rank != rank) return false;
  for (int d = 0; d < rank; ++d) {
    if (sizes[d] >= 0 && sizes[d] != array.of[d]) return false;
  }
  return true;
}

std::string Shape::text() const {
  std::string letters = symbols;
  const std::string g = gates > 1 ? std::to_string(gates) + "*" : "";
  for (std::size_t at; (at = letters.find("G*")) != std::string::npos;) letters.replace(at, 2, g);
  if (std::all_of(sizes, sizes + rank, [](py::ssize_t size) { return size < 0; }) && rank > 0) return letters;
  if (std::all_of(sizes, sizes + rank, [](py::ssize_t size) { return size >= 0; })) {
    return letters + " = " + tuple_text({sizes, rank});
  }
  std::string values = "(";
  std::size_t begin = 1;  // of the size's letters, after the bracket
  for (int d = 0; d < rank; ++d) {
    const std::size_t end = letters.find_first_of(",)", begin);
    values += d > 0 ? ", " : "";
    values += sizes[d] < 0 ? letters.substr(begin, end - begin) : std::to_string(sizes[d]);
    begin = end + 2;
  }
  return letters + " = " + values + ")";
}

std::size_t Shape::bytes(std::size_t itemsize) const {
  constexpr int64_t most = std::numeric_limits<int64_t>::max();
  int64_t product = static_cast<int64_t>(itemsize);
  bool empty = false;
  for (int d = 0; d < rank; ++d) {
    if (sizes[d] == 0) {
      empty = true;
    } else if (product > most / sizes[d]) {
      throw py::value_error("sizes: an array " + text() + " has 2**63 bytes or more");
    } else {
      product *= sizes[d];
    }
  }
  return empty ? 0 : to_size(product);
}

// -- scalars ----------------------------------------------------------------------------------------------------

bool is_integer(py::handle value) {
  return (PyLong_Check(value.ptr()) && !PyBool_Check(value.ptr())) || py::isinstance(value, numpy().integer);
}

bool is_number(py::handle value) {
  return PyFloat_Check(value.ptr()) || is_integer(value) || py::isinstance(value, numpy().floating);
}

bool read_bool(const Name& name, py::handle value) {
  if (!is_bool(value)) bad_type(name, "a bool", type_text(value));
  return PyObject_IsTrue(value.ptr()) == 1;
}

int64_t read_int64(const Name& name, py::handle value) {
  if (!is_integer(value)) bad_type(name, "an integer", type_text(value));
  int overflow = 0;
  const int64_t result = to_int64(value, &overflow);
  if (overflow != 0) bad_value(name, "an integer of 64 bits", text_of(value));
  return result;
}

int64_t to_int64(py::handle integer, int* overflow) {
  const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(integer.ptr()));
  if (!number) throw py::error_already_set();
  return PyLong_AsLongLongAndOverflow(number.ptr(), overflow);
}

}  // namespace rnnkernels::bindings
