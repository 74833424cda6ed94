// NumPy arrays, as backend.h wants arrays to be: those that _core computes on, and in any module integers of the host.
//
// Subclasses of numpy.ndarray are read as plain arrays, except masked ones, whose mask would be lost in silence.
#pragma once

#include <pybind11/numpy.h>

#include "elements.h"

namespace rnnkernels::bindings {

inline Sizes sizes_of(const py::array& array) {
  const auto* a = py::detail::array_proxy(array.ptr());
  return {a->dimensions, a->nd};
}
inline const py::ssize_t* strides_of(const py::array& array) {  // in bytes
  return py::detail::array_proxy(array.ptr())->strides;
}
inline void* data_of(const py::array& array) { return py::detail::array_proxy(array.ptr())->data; }

inline bool has_flags(const py::array& array, int flags) {
  return (py::detail::array_proxy(array.ptr())->flags & flags) == flags;
}
constexpr int direct_flags = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
inline bool is_direct(const py::array& array) { return has_flags(array, direct_flags); }
inline bool is_transposed(const py::array& array) {
  constexpr int flags = py::detail::npy_api::NPY_ARRAY_F_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  return array.ndim() == 2 && has_flags(array, flags);
}
inline bool is_writeable(const py::array& array) { return has_flags(array, py::detail::npy_api::NPY_ARRAY_WRITEABLE_); }

inline std::size_t itemsize_of(const py::array& array) { return to_size(array.itemsize()); }
inline py::array no_numpy() { return py::reinterpret_steal<py::array>(py::handle()); }  // py::array() would allocate

Element element_of(const py::array& array);
std::string dtype_text(const py::array& array);  // "float32"
bool shares_memory(const py::array& a, const py::array& b);

py::array as_numpy(const Name& name, py::handle value);  // TypeError for anything else
py::array direct_copy(const py::array& array);
// Of memory that is not read here, or null: a new one.
py::array make_numpy(Element element, const Shape& shape, void* data = nullptr);
void copy_into(const py::array& to, const py::array& from);

}  // namespace rnnkernels::bindings
