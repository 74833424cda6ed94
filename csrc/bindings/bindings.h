// What the parts of an extension module bind.
#pragma once

#include <pybind11/pybind11.h>

namespace rnnkernels::bindings {

namespace py = pybind11;

void bind_execution(py::module_& module);  // execution.cpp: Execution, instruction sets, the list of kernels
void bind_recurrent(py::module_& module);  // recurrent.cpp: forward and backward of a stack
void bind_packed(py::module_& module);     // packed.cpp: weights packed for inference
void bind_heads(py::module_& module);      // heads.cpp: linear, cross-entropy, both together

}  // namespace rnnkernels::bindings
