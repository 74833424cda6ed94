// The output heads: linear, softmax cross-entropy, and both together.
//
// Leading dimensions are rows: N is their product.  A loss is reduced here, in float64 and in the order of the rows; the
// kernels know only losses, and gradients of losses, of single rows.
#include <algorithm>
#include <cstring>
#include <limits>

#include "../cpu/dispatch.h"
#include "arrays.h"
#include "bindings.h"

namespace rnnkernels::bindings {
namespace {

// The fields of the gradient tuples in Python, in their order: bit numbers of `needs`, and places in `out`.
enum Gradient { dx, dw, db };  // dh, dw, db of linear_cross_entropy

// x (..., columns) as N rows.
struct Rows {
  py::array array;
  const void* data;
  int leading;
  int64_t N, columns;

  Shape shape(const char* symbols, int64_t last = -1) const { return Shape(symbols, array, leading, last); }
};

// The first array of a head; it fixes the dtype.
Rows read_rows(Inputs& inputs, const Name& name, const char* symbols, py::handle value) {
  const py::array array = inputs.array(name, value);
  inputs.lead(name, array);
  if (array.ndim() == 0) bad_value(name, symbols, shape_text(array));
  const int leading = static_cast<int>(array.ndim()) - 1;
  const auto N = static_cast<int64_t>(Shape(symbols, array, leading, -1).bytes(1));
  return {array, inputs.contiguous(array), leading, N, array.shape(leading)};
}

// (rows, columns) of which the columns are known; returns the rows.
const void* read_matrix(Inputs& inputs, const Name& name, const char* symbols, py::handle value, int64_t columns,
                        int64_t& rows) {
  const py::array array = inputs.array(name, value);
  inputs.check_dtype(name, array);
  const Shape shape(symbols, {-1, columns});
  if (!shape.matches(array)) bad_value(name, shape.text(), shape_text(array));
  rows = array.shape(0);
  return inputs.contiguous(array);
}

py::handle item(py::handle out, int index) { return out.is_none() ? py::handle() : PyTuple_GET_ITEM(out.ptr(), index); }

// A gradient that is needed, or None.
class Gradients {
 public:
  Gradients(Outputs& outputs, py::handle out, int needs) : outputs_(outputs), out_(out), needs_(needs) {}

  py::object add(bool applies, Gradient gradient, const char* field, const Shape& shape, void*& data) {
    if (!applies || (needs_ >> gradient & 1) == 0) return py::none();
    const Output output = outputs_.add(field, item(out_, gradient), shape);
    data = output.data;
    return output.array;
  }

