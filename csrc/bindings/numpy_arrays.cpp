#include "numpy_arrays.h"

namespace rnnkernels::bindings {
namespace {

using py::detail::npy_api;

constexpr int half_type_number = 23, first_user_type_number = 256;  // NPY_HALF and NPY_USERDEF, not in pybind11

// The dtype called bfloat16 that was seen first; it lives as long as the process. Guarded by the GIL.
PyObject* bfloat16 = nullptr;

bool is_bfloat16(const py::array& array) {
  PyObject* const descr = py::detail::array_proxy(array.ptr())->descr;
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

}  // namespace

Element element_of(const py::array& array) {
  const auto* descr = py::detail::array_descriptor_proxy(py::detail::array_proxy(array.ptr())->descr);
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

std::string dtype_text(const py::array& array) { return text_of(array.dtype()); }

bool shares_memory(const py::array& a, const py::array& b) {
  // Neighbouring slices of one array interleave without sharing an element; NumPy solves that exactly, within a
  // bounded effort, and says yes beyond.
  constexpr int max_work = 10000;
  return numpy().may_share_memory(a, b, max_work).cast<bool>();
}

py::array as_numpy(const Name& name, py::handle value) {
  const npy_api& api = npy_api::get();
  if (!api.PyArray_Check_(value.ptr())) bad_type(name, "a NumPy array", type_text(value));
  if (Py_TYPE(value.ptr()) != api.PyArray_Type_ && py::isinstance(value, numpy().masked_array)) {
    bad_type(name, "a NumPy array without a mask", type_text(value));
  }
  return py::reinterpret_borrow<py::array>(value);
}

py::array direct_copy(const py::array& array) {
  PyObject* copy = npy_api::get().PyArray_FromAny_(array.ptr(), nullptr, 0, 0,
                                                   direct_flags | npy_api::NPY_ARRAY_ENSUREARRAY_, nullptr);
  if (copy == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::array>(copy);
}

py::array make_numpy(Element element, const Shape& shape, void* data) {
  const npy_api& api = npy_api::get();
  PyObject* array = api.PyArray_NewFromDescr_(api.PyArray_Type_, descr_of(element), shape.rank, shape.sizes, nullptr,
                                              data, data ? direct_flags | npy_api::NPY_ARRAY_WRITEABLE_ : 0, nullptr);
  if (array == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::array>(array);
}

void copy_into(const py::array& to, const py::array& from) {
  if (npy_api::get().PyArray_CopyInto_(to.ptr(), from.ptr()) < 0) throw py::error_already_set();
}

}  // namespace rnnkernels::bindings
