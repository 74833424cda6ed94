#include "arrays.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

namespace rnnkernels::bindings {
namespace {

using py::detail::npy_api;
using Proxy = py::detail::PyArray_Proxy;

constexpr int direct = npy_api::NPY_ARRAY_C_CONTIGUOUS_ | npy_api::NPY_ARRAY_ALIGNED_;
constexpr int direct_transposed = npy_api::NPY_ARRAY_F_CONTIGUOUS_ | npy_api::NPY_ARRAY_ALIGNED_;

Proxy* proxy(py::handle array) { return py::detail::array_proxy(array.ptr()); }

bool has_flags(const py::array& array, int flags) { return (proxy(array)->flags & flags) == flags; }

// What is asked of the numpy module, looked up once and never let go of: the interpreter may end before statics do.
struct NumPy {
  py::handle bool_, integer, floating, masked_array, may_share_memory;
};

const NumPy& numpy() {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<NumPy> storage;
  return storage
      .call_once_and_store_result([] {
        const auto get = [](const char* module, const char* name) {
          return py::module_::import(module).attr(name).cast<py::object>().release();
        };
        return NumPy{get("numpy", "bool_"), get("numpy", "integer"), get("numpy", "floating"),
                     get("numpy.ma", "MaskedArray"), get("numpy", "may_share_memory")};
      })
      .get_stored();
}

bool is_bool(py::handle value) { return PyBool_Check(value.ptr()) || py::isinstance(value, numpy().bool_); }

bool is_integer(py::handle value) {
  return (PyLong_Check(value.ptr()) && !PyBool_Check(value.ptr())) || py::isinstance(value, numpy().integer);
}

constexpr int half_type_number = 23, first_user_type_number = 256;  // NPY_HALF and NPY_USERDEF, not in pybind11

// The dtype called bfloat16 that was seen first; it lives as long as the process. Guarded by the GIL.
PyObject* bfloat16 = nullptr;

bool is_bfloat16(const py::array& array) {
  PyObject* const descr = proxy(array)->descr;
  if (descr == bfloat16) return true;
  if (array.itemsize() != 2 || py::detail::array_descriptor_proxy(descr)->type_num < first_user_type_number)
    return false;
  const py::object name = py::reinterpret_borrow<py::object>(descr).attr("name");
  if (PyUnicode_CompareWithASCIIString(name.ptr(), "bfloat16") != 0) return false;
  if (bfloat16 == nullptr) bfloat16 = py::reinterpret_borrow<py::object>(descr).release().ptr();
  return true;
}

// A new reference, as NumPy takes one.
PyObject* descr_of(Element element) {
  const auto builtin = [](int type_number) { return npy_api::get().PyArray_DescrFromType_(type_number); };
  switch (element) {
    case Element::f32: return builtin(npy_api::NPY_FLOAT_);
    case Element::f64: return builtin(npy_api::NPY_DOUBLE_);
    case Element::bf16: return py::reinterpret_borrow<py::object>(bfloat16).release().ptr();
    case Element::f16: return builtin(half_type_number);
    case Element::i32: return builtin(npy_api::NPY_INT32_);
    default: return builtin(npy_api::NPY_INT64_);
  }
}

// Numbers come first in both, in the same order.
static_assert(static_cast<int>(Element::f32) == static_cast<int>(Dtype::f32) &&
              static_cast<int>(Element::i32) == static_cast<int>(Dtype::f16) + 1);
Element element_of(Dtype dtype) { return static_cast<Element>(dtype); }
bool is_real(Element element) { return element < Element::i32; }

std::size_t size_of(Element element) {
  if (is_real(element)) return size_of(static_cast<Dtype>(element));
  return element == Element::i32 ? 4 : 8;
}

std::string text_of(py::handle value) { return py::str(value).cast<std::string>(); }

int64_t to_int64(py::handle integer, int* overflow) {
  const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(integer.ptr()));
  if (!number) throw py::error_already_set();
  return PyLong_AsLongLongAndOverflow(number.ptr(), overflow);
}

// The bytes an array spans; empty (both null) if it has no elements.
struct Extent {
  const char *begin, *end;
};

Extent extent_of(const py::array& array) {
  const Proxy* a = proxy(array);
  const char *low = a->data, *high = a->data + array.itemsize();
  for (int d = 0; d < a->nd; ++d) {
    if (a->dimensions[d] == 0) return {nullptr, nullptr};
    const py::ssize_t span = a->strides[d] * (a->dimensions[d] - 1);
    (span < 0 ? low : high) += span;
  }
  return {low, high};
}

bool overlap(const py::array& a, const py::array& b) {
  const Extent ea = extent_of(a), eb = extent_of(b);
  if (ea.begin >= eb.end || eb.begin >= ea.end) return false;
  // Neighbouring slices of one array interleave without sharing an element; NumPy solves that exactly, within a
  // bounded effort, and says yes beyond.
  constexpr int max_work = 10000;
  return numpy().may_share_memory(a, b, max_work).cast<bool>();
}

// Whether every element certainly has memory of its own: each stride steps over all that the smaller ones span.
bool elements_apart(const py::array& array) {
  const Proxy* a = proxy(array);
  std::array<std::pair<py::ssize_t, py::ssize_t>, Shape::max_rank> steps;  // |stride|, size
  std::size_t count = 0;
  for (int d = 0; d < a->nd; ++d) {
    if (a->dimensions[d] == 0) return true;
    if (a->dimensions[d] > 1) steps[count++] = {std::abs(a->strides[d]), a->dimensions[d]};
  }
  std::sort(steps.begin(), steps.begin() + static_cast<std::ptrdiff_t>(count));
  py::ssize_t span = array.itemsize();
  for (std::size_t i = 0; i < count; ++i) {
    if (steps[i].first < span) return false;
    span = steps[i].first * (steps[i].second - 1) + span;
  }
  return true;
}

[[noreturn]] void bad_length(const Name& name, int64_t T, const std::string& got, int64_t index) {
  bad_value(name, "values in [0, T] = [0, " + std::to_string(T) + "]", got + " at index " + std::to_string(index));
}

template <class Int>
void copy_lengths(const Name& name, const Int* values, int64_t T, int64_t B, int64_t* result) {
  for (int64_t b = 0; b < B; ++b) {
    const int64_t value = values[b];
    if (value < 0 || value > T) bad_length(name, T, std::to_string(value), b);
    result[b] = value;
  }
}

// Any sequence of Python or NumPy integers.
void copy_lengths(const Name& name, py::handle values, int64_t T, int64_t B, int64_t* result) {
  for (py::ssize_t b = 0; b < B; ++b) {
    const auto item = py::reinterpret_steal<py::object>(PySequence_GetItem(values.ptr(), b));
    if (!item) throw py::error_already_set();
    if (!is_integer(item)) bad_type(name, "integers", type_text(item) + " at index " + std::to_string(b));
    int overflow = 0;
    const int64_t value = to_int64(item, &overflow);
    if (overflow != 0 || value < 0 || value > T) bad_length(name, T, text_of(item), b);
    result[b] = value;
  }
}

// Position of element `flat` of an array of the shape: "(3, 1)".
std::string index_text(const py::ssize_t* sizes, int rank, int64_t flat) {
  py::ssize_t index[Shape::max_rank];
  for (int d = rank - 1; d >= 0; flat /= sizes[d--]) index[d] = flat % sizes[d];
  return tuple_text(index, rank);
}

template <class Int>
void copy_ids(const Name& name, const py::array& array, const Int* ids, const int64_t* lengths, int64_t T, int64_t B,
              int64_t I, int64_t* result) {
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t b = 0; b < B; ++b) {
      const bool padding = lengths != nullptr && t >= lengths[b];
      const int64_t id = padding ? 0 : ids[t * B + b];
      if (!padding && (id < 0 || id >= I)) {
        const Proxy* a = proxy(array);
        bad_value(name, "token ids in [0, I) = [0, " + std::to_string(I) + ")",
                  std::to_string(id) + " at " + index_text(a->dimensions, a->nd, t * B + b));
      }
      result[t * B + b] = id;
    }
  }
}

