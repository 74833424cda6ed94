// The extension module rnnkernels._cuda: a table of contents.  Private: rnnkernels.cuda finds it, and
// python/rnnkernels/_cuda.pyi says what stands here beside what _core has.  It imports on a machine without a driver.
#include "../cuda/blas.h"
#include "bindings.h"
#include "device_backend.h"

namespace rnnkernels::bindings {
namespace {

py::dict describe(int index) {
  const cuda::Device device = cuda::device(index);
  py::dict d;
  d["name"] = device.name;
  d["compute_capability"] = py::make_tuple(device.major, device.minor);
  d["multiprocessors"] = device.multiprocessors;
  d["memory"] = device.bytes;
  return d;
}

void bind_device(py::module_& module) {
  py::class_<Execution>(module, "Execution", py::is_final(), py::module_local())  // tests load two such modules
      .def(py::init<int, uintptr_t, bool, py::object>(), py::arg("device"), py::arg("stream"), py::arg("tf32"),
           py::arg("empty"));
  module.def("device_count", &cuda::device_count);
  module.def("why_no_device", &cuda::why_no_device);
  module.def("device", &describe);
  module.def("device_of", [](uintptr_t address) { return cuda::device_of(reinterpret_cast<const void*>(address)); });
  module.def("load_blas", &cuda::load_blas, py::arg("path"), py::arg("least"));
  module.def("unload_blas", &cuda::unload_blas);
  module.def("runtime_version", &cuda::runtime_version);
  module.def("driver_version", &cuda::driver_version);
  module.attr("targets") = RNNKERNELS_CUDA_TARGETS;
}

}  // namespace
}  // namespace rnnkernels::bindings

PYBIND11_MODULE(RNNKERNELS_MODULE, module, pybind11::multiple_interpreters::not_supported()) {
  module.doc() = "CUDA kernels of rnnkernels.  Private: use rnnkernels.functional.";
  rnnkernels::bindings::bind_device(module);
  rnnkernels::bindings::bind_recurrent(module);
  rnnkernels::bindings::bind_heads(module);
}
