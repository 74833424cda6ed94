// How a kernel is to run (rnnkernels.options decides), and what this build and machine offer.
#include <array>
#include <string>

#include "bindings.h"
#include "cpu_backend.h"

namespace rnnkernels::bindings {
namespace {

constexpr std::array<Isa, 6> best_first = {Isa::amx, Isa::avx512bf16, Isa::avx512, Isa::avx2, Isa::neon, Isa::scalar};

py::list names_of(bool (*belongs)(Isa)) {
  py::list names;
  for (const Isa isa : best_first) {
    if (belongs(isa)) names.append(cpu::isa_name(isa));
  }
  return names;
}

cpu::Execution make_execution(const std::string& isa_name, int num_threads) {
  if (num_threads < 1) throw py::value_error("num_threads: expected at least 1, got " + std::to_string(num_threads));
  for (const Isa isa : best_first) {
    if (cpu::isa_available(isa) && isa_name == cpu::isa_name(isa)) return {isa, num_threads};
  }
  throw py::value_error("isa: expected one that this machine and build have, got " + isa_name);
}

py::list kernel_rows() {
  py::list rows;
  for (const cpu::KernelInfo& kernel : cpu::kernels()) {
    rows.append(py::make_tuple(kernel.name, kernel.cell, name_of(kernel.dtype), cpu::isa_name(kernel.isa)));
  }
  return rows;
}

}  // namespace

void bind_execution(py::module_& module) {
  py::class_<cpu::Execution>(module, "Execution", py::is_final())
      .def(py::init(&make_execution), py::arg("isa"), py::arg("num_threads"))
      .def_property_readonly("isa", [](const cpu::Execution& self) { return cpu::isa_name(self.isa); })
      .def_readonly("num_threads", &cpu::Execution::num_threads);
  module.def("available_isas", [] { return names_of(&cpu::isa_available); });
  module.def("compiled_isas", [] { return names_of(&cpu::isa_compiled); });
  module.def("best_isa", [] { return cpu::isa_name(cpu::best_isa()); });
  module.def("usable_cpus", &cpu::usable_cpus);
  module.def("kernels", &kernel_rows);
}

}  // namespace rnnkernels::bindings