template <class Int>
int64_t copy_targets(const Name& name, const Int* targets, const Shape& shape, int64_t N, int64_t V,
                     int64_t ignore_index, int64_t* result) {
  int64_t count = 0;
  for (int64_t n = 0; n < N; ++n) {
    const int64_t target = targets[n];
    if (target != ignore_index) {
      if (target < 0 || target >= V) {
        bad_value(
            name,
            "classes in [0, V) = [0, " + std::to_string(V) + ") or ignore_index = " + std::to_string(ignore_index),
            std::to_string(target) + " at " + index_text(shape.sizes, shape.rank, n));
      }
      ++count;
    }
    result[n] = target;
  }
  return count;
}

}  // namespace

// -- texts ------------------------------------------------------------------------------------------------------

std::string Name::text() const {
  std::string text = owner;
  if (layer >= 0) text += "[" + std::to_string(layer) + "][" + std::to_string(direction) + "].";
  if (text == "out") return "out['" + std::string(field) + "']";
  text += field;
  if (!text.empty() && text.back() == '.') text.pop_back();  // of a whole layer
  return text;
}

std::string tuple_text(const py::ssize_t* values, int count) {
  std::string text = "(";
  for (int i = 0; i < count; ++i) text += (i > 0 ? ", " : "") + std::to_string(values[i]);
  return text + (count == 1 ? ",)" : ")");
}

