// A stack's weights packed for inference: of _core alone.
#include <cmath>

#include "bindings.h"
#include "call.h"

namespace rnnkernels::bindings {
namespace {

// Whether weights are to be rounded to 8 bits.
bool read_weight_dtype(py::handle value, Dtype dtype) {
  if (value.is_none()) return false;
  const std::string got = py::repr(value).cast<std::string>();
  if (!PyUnicode_Check(value.ptr()) || got != "'int8'") bad_value("weight_dtype", "None or 'int8'", got);
  if (dtype != Dtype::f32) bad_value("weight_dtype", std::string("None for weights of ") + name_of(dtype), got);
  return true;
}

// What int8 can hold: finite rows of so many columns.
void check_int8(const Name& name, const void* matrix, int64_t rows, int64_t columns) {
  if (columns > cpu::most_int8_columns) {
    bad_value(name, "at most " + std::to_string(cpu::most_int8_columns) + " columns for int8", std::to_string(columns));
  }
  const float* values = static_cast<const float*>(matrix);
  for (int64_t i = 0; i < rows * columns; ++i) {
    if (std::isfinite(values[i])) continue;
    bad_value(name, "finite values for int8",
              (std::isnan(values[i]) ? "NaN in row " : "infinity in row ") + std::to_string(i / columns));
  }
}

// A stack's weights packed once for one ISA, for inference.  Never changes; holds no array of the user's.
class Packed {
 public:
  Packed(py::handle kind, py::handle params, py::handle weight_dtype, const Execution& execution)
      : isa_(execution.isa) {
    Call call(read_kind(kind), false, execution);
    const std::vector<Weights> weights = read_params(call, params);
    problem_ = call.problem;
    problem_.dtype = call.inputs.dtype();
    problem_.B = 1;
    int8_ = read_weight_dtype(weight_dtype, problem_.dtype);
    for (int k = 0; int8_ && k < call.count(); ++k) {
      const Place place{"params", k / problem_.directions, k % problem_.directions};
      const int64_t rows = call.cell.gates * problem_.H;
      check_int8(place("w_ih"), weights[to_size(k)].w_ih, rows, place.layer ? call.width() : problem_.I);
      check_int8(place("w_hh"), weights[to_size(k)].w_hh, rows, problem_.H);
    }
    if (problem_.H == 0) return;
    call.problem = problem_;
    check_sizes(call);
    const py::gil_scoped_release release;
    packed_.reset(cpu::pack_stack(problem_, weights.data(), int8_, execution));
  }

  // (y, h_n, c_n) of sequences, or of one step, in which x, y and ids have no axis of time.
  py::tuple run(py::handle x, py::handle h0, py::handle c0, py::handle lengths, bool step,
                const Execution& execution) const {
    const Execution as_packed{isa_, execution.num_threads};
    Call call(problem_.cell, false, as_packed);
    call.problem = problem_;
    call.step = step;
    call.inputs.lead(problem_.dtype, "the packed weights");
    call.has_dtype = true;
    if (step && problem_.directions == 2) throw py::value_error("step: expected a pack of 1 direction, got one of 2");
    read_x(call, "x", x);
    read_lengths_and_ids(call, {"", -1, -1}, lengths);
    const ForwardResult r = run_forward(call, {}, packed_.get(), h0, c0, false, py::none());
    return py::make_tuple(r.y, r.h_n, r.c_n);
  }

  py::dict description() const {
    py::dict d;
    d["kind"] = traits(problem_.cell).name;
    d["input_size"] = problem_.I;
    d["hidden_size"] = problem_.H;
    d["num_layers"] = problem_.layers;
    d["directions"] = problem_.directions;
    d["dtype"] = name_of(problem_.dtype);
    d["weight_dtype"] = int8_ ? "int8" : name_of(problem_.dtype);
    d["isa"] = cpu::isa_name(isa_);
    return d;
  }

 private:
  struct Free {
    void operator()(PackedStack* packed) const { cpu::free_packed(packed); }
  };
  Problem problem_{};
  Isa isa_;
  bool int8_;
  std::unique_ptr<PackedStack, Free> packed_;  // null without hidden units
};

}  // namespace

void bind_packed(py::module_& module) {
  py::class_<Packed>(module, "Packed", py::is_final())
      .def(py::init<py::handle, py::handle, py::handle, const Execution&>())
      .def("run", &Packed::run)
      .def("description", &Packed::description);
}

}  // namespace rnnkernels::bindings
