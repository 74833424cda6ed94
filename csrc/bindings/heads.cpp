// The output heads: linear, softmax cross-entropy, and both together.
//
// Leading dimensions are rows: N is their product.  Kernels of heads know only losses, and gradients of losses, of single rows;
// reduce_losses and spread_gradient come after and before them.
#include "arrays.h"
#include "bindings.h"

namespace rnnkernels::bindings {
namespace {

// The fields of the gradient tuples in Python, in their order: bit numbers of `needs`, and places in `out`.
enum Gradient { dx, dw, db };  // dh, dw, db of linear_cross_entropy

// x (..., columns) as N rows.
struct Rows {
  Array array;
  const void* data;
  int leading;
  int64_t N, columns;

  Shape shape(const char* symbols, int64_t last = -1) const { return Shape(symbols, sizes_of(array), leading, last); }
};

// The first array of a head; it fixes the dtype.
Rows read_rows(Inputs& inputs, const Name& name, const char* symbols, py::handle value) {
  const Array array = inputs.array(name, value);
  inputs.lead(name, array);
  const Sizes sizes = sizes_of(array);
  if (sizes.rank == 0) bad_value(name, symbols, shape_text(sizes));
  const int leading = sizes.rank - 1;
  const auto N = static_cast<int64_t>(Shape(symbols, sizes, leading, -1).bytes(1));
  return {array, inputs.contiguous(array), leading, N, sizes.of[leading]};
}

// (rows, columns) of which the columns are known; returns the rows.
const void* read_matrix(Inputs& inputs, const Name& name, const char* symbols, py::handle value, int64_t columns,
                        int64_t& rows) {
  const Array array = inputs.array(name, value);
  inputs.check_dtype(name, array);
  const Shape shape(symbols, {-1, columns});
  const Sizes sizes = sizes_of(array);
  if (!shape.matches(sizes)) bad_value(name, shape.text(), shape_text(sizes));
  rows = sizes.of[0];
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

py::object linear_forward(py::handle x, py::handle w, py::handle b, py::handle out, const Execution& execution) {
  Inputs inputs(execution);
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
  run(backend::linear_forward, args, execution);
  outputs.finish();
  return y.array;
}

py::tuple linear_backward(py::handle dy, py::handle saved, int needs, py::handle out, py::handle accumulate,
                          const Execution& execution) {
  Inputs inputs(execution);
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
  run(backend::linear_backward, args, execution);
  outputs.finish();
  return py::make_tuple(of_x, of_w, of_b);
}

// -- losses -----------------------------------------------------------------------------------------------------

Reduction read_reduction(const Name& name, py::handle value) {
  const auto is = [&](const char* text) {
    return PyUnicode_Check(value.ptr()) && PyUnicode_CompareWithASCIIString(value.ptr(), text) == 0;
  };
  if (is("mean")) return Reduction::mean;
  if (is("sum")) return Reduction::sum;
  if (is("none")) return Reduction::none;
  bad_value(name, "'mean', 'sum' or 'none'", py::repr(value).cast<std::string>());
}

// What a loss returns, and the memory its kernel writes: a loss and a log-sum-exp for each row.
class Losses {
 public:
  Losses(Dtype of_logits, const Shape& rows, int64_t N, const int64_t* targets, int64_t ignore_index,
         Reduction reduction, const Execution& execution)
      : dtype_(computed_in(of_logits)),
        N_(N),
        execution_(execution),
        loss_(new_array(dtype_, reduction == Reduction::none ? rows : Shape("()", {}), execution)),
        lse_(new_array(dtype_, rows, execution)),
        count_(execution) {
    if (reduction != Reduction::none) scratch_ = new_scratch(dtype_, rows, execution);
    void* const loss = reduction == Reduction::none ? nullptr : data_of(loss_);
    args_ = {dtype_, N, rows_of(reduction), targets, ignore_index, reduction, loss, count_.data()};
  }

  void* rows() const { return rows_of(args_.reduction); }
  void* lse() const { return data_of(lse_); }

  // Without classes: every target is ignored.
  void clear() const {
    const std::size_t bytes = to_size(N_) * size_of(dtype_);
    zero(rows(), bytes, execution_);
    zero(lse(), bytes, execution_);
  }

  // (loss, lse, count)
  py::tuple finish() const {
    run(backend::reduce_losses, args_, execution_);
    return py::make_tuple(object_of(loss_), object_of(lse_), count_.object());
  }

 private:
  void* rows_of(Reduction reduction) const {
    return reduction == Reduction::none ? data_of(loss_) : static_cast<void*>(scratch_.data);
  }

  Dtype dtype_;
  int64_t N_;
  const Execution& execution_;
  Array loss_, lse_;
  Count count_;
  Scratch scratch_;
  ReduceLossesArgs args_{};
};

// The gradient of each row's own loss, from that of the reduced loss: None for 1, a number, or an array like the loss.
Scratch read_dloss(Inputs& inputs, py::handle dloss, const Shape& rows, int64_t N, const int64_t* targets,
                   int64_t ignore_index, Reduction reduction) {
  const Dtype dtype = computed_in(inputs.dtype());
  const Execution& execution = inputs.execution();
  SpreadGradientArgs args{};
  args.dtype = dtype, args.N = N, args.value = 1, args.reduction = reduction;
  if (is_array(dloss)) {
    const bool one = reduction != Reduction::none;
    (one ? args.one : args.each) = inputs.wide("dloss", dloss, one ? Shape("()", {}) : rows);
  } else if (!dloss.is_none()) {
    if (!is_number(dloss)) bad_type("dloss", std::string("None, a number or ") + an_array, type_text(dloss));
    args.value = PyFloat_AsDouble(dloss.ptr());
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  }
  Count count(execution);
  args.count = count.data();
  run(backend::reduce_losses,
      ReduceLossesArgs{dtype, N, nullptr, targets, ignore_index, reduction, nullptr, count.data()}, execution);
  Scratch scratch = new_scratch(dtype, rows, execution);
  args.rows = scratch.data;
  run(backend::spread_gradient, args, execution);
  return scratch;
}

// -- softmax cross-entropy --------------------------------------------------------------------------------------

py::tuple cross_entropy_forward(py::handle logits, py::handle targets, py::handle ignore_index, py::handle reduction,
                                const Execution& execution) {
  Inputs inputs(execution);
  CrossEntropyArgs args{};
  const Rows rows = read_rows(inputs, "logits", "(..., V)", logits);
  args.dtype = inputs.dtype();
  args.N = rows.N;
  args.V = rows.columns;
  args.logits = rows.data;
  args.ignore_index = read_int64("ignore_index", ignore_index);
  const Reduction how = read_reduction("reduction", reduction);
  const Integers labels = read_targets(inputs, "targets", targets, rows.shape("(...)"), args.V, args.ignore_index);
  args.targets = labels.data();
  Losses losses(args.dtype, rows.shape("(...)"), args.N, args.targets, args.ignore_index, how, execution);
  args.loss = losses.rows();
  args.lse = losses.lse();
  if (args.V == 0) {
    losses.clear();
  } else {
    run(backend::cross_entropy_forward, args, execution);
  }
  return losses.finish();
}

py::object cross_entropy_backward(py::handle dloss, py::handle saved, const Execution& execution) {
  Inputs inputs(execution);
  CrossEntropyBackwardArgs args{};
  const Rows rows = read_rows(inputs, {"saved.", "logits"}, "(..., V)", saved.attr("logits"));
  args.dtype = inputs.dtype();
  args.N = rows.N;
  args.V = rows.columns;
  args.logits = rows.data;
  args.ignore_index = read_int64({"saved.", "ignore_index"}, saved.attr("ignore_index"));
  const Reduction how = read_reduction({"saved.", "reduction"}, saved.attr("reduction"));
  const Shape each = rows.shape("(...)");
  const Integers labels =
      read_targets(inputs, {"saved.", "targets"}, saved.attr("targets"), each, args.V, args.ignore_index);
  args.targets = labels.data();
  args.lse = inputs.wide({"saved.", "lse"}, saved.attr("lse"), each);
  const Scratch scale = read_dloss(inputs, dloss, each, args.N, args.targets, args.ignore_index, how);
  args.dloss = scale.data;
  const Array dlogits = new_array(args.dtype, rows.shape("(..., V)", args.V), execution);
  args.dlogits = data_of(dlogits);
  if (args.V > 0) run(backend::cross_entropy_backward, args, execution);
  return object_of(dlogits);
}

// -- both together ----------------------------------------------------------------------------------------------

py::tuple linear_cross_entropy_forward(py::handle h, py::handle w, py::handle b, py::handle targets,
                                       py::handle ignore_index, py::handle reduction, const Execution& execution) {
  Inputs inputs(execution);
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
  const Integers labels = read_targets(inputs, "targets", targets, rows.shape("(...)"), args.V, args.ignore_index);
  args.targets = labels.data();
  Losses losses(args.dtype, rows.shape("(...)"), args.N, args.targets, args.ignore_index, how, execution);
  args.loss = losses.rows();
  args.lse = losses.lse();
  if (args.V == 0) {
    losses.clear();
  } else {
    run(backend::linear_cross_entropy_forward, args, execution);
  }
  return losses.finish();
}

py::tuple linear_cross_entropy_backward(py::handle dloss, py::handle saved, int needs, py::handle out,
                                        py::handle accumulate, const Execution& execution) {
  Inputs inputs(execution);
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
  const Integers labels =
      read_targets(inputs, {"saved.", "targets"}, saved.attr("targets"), each, args.V, args.ignore_index);
  args.targets = labels.data();
  args.lse = inputs.wide({"saved.", "lse"}, saved.attr("lse"), each);
  const Scratch scale = read_dloss(inputs, dloss, each, args.N, args.targets, args.ignore_index, how);
  args.dloss = scale.data;
  args.accumulate = read_bool("accumulate", accumulate);

  Outputs outputs(inputs, args.accumulate);
  Gradients gradients(outputs, out, needs);
  const py::object of_h = gradients.add(true, dx, "dh", rows.shape("(..., H)", args.H), args.dh);
  const py::object of_w = gradients.add(true, dw, "dw", Shape("(V, H)", {args.V, args.H}), args.dw);
  const py::object of_b = gradients.add(args.b != nullptr, db, "db", Shape("(V)", {args.V}), args.db);
  if (args.V > 0) {
    run(backend::linear_cross_entropy_backward, args, execution);
  } else if (args.dh != nullptr && !args.accumulate) {
    zero(args.dh, to_size(args.N * args.H) * size_of(args.dtype), execution);
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
