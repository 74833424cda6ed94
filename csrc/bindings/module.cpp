// The extension module rnnkernels._core: a table of contents.  Private: rnnkernels.functional is the public face, and
// python/rnnkernels/_core.pyi says what stands here.
#include "bindings.h"

PYBIND11_MODULE(_core, module, pybind11::multiple_interpreters::not_supported()) {
  module.doc() = "CPU kernels of rnnkernels.  Private: use rnnkernels.functional.";
  module.attr("__version__") = RNNKERNELS_VERSION;
  rnnkernels::bindings::bind_execution(module);
  rnnkernels::bindings::bind_recurrent(module);
  rnnkernels::bindings::bind_packed(module);
  rnnkernels::bindings::bind_heads(module);
}