std::string type_text(py::handle value) { return Py_TYPE(value.ptr())->tp_name; }

std::string dtype_text(const py::array& array) { return text_of(array.dtype()); }

std::string shape_text(const py::array& array) { return tuple_text(proxy(array)->dimensions, proxy(array)->nd); }

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

Shape::Shape(const char* symbols_, const py::array& like, int leading, int64_t last)
    : symbols(symbols_), rank(leading) {
  std::copy_n(proxy(like)->dimensions, leading, sizes);
  if (last >= 0) sizes[rank++] = last;
}

bool Shape::matches(const py::array& array) const {
  const Proxy* a = proxy(array);
  if (a->nd != rank) return false;
  for (int d = 0; d < rank; ++d) {
    if (sizes[d] >= 0 && sizes[d] != a->dimensions[d]) return false;
  }
  return true;
}

std::string Shape::text() const {
  std::string letters = symbols;
  const std::string g = gates > 1 ? std::to_string(gates) + "*" : "";
  for (std::size_t at; (at = letters.find("G*")) != std::string::npos;) letters.replace(at, 2, g);
  if (std::all_of(sizes, sizes + rank, [](py::ssize_t size) { return size < 0; }) && rank > 0) return letters;
  if (std::all_of(sizes, sizes + rank, [](py::ssize_t size) { return size >= 0; })) {
    return letters + " = " + tuple_text(sizes, rank);
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

// -- elements and scalars ---------------------------------------------------------------------------------------

Element element_of(const py::array& array) {
  const auto* descr = py::detail::array_descriptor_proxy(proxy(array)->descr);
  const uint16_t one = 1;
  const bool little_endian = reinterpret_cast<const unsigned char&>(one) == 1;
  if (descr->byteorder == (little_endian ? '>' : '<')) return Element::other;
  switch (descr->type_num) {
    case npy_api::NPY_FLOAT_: return Element::f32;
    case npy_api::NPY_DOUBLE_: return Element::f64;
    case npy_api::NPY_INT_: return Element::i32;
    case npy_api::NPY_LONG_: return sizeof(long) == 8 ? Element::i64 : Element::i32;
    case npy_api::NPY_LONGLONG_: return Element::i64;
    case half_type_number: return Element::f16;
    default: return is_bfloat16(array) ? Element::bf16 : Element::other;
  }
}

bool is_transposed(const py::array& array) { return array.ndim() == 2 && has_flags(array, direct_transposed); }

py::array as_array(const Name& name, py::handle value) {
  const npy_api& api = npy_api::get();
  if (!api.PyArray_Check_(value.ptr())) bad_type(name, "a NumPy array", type_text(value));
  if (Py_TYPE(value.ptr()) != api.PyArray_Type_ && py::isinstance(value, numpy().masked_array)) {
    bad_type(name, "a NumPy array without a mask", type_text(value));
  }
  return py::reinterpret_borrow<py::array>(value);
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

// -- memory -----------------------------------------------------------------------------------------------------

namespace {

// What an array is based on whose memory is Scratch.
py::capsule owner_of(Scratch&& memory) {
  return py::capsule(new Scratch(std::move(memory)), [](void* p) { delete static_cast<Scratch*>(p); });
}

}  // namespace

// Large ones on cache lines and huge pages, and in memory that the system need not zero for each call.
py::array new_array(Element element, const Shape& shape) {
  const std::size_t bytes = shape.bytes(size_of(element));
  const npy_api& api = npy_api::get();
  const auto create = [&](void* data) {
    PyObject* array = api.PyArray_NewFromDescr_(api.PyArray_Type_, descr_of(element), shape.rank, shape.sizes, nullptr,
                                                data, data ? direct | npy_api::NPY_ARRAY_WRITEABLE_ : 0, nullptr);
    if (array == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::array>(array);
  };
  if (bytes < cpu::kept_from) return create(nullptr);
  Scratch memory(bytes);
  py::array array = create(memory.data);
  if (api.PyArray_SetBaseObject_(array.ptr(), owner_of(std::move(memory)).release().ptr()) < 0) {
    throw py::error_already_set();
  }
  return array;
}

py::array new_array(Dtype dtype, const Shape& shape) { return new_array(element_of(dtype), shape); }

Scratch new_scratch(Dtype dtype, const Shape& shape) { return Scratch(shape.bytes(size_of(dtype))); }

// -- inputs -----------------------------------------------------------------------------------------------------

py::array Inputs::array(const Name& name, py::handle value) {
  arguments_.push_back({name, as_array(name, value)});
  return arguments_.back().array;
}

void Inputs::lead(const Name& name, const py::array& array) {
  const Element element = element_of(array);
  if (!is_real(element)) bad_type(name, "float32, float64, bfloat16 or float16", dtype_text(array));
  lead(static_cast<Dtype>(element), name.field);
}

void Inputs::check_dtype(const Name& name, const py::array& array, Dtype dtype) const {
  if (element_of(array) == element_of(dtype)) return;
  const std::string why =
      dtype == dtype_ ? std::string(" like ") + whose_ : std::string(", as ") + whose_ + " is " + name_of(dtype_);
  bad_type(name, name_of(dtype) + why, dtype_text(array));
}

const void* Inputs::contiguous(const py::array& array) {
  if (has_flags(array, direct)) return proxy(array)->data;
  PyObject* copy =
      npy_api::get().PyArray_FromAny_(array.ptr(), nullptr, 0, 0, direct | npy_api::NPY_ARRAY_ENSUREARRAY_, nullptr);
  if (copy == nullptr) throw py::error_already_set();
  copies_.push_back(py::reinterpret_steal<py::object>(copy));
  return proxy(copy)->data;
}

const void* Inputs::real(const Name& name, py::handle value, const Shape& shape, Dtype dtype) {
  const py::array array = this->array(name, value);
  check_dtype(name, array, dtype);
  if (!shape.matches(array)) bad_value(name, shape.text(), shape_text(array));
  return contiguous(array);
}

const void* Inputs::optional(const Name& name, py::handle value, const Shape& shape, Dtype dtype) {
  return value.is_none() ? nullptr : real(name, value, shape, dtype);
}

// -- outputs ----------------------------------------------------------------------------------------------------

void Outputs::check_overlap(const Name& name, const py::array& array) const {
  const char* own = "memory that nothing else of the call uses";
  if (!elements_apart(array)) bad_value(name, own, "an array that overlaps itself");
  for (const Inputs::Argument& input : inputs_.arguments_) {
    if (overlap(array, input.array)) bad_value(name, own, "an array that overlaps " + input.name.text());
  }
  for (const Given& other : given_) {
    if (overlap(array, other.array)) bad_value(name, own, "an array that overlaps " + other.name.text());
  }
}

void Outputs::check(const Name& name, const py::array& array, const Shape& shape, Dtype dtype) const {
  inputs_.check_dtype(name, array, dtype);
  if (!shape.matches(array)) bad_value(name, shape.text(), shape_text(array));
  if (!has_flags(array, npy_api::NPY_ARRAY_WRITEABLE_)) bad_value(name, "a writeable array", "a read-only one");
  check_overlap(name, array);
}

Output Outputs::add(const char* field, py::handle given, const Shape& shape, bool transposed, Dtype dtype) {
  const Name name("out", field);
  const bool is_given = given && !given.is_none();
  py::array array = no_array();
  if (is_given) {
    array = as_array(name, given);
    check(name, array, shape, dtype);
    if (transposed ? has_flags(array, direct_transposed) : has_flags(array, direct)) {
      given_.push_back({name, array, {}});
      return {array, proxy(array)->data, transposed};
    }
  }
  Shape stored = shape;
  if (transposed) std::swap(stored.sizes[0], stored.sizes[1]);
  py::array buffer = new_array(dtype, stored);
  void* const data = proxy(buffer)->data;
  const py::object view = transposed ? py::object(buffer.attr("T")) : py::object(buffer);
  if (!is_given) {
    if (accumulate_) std::memset(data, 0, stored.bytes(size_of(dtype)));
    return {view, data, transposed};
  }
  if (accumulate_ && npy_api::get().PyArray_CopyInto_(view.ptr(), array.ptr()) < 0) throw py::error_already_set();
  given_.push_back({name, array, view});
  return {array, data, transposed};
}

void Outputs::finish() {
  for (const Given& given : given_) {
    if (given.buffer && npy_api::get().PyArray_CopyInto_(given.array.ptr(), given.buffer.ptr()) < 0) {
      throw py::error_already_set();
    }
  }
}

// -- integers ---------------------------------------------------------------------------------------------------

py::object read_lengths(Inputs& inputs, const Name& name, py::handle value, int64_t T, int64_t B) {
  if (value.is_none()) return py::none();
  const Shape shape("(B)", {B});
  const void* data = nullptr;
  Element element = Element::other;
  if (py::isinstance<py::array>(value)) {
    const py::array array = inputs.array(name, value);
    const char kind = py::detail::array_descriptor_proxy(proxy(array)->descr)->kind;
    if (kind != 'i' && kind != 'u') bad_type(name, "integers", dtype_text(array));
    if (!shape.matches(array)) bad_value(name, shape.text(), shape_text(array));
    element = element_of(array);
    data = inputs.contiguous(array);
  } else {
    if (!PySequence_Check(value.ptr())) bad_type(name, "a sequence of integers", type_text(value));
    const py::ssize_t size = PySequence_Size(value.ptr());
    if (size < 0) throw py::error_already_set();
    if (size != B) bad_value(name, shape.text(), tuple_text(&size, 1));
  }
  py::array result = new_array(Element::i64, shape);
  auto* lengths = reinterpret_cast<int64_t*>(proxy(result)->data);
  switch (element) {
    case Element::i32: copy_lengths(name, static_cast<const int32_t*>(data), T, B, lengths); break;
    case Element::i64: copy_lengths(name, static_cast<const int64_t*>(data), T, B, lengths); break;
    default: copy_lengths(name, value, T, B, lengths);
  }
  return std::move(result);
}

std::unique_ptr<int64_t[]> read_ids(Inputs& inputs, const Name& name, const py::array& ids, const int64_t* lengths,
                                    int64_t T, int64_t B, int64_t I) {
  std::unique_ptr<int64_t[]> result = new_buffer<int64_t>(to_size(T * B));
  const void* data = inputs.contiguous(ids);
  if (element_of(ids) == Element::i32) {
    copy_ids(name, ids, static_cast<const int32_t*>(data), lengths, T, B, I, result.get());
  } else {
    copy_ids(name, ids, static_cast<const int64_t*>(data), lengths, T, B, I, result.get());
  }
  return result;
}

Targets read_targets(Inputs& inputs, const Name& name, py::handle value, const Shape& shape, int64_t V,
                     int64_t ignore_index) {
  const py::array array = inputs.array(name, value);
  const Element element = element_of(array);
  if (element != Element::i32 && element != Element::i64) bad_type(name, "int32 or int64", dtype_text(array));
  if (!shape.matches(array)) bad_value(name, shape.text(), shape_text(array));
  const std::size_t N = shape.bytes(1);
  Targets result{new_buffer<int64_t>(N), 0};
  const void* data = inputs.contiguous(array);
  const auto copy = [&](auto* targets) {
    return copy_targets(name, targets, shape, static_cast<int64_t>(N), V, ignore_index, result.values.get());
  };
  result.count =
      element == Element::i32 ? copy(static_cast<const int32_t*>(data)) : copy(static_cast<const int64_t*>(data));
  return result;
}

}  // namespace rnnkernels::bindings