 private:
  Outputs& outputs_;
  py::handle out_;
  int needs_;
};

// -- linear -----------------------------------------------------------------------------------------------------

py::object linear_forward(py::handle x, py::handle w, py::handle b, py::handle out, const cpu::Execution& execution) {
  Inputs inputs;
  LinearArgs args{};
  const Rows rows = read_rows(inputs, "x", "(..., I)", x);
  args.dtype = inputs.dtype();
  args.N = rows.N;
  args.I = rows.columns;
  args.x = rows.data;
  args.w = read_matrix(inputs, "w", "(O, I)", w, args.I, args.O);
  args.b = inputs.optional("b", b, Shape("(O)", {args.O}));
  Outputs outputs(inputs, false);
  const Output y = outputs.add("y", item(out, 0), rows.shape("(..., O)", args.O));
  args.y = y.data;
  without_gil([&] { cpu::linear_forward(args, execution); });
  outputs.finish();
  return y.array;
}

py::tuple linear_backward(py::handle dy, py::handle saved, int needs, py::handle out, py::handle accumulate,
                          const cpu::Execution& execution) {
  Inputs inputs;
  LinearBackwardArgs args{};
  const Rows rows = read_rows(inputs, {"saved.", "x"}, "(..., I)", saved.attr("x"));
  args.dtype = inputs.dtype();
  args.N = rows.N;
  args.I = rows.columns;
  args.x = rows.data;
  args.w = read_matrix(inputs, {"saved.", "w"}, "(O, I)", saved.attr("w"), args.I, args.O);
  const bool has_bias = read_bool({"saved.", "has_bias"}, saved.attr("has_bias"));
  args.dy = inputs.real("dy", dy, rows.shape("(..., O)", args.O));
  args.accumulate = read_bool("accumulate", accumulate);

  Outputs outputs(inputs, args.accumulate);
  Gradients gradients(outputs, out, needs);
  const py::object of_x = gradients.add(true, dx, "dx", rows.shape("(..., I)", args.I), args.dx);
  const py::object of_w = gradients.add(true, dw, "dw", Shape("(O, I)", {args.O, args.I}), args.dw);
  const py::object of_b = gradients.add(has_bias, db, "db", Shape("(O)", {args.O}), args.db);
  without_gil([&] { cpu::linear_backward(args, execution); });
  outputs.finish();
  return py::make_tuple(of_x, of_w, of_b);
}

// -- losses -----------------------------------------------------------------------------------------------------

enum class Reduction { none, sum, mean };

Reduction read_reduction(const Name& name, py::handle value) {
  const auto is = [&](const char* text) {
    return PyUnicode_Check(value.ptr()) && PyUnicode_CompareWithASCIIString(value.ptr(), text) == 0;
  };
  if (is("mean")) return Reduction::mean;
  if (is("sum")) return Reduction::sum;
  if (is("none")) return Reduction::none;
  bad_value(name, "'mean', 'sum' or 'none'", py::repr(value).cast<std::string>());
}

template <class Real>
void reduce(const void* losses, int64_t N, int64_t divisor, void* result) {
  double sum = 0;
  for (int64_t n = 0; n < N; ++n) sum += static_cast<double>(static_cast<const Real*>(losses)[n]);
  const double mean = divisor == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / static_cast<double>(divisor);
  *static_cast<Real*>(result) = static_cast<Real>(mean);
}

// What a loss returns, and the memory its kernel writes: a loss and a log-sum-exp for each row.
struct Losses {
  Losses(Dtype of_logits, const Shape& rows, int64_t N_, Reduction reduction_)
      : dtype(computed_in(of_logits)),
        N(N_),
        reduction(reduction_),
        loss(new_array(dtype, reduction == Reduction::none ? rows : Shape("()", {}))),
        lse(new_array(dtype, rows)) {
    if (reduction != Reduction::none) scratch = new_scratch(dtype, rows);
  }

  void* rows() { return reduction == Reduction::none ? loss.mutable_data() : scratch.data; }

  // Without classes: every target is ignored.
  void clear() {
    const std::size_t bytes = to_size(N) * size_of(dtype);
    std::memset(rows(), 0, bytes);
    std::memset(lse.mutable_data(), 0, bytes);
  }

  // (loss, lse, count)
  py::tuple finish(int64_t count) {
    if (reduction != Reduction::none) {
      const int64_t divisor = reduction == Reduction::mean ? count : 1;
      void* const to = loss.mutable_data();
      dtype == Dtype::f32 ? reduce<float>(rows(), N, divisor, to) : reduce<double>(rows(), N, divisor, to);
    }
    return py::make_tuple(loss, lse, count);
  }

