#include "arrays.h"

#include <algorithm>
#include <array>

namespace rnnkernels::bindings {
namespace {

// The bytes an array spans; empty (both null) if it has no elements.
struct Extent {
  const char *begin, *end;
};

Extent extent_of(const Array& array) {
  const Sizes sizes = sizes_of(array);
  const py::ssize_t* strides = strides_of(array);
  const char *low = static_cast<const char*>(data_of(array)), *high = low + itemsize_of(array);
  for (int d = 0; d < sizes.rank; ++d) {
    if (sizes.of[d] == 0) return {nullptr, nullptr};
    const py::ssize_t span = strides[d] * (sizes.of[d] - 1);
    (span < 0 ? low : high) += span;
  }
  return {low, high};
}

bool overlap(const Array& a, const Array& b) {
  const Extent ea = extent_of(a), eb = extent_of(b);
  return ea.begin < eb.end && eb.begin < ea.end && shares_memory(a, b);
}

// Whether every element certainly has memory of its own: each stride steps over all that the smaller ones span.
bool elements_apart(const Array& array) {
  const Sizes sizes = sizes_of(array);
  const py::ssize_t* strides = strides_of(array);
  std::array<std::pair<py::ssize_t, py::ssize_t>, Shape::max_rank> steps;  // |stride|, size
  std::size_t count = 0;
  for (int d = 0; d < sizes.rank; ++d) {
    if (sizes.of[d] == 0) return true;
    if (sizes.of[d] > 1) steps[count++] = {std::abs(strides[d]), sizes.of[d]};
  }
  std::sort(steps.begin(), steps.begin() + static_cast<std::ptrdiff_t>(count));
  auto span = static_cast<py::ssize_t>(itemsize_of(array));
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

}  // namespace

// -- inputs -----------------------------------------------------------------------------------------------------

Array Inputs::array(const Name& name, py::handle value) {
  arguments_.push_back({name, as_array(name, value, execution_)});
  return arguments_.back().array;
}

void Inputs::lead(const Name& name, const Array& array) {
  const Element element = element_of(array);
  if (!is_real(element)) bad_type(name, "float32, float64, bfloat16 or float16", dtype_text(array));
  lead(static_cast<Dtype>(element), name.field);
}

void Inputs::check_dtype(const Name& name, const Array& array, Dtype dtype) const {
  if (element_of(array) == element_of(dtype)) return;
  const std::string why =
      dtype == dtype_ ? std::string(" like ") + whose_ : std::string(", as ") + whose_ + " is " + name_of(dtype_);
  bad_type(name, name_of(dtype) + why, dtype_text(array));
}

Array Inputs::direct(const Array& array) {
  if (is_direct(array)) return array;
  copies_.push_back(direct_copy(array, execution_));
  return copies_.back();
}

const void* Inputs::real(const Name& name, const Array& array, const Shape& shape, Dtype dtype) {
  check_dtype(name, array, dtype);
  if (!shape.matches(sizes_of(array))) bad_value(name, shape.text(), shape_text(sizes_of(array)));
  return contiguous(array);
}

const void* Inputs::optional(const Name& name, py::handle value, const Shape& shape, Dtype dtype) {
  return value.is_none() ? nullptr : real(name, value, shape, dtype);
}

// -- outputs ----------------------------------------------------------------------------------------------------

void Outputs::check_overlap(const Name& name, const Array& array) const {
  const char* own = "memory that nothing else of the call uses";
  if (!elements_apart(array)) bad_value(name, own, "an array that overlaps itself");
  for (const Inputs::Argument& input : inputs_.arguments_) {
    if (overlap(array, input.array)) bad_value(name, own, "an array that overlaps " + input.name.text());
  }
  for (const Given& other : given_) {
    if (overlap(array, other.array)) bad_value(name, own, "an array that overlaps " + other.name.text());
  }
}

void Outputs::check(const Name& name, const Array& array, const Shape& shape, Dtype dtype) const {
  inputs_.check_dtype(name, array, dtype);
  if (!shape.matches(sizes_of(array))) bad_value(name, shape.text(), shape_text(sizes_of(array)));
  if (!is_writeable(array)) bad_value(name, "a writeable array", "a read-only one");
  check_overlap(name, array);
}

Output Outputs::add(const char* field, py::handle given, const Shape& shape, bool as_transpose, Dtype dtype) {
  const Execution& execution = inputs_.execution();
  const Name name("out", field);
  const bool is_given = given && !given.is_none();
  Array array = no_array();
  if (is_given) {
    array = as_array(name, given, execution);
    check(name, array, shape, dtype);
    if (as_transpose ? is_transposed(array) : is_direct(array)) {
      given_.push_back({name, array, no_array(), false});
      return {object_of(array), data_of(array), as_transpose};
    }
  }
  Shape stored = shape;
  if (as_transpose) std::swap(stored.sizes[0], stored.sizes[1]);
  const Array buffer = new_array(dtype, stored, execution);
  const Array view = as_transpose ? transposed(buffer) : buffer;
  if (!is_given) {
    if (accumulate_) zero(data_of(buffer), stored.bytes(size_of(dtype)), execution);
    return {object_of(view), data_of(buffer), as_transpose};
  }
  if (accumulate_) copy_into(view, array, execution);
  given_.push_back({name, array, view, true});
  return {object_of(array), data_of(buffer), as_transpose};
}

void Outputs::finish() {
  for (const Given& given : given_) {
    if (given.buffered) copy_into(given.array, given.buffer, inputs_.execution());
  }
}

// -- integers ---------------------------------------------------------------------------------------------------

py::object read_lengths(Inputs& inputs, const Name& name, py::handle value, int64_t T, int64_t B) {
  if (value.is_none()) return py::none();
  const Shape shape("(B)", {B});
  py::array given = no_numpy();
  Element element = Element::other;
  if (py::isinstance<py::array>(value)) {
    if (is_array(value)) inputs.array(name, value);  // which results may not overlap
    given = as_numpy(name, value);
    const char kind = given.dtype().kind();
    if (kind != 'i' && kind != 'u') bad_type(name, "integers", dtype_text(given));
    if (!shape.matches(sizes_of(given))) bad_value(name, shape.text(), shape_text(sizes_of(given)));
    element = element_of(given);
    if (!is_direct(given)) given = direct_copy(given);
  } else {
    const py::ssize_t size = PySequence_Check(value.ptr()) ? PySequence_Size(value.ptr()) : -1;
    if (size < 0) {
      PyErr_Clear();
      bad_type(name, "a sequence of integers", type_text(value));
    }
    if (size != B) bad_value(name, shape.text(), shape_text({&size, 1}));
  }
  py::array result = make_numpy(Element::i64, shape);
  auto* lengths = static_cast<int64_t*>(data_of(result));
  switch (element) {
    case Element::i32: copy_lengths(name, static_cast<const int32_t*>(data_of(given)), T, B, lengths); break;
    case Element::i64: copy_lengths(name, static_cast<const int64_t*>(data_of(given)), T, B, lengths); break;
    default: copy_lengths(name, value, T, B, lengths);
  }
  return std::move(result);
}

Integers read_targets(Inputs& inputs, const Name& name, py::handle value, const Shape& shape, int64_t V,
                      int64_t ignore_index) {
  const Array array = inputs.array(name, value);
  if (!is_id(element_of(array))) bad_type(name, "int32 or int64", dtype_text(array));
  if (!shape.matches(sizes_of(array))) bad_value(name, shape.text(), shape_text(sizes_of(array)));
  shape.bytes(1);
  return place_targets(name, inputs.direct(array), V, ignore_index, inputs.execution());
}

}  // namespace rnnkernels::bindings
