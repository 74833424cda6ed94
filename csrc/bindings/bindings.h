// What the parts of the extension module share: who binds what, and how a kernel is called.
#pragma once

#include <pybind11/pybind11.h>

namespace rnnkernels::bindings {

namespace py = pybind11;

void bind_execution(py::module_& module);  // execution.cpp: Execution, instruction sets, the list of kernels
void bind_recurrent(py::module_& module);  // recurrent.cpp: forward and backward of a stack, packs
void bind_heads(py::module_& module);      // heads.cpp: linear, cross-entropy, both together

// Runs a kernel with the GIL released.
template <class Kernel>
void without_gil(Kernel&& kernel) {
  const py::gil_scoped_release release;
  kernel();
}

}  // namespace rnnkernels::bindings