  Dtype dtype;
  int64_t N;
  Reduction reduction;
  py::array loss, lse;
  Scratch scratch;
};

template <class Real>
void fill_rows(void* to, const void* from, double value, int64_t N, int64_t divisor) {
  for (int64_t n = 0; n < N; ++n) {
    const Real dloss = from != nullptr ? static_cast<const Real*>(from)[n] : static_cast<Real>(value);
    static_cast<Real*>(to)[n] = dloss / static_cast<Real>(divisor);
  }
}

// The gradient of each row's own loss, from that of the reduced loss: None for 1, a number, or an array like the loss.
Scratch read_dloss(Inputs& inputs, py::handle dloss, const Shape& rows, int64_t N, Reduction reduction, int64_t count) {
  const Dtype dtype = computed_in(inputs.dtype());
  double value = 1;
  const void* each = nullptr;
  if (py::isinstance<py::array>(dloss)) {
    const bool one = reduction != Reduction::none;
    const void* data = inputs.wide("dloss", dloss, one ? Shape("()", {}) : rows);
    if (!one) {
      each = data;
    } else {
      value = dtype == Dtype::f32 ? static_cast<double>(*static_cast<const float*>(data))
                                  : *static_cast<const double*>(data);
    }
  } else if (!dloss.is_none()) {
    if (!is_number(dloss)) bad_type("dloss", "None, a number or a NumPy array", type_text(dloss));
    value = PyFloat_AsDouble(dloss.ptr());
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  }
  Scratch scratch = new_scratch(dtype, rows);
  const int64_t divisor = reduction == Reduction::mean ? std::max<int64_t>(count, 1) : 1;
  dtype == Dtype::f32 ? fill_rows<float>(scratch.data, each, value, N, divisor)
                      : fill_rows<double>(scratch.data, each, value, N, divisor);
  return scratch;
}

// -- softmax cross-entropy --------------------------------------------------------------------------------------

py::tuple cross_entropy_forward(py::handle logits, py::handle targets, py::handle ignore_index, py::handle reduction,
                                const cpu::Execution& execution) {
  Inputs inputs;
  CrossEntropyArgs args{};
  const Rows rows = read_rows(inputs, "logits", "(..., V)", logits);
  args.dtype = inputs.dtype();
  args.N = rows.N;
  args.V = rows.columns;
  args.logits = rows.data;
  args.ignore_index = read_int64("ignore_index", ignore_index);
  const Reduction how = read_reduction("reduction", reduction);
  const Targets labels = read_targets(inputs, "targets", targets, rows.shape("(...)"), args.V, args.ignore_index);
  args.targets = labels.values.get();
  Losses losses(args.dtype, rows.shape("(...)"), args.N, how);
  args.loss = losses.rows();
  args.lse = losses.lse.mutable_data();
  if (args.V == 0) {
    losses.clear();
  } else {
    without_gil([&] { cpu::cross_entropy_forward(args, execution); });
  }
  return losses.finish(labels.count);
}

py::object cross_entropy_backward(py::handle dloss, py::handle saved, const cpu::Execution& execution) {
  Inputs inputs;
  CrossEntropyBackwardArgs args{};
  const Rows rows = read_rows(inputs, {"saved.", "logits"}, "(..., V)", saved.attr("logits"));
  args.dtype = inputs.dtype();
  args.N = rows.N;
  args.V = rows.columns;
  args.logits = rows.data;
  args.ignore_index = read_int64({"saved.", "ignore_index"}, saved.attr("ignore_index"));
  const Reduction how = read_reduction({"saved.", "reduction"}, saved.attr("reduction"));
  const Shape each = rows.shape("(...)");
  const Targets labels =
      read_targets(inputs, {"saved.", "targets"}, saved.attr("targets"), each, args.V, args.ignore_index);
  args.targets = labels.values.get();
  args.lse = inputs.wide({"saved.", "lse"}, saved.attr("lse"), each);
  const Scratch scale = read_dloss(inputs, dloss, each, args.N, how, labels.count);
  args.dloss = scale.data;
  py::array dlogits = new_array(args.dtype, rows.shape("(..., V)", args.V));
  args.dlogits = dlogits.mutable_data();
  if (args.V > 0) without_gil([&] { cpu::cross_entropy_backward(args, execution); });
  return std::move(dlogits);
}

// -- both together ----------------------------------------------------------------------------------------------

py::tuple linear_cross_entropy_forward(py::handle h, py::handle w, py::handle b, py::handle targets,
                                       py::handle ignore_index, py::handle reduction, const cpu::Execution& execution) {
  Inputs inputs;
  LinearCrossEntropyArgs args{};
  const Rows rows = read_rows(inputs, "h", "(..., H)", h);
  args.dtype = inputs.dtype();
  args.N = rows.N;
  args.H = rows.columns;
  args.h = rows.data;
  args.w = read_matrix(inputs, "w", "(V, H)", w, args.H, args.V);
  args.b = inputs.optional("b", b, Shape("(V)", {args.V}));
  args.ignore_index = read_int64("ignore_index", ignore_index);
  const Reduction how = read_reduction("reduction", reduction);
  const Targets labels = read_targets(inputs, "targets", targets, rows.shape("(...)"), args.V, args.ignore_index);
  args.targets = labels.values.get();
  Losses losses(args.dtype, rows.shape("(...)"), args.N, how);
  args.loss = losses.rows();
  args.lse = losses.lse.mutable_data();
  if (args.V == 0) {
    losses.clear();
  } else {
    without_gil([&] { cpu::linear_cross_entropy_forward(args, execution); });
  }
  return losses.finish(labels.count);
}

py::tuple linear_cross_entropy_backward(py::handle dloss, py::handle saved, int needs, py::handle out,
                                        py::handle accumulate, const cpu::Execution& execution) {
  Inputs inputs;
  LinearCrossEntropyBackwardArgs args{};
  const Rows rows = read_rows(inputs, {"saved.", "h"}, "(..., H)", saved.attr("h"));
  args.dtype = inputs.dtype();
  args.N = rows.N;
  args.H = rows.columns;
  args.h = rows.data;
  args.w = read_matrix(inputs, {"saved.", "w"}, "(V, H)", saved.attr("w"), args.H, args.V);
  args.b = inputs.optional({"saved.", "b"}, saved.attr("b"), Shape("(V)", {args.V}));
  args.ignore_index = read_int64({"saved.", "ignore_index"}, saved.attr("ignore_index"));
  const Reduction how = read_reduction({"saved.", "reduction"}, saved.attr("reduction"));
  const Shape each = rows.shape("(...)");
  const Targets labels =
      read_targets(inputs, {"saved.", "targets"}, saved.attr("targets"), each, args.V, args.ignore_index);
  args.targets = labels.values.get();
  args.lse = inputs.wide({"saved.", "lse"}, saved.attr("lse"), each);
  const Scratch scale = read_dloss(inputs, dloss, each, args.N, how, labels.count);
  args.dloss = scale.data;
  args.accumulate = read_bool("accumulate", accumulate);

  Outputs outputs(inputs, args.accumulate);
  Gradients gradients(outputs, out, needs);
  const py::object of_h = gradients.add(true, dx, "dh", rows.shape("(..., H)", args.H), args.dh);
  const py::object of_w = gradients.add(true, dw, "dw", Shape("(V, H)", {args.V, args.H}), args.dw);
  const py::object of_b = gradients.add(args.b != nullptr, db, "db", Shape("(V)", {args.V}), args.db);
  if (args.V > 0) {
    without_gil([&] { cpu::linear_cross_entropy_backward(args, execution); });
  } else if (args.dh != nullptr && !args.accumulate) {
    std::memset(args.dh, 0, to_size(args.N * args.H) * size_of(args.dtype));
  }
  outputs.finish();
  return py::make_tuple(of_h, of_w, of_b);
}

}  // namespace

void bind_heads(py::module_& module) {
  module.def("linear_forward", &linear_forward);
  module.def("linear_backward", &linear_backward);
  module.def("cross_entropy_forward", &cross_entropy_forward);
  module.def("cross_entropy_backward", &cross_entropy_backward);
  module.def("linear_cross_entropy_forward", &linear_cross_entropy_forward);
  module.def("linear_cross_entropy_backward", &linear_cross_entropy_backward);
}

}  // namespace rnnkernels::bindings
