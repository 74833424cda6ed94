// Forward and backward of a stack of recurrent layers: results allocated, kernel run, results handed over.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "bindings.h"
#include "call.h"

namespace rnnkernels::bindings {
namespace {

// The fields of the gradient tuples in Python, in their order: bit numbers of `needs`, and places in `out`.
enum Gradient { dx, dw_ih, dw_hh, db_ih, db_hh, dh0, dc0 };

const py::handle nothing;

// Item `index` of a tuple of results to write to, or nothing.
py::handle item(py::handle out, int index) { return out.is_none() ? nothing : PyTuple_GET_ITEM(out.ptr(), index); }

// -- forward ----------------------------------------------------------------------------------------------------

void copy_state(const Call& call, void* to, const void* from, Dtype dtype) {
  if (to == nullptr) return;
  const std::size_t bytes = call.state().bytes(size_of(dtype));
  if (from != nullptr) {
    copy(to, from, bytes, call.execution());
  } else {
    zero(to, bytes, call.execution());
  }
}

// The outputs of the layers but the last, (T, B, D*H) each: arrays where they are kept as the next layer's x, else two
// buffers in turns.
struct Between {
  Between(const Call& call, bool save) {
    const Shape shape = call.sequence("(T, B, D*H)", call.width());
    for (int l = 0; l + 1 < call.problem.layers; ++l) {
      if (save) {
        arrays.push_back(new_array(call.problem.dtype, shape, call.execution()));
        data.push_back(data_of(arrays.back()));
      } else {
        if (l < 2) buffers[to_size(l)] = new_scratch(call.problem.dtype, shape, call.execution());
        data.push_back(buffers[to_size(l % 2)].data);
      }
    }
  }
  std::vector<Array> arrays;
  std::array<Scratch, 2> buffers;
  std::vector<void*> data;
};

// Arrays for what backward needs, and the tuples [layer][direction] of (x, gates, c, h) that hold them.
py::tuple make_saved(const Call& call, const Between& between, std::vector<LayerForward>& layers) {
  const Problem& p = call.problem;
  const Shape sequence("(T, B, H)", {p.T, p.B, p.H});
  const Shape gates("(T, B, gates*H)", {p.T, p.B, call.cell.saved_gates * p.H});
  const auto keep = [&](bool wanted, const Shape& shape, Dtype dtype, void*& data) -> py::object {
    if (!wanted) return py::none();
    const Array array = new_array(dtype, shape, call.execution());
    data = data_of(array);
    return object_of(array);
  };
  py::tuple result(p.layers);
  for (int l = 0; l < p.layers; ++l) {
    const py::object x = object_of(l == 0 ? call.x : between.arrays[to_size(l - 1)]);
    py::tuple directions(p.directions);
    for (int d = 0; d < p.directions; ++d) {
      LayerForward& layer = layers[to_size(l * p.directions + d)];
      const py::object kept_gates = keep(call.cell.saved_gates > 0, gates, p.dtype, layer.gates);
      const py::object kept_c = keep(call.cell.has_c, sequence, computed_in(p.dtype), layer.c);
      const py::object kept_h = keep(true, sequence, p.dtype, layer.h);
      directions[to_size(d)] = py::make_tuple(x, kept_gates, kept_c, kept_h);
    }
    result[to_size(l)] = directions;
  }
  return result;
}

}  // namespace

ForwardResult run_forward(Call& call, const std::vector<Weights>& weights, const PackedStack* packed, py::handle h0,
                          py::handle c0, bool save, py::handle out) {
  const Problem& p = call.problem;
  const void* first_h = call.inputs.optional(call.state_name("h0", "hx", "[0]"), h0, call.state());
  const void* first_c = call.inputs.optional_wide(call.state_name("c0", "hx", "[1]"), c0, call.state());
  check_sizes(call);

  Outputs outputs(call.inputs, false);
  ForwardResult result;
  const Output y = outputs.add("y", item(out, 0), call.output());
  const Output last_h = outputs.add("h_n", item(out, 1), call.state());
  Output last_c{py::none(), nullptr, false};
  if (call.cell.has_c) last_c = outputs.add_wide("c_n", item(out, 2), call.state());

  std::vector<LayerForward> layers(to_size(call.count()));
  for (int k = 0; k < call.count(); ++k) {
    LayerForward& layer = layers[to_size(k)];
    if (!weights.empty()) layer.weights = weights[to_size(k)];
    layer.h0 = call.state_at(first_h, k);
    layer.c0 = call.c_at(first_c, k);
    layer.h_n = call.state_at(last_h.data, k);
    layer.c_n = call.c_at(last_c.data, k);
  }
  Between between(call, save);
  if (save) result.saved = make_saved(call, between, layers);
  between.data.push_back(y.data);

  if (call.empty()) {
    copy_state(call, last_h.data, first_h, p.dtype);
    copy_state(call, last_c.data, first_c, computed_in(p.dtype));
  } else {
    const ForwardArgs args{p, call.dense_x, layers.data(), between.data.data(), packed};
    run(backend::forward, args, call.execution());
  }
  outputs.finish();
  result.y = y.array;
  result.h_n = last_h.array;
  result.c_n = last_c.array;
  return result;
}

namespace {

py::tuple forward(py::handle kind, bool single, py::handle x, py::handle params, py::handle h0, py::handle c0,
                  py::handle lengths, py::handle reverse, double dropout, uint64_t dropout_key, py::handle save,
                  py::handle out, const Execution& execution) {
  Call call(read_kind(kind), single, execution);
  Problem& p = call.problem;
  read_x(call, "x", x);
  const std::vector<Weights> weights = read_params(call, params);
  p.dtype = call.inputs.dtype();
  p.reverse = read_bool("reverse", reverse);
  p.dropout = dropout;
  p.dropout_key = dropout_key;
  read_lengths_and_ids(call, {"", -1, -1}, lengths);
  const ForwardResult r = run_forward(call, weights, nullptr, h0, c0, read_bool("save", save), out);
  return py::make_tuple(r.y, r.h_n, r.c_n, call.lengths, r.saved);
}

// -- backward ---------------------------------------------------------------------------------------------------

// Names of the fields of the saved dataclasses, made once.
struct Fields {
  static py::handle intern(const char* name) { return PyUnicode_InternFromString(name); }
  py::handle x = intern("x"), w_ih = intern("w_ih"), w_hh = intern("w_hh"), b_ih = intern("b_ih"),
             b_hh = intern("b_hh"), h0 = intern("h0"), c0 = intern("c0"), lengths = intern("lengths"),
             reverse = intern("reverse"), gates = intern("gates"), c = intern("c"), h = intern("h");
};

py::object get(py::handle saved, py::handle field) {
  PyObject* value = PyObject_GetAttr(saved.ptr(), field.ptr());
  if (value == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

void check_same_lengths(Call& call, const Name& name, py::handle lengths) {
  const Problem& p = call.problem;
  const py::object own = read_lengths(call.inputs, name, lengths, p.T, p.B);
  bool same = own.is_none() == call.lengths.is_none();
  if (same && !own.is_none()) {
    const auto values = [](const py::object& array) {
      return static_cast<const int64_t*>(data_of(py::reinterpret_borrow<py::array>(array)));
    };
    same = std::equal(values(own), values(own) + p.B, values(call.lengths));
  }
  if (!same) bad_value(name, "the lengths of the first layer", "others");
}

// The arrays of one layer and direction that forward kept, each checked again: anybody can build a dataclass.
LayerBackward read_saved(Call& call, const Place& place, py::handle saved, const void*& x, py::object& layer_x) {
  static const Fields field;
  Problem& p = call.problem;
  const bool first = p.H < 0;
  const py::object own_x = get(saved, field.x);
  if (first) {
    read_x(call, place("x"), own_x);
  } else if (place.direction == 1 || place.layer == 0) {
    if (!own_x.is(layer_x)) bad_value(place("x"), "the array that the layer's first direction has", "another");
  } else {
    x = call.inputs.real(place("x"), own_x, Shape("(T, B, D*H)", {p.T, p.B, call.width()}));
  }
  layer_x = own_x;

  LayerBackward layer{};
  layer.weights = read_weights(
      call, place, {get(saved, field.w_ih), get(saved, field.w_hh), get(saved, field.b_ih), get(saved, field.b_hh)});
  const bool reverse = read_bool(place("reverse"), get(saved, field.reverse));
  if (first) {
    p.dtype = call.inputs.dtype();
    x = call.dense_x;
    read_lengths_and_ids(call, place, get(saved, field.lengths));
    p.reverse = call.single && reverse;
  } else {
    check_same_lengths(call, place("lengths"), get(saved, field.lengths));
  }
  if (!call.single && reverse != (place.direction == 1)) {
    bad_value(place("reverse"), place.direction == 1 ? "True" : "False", reverse ? "True" : "False");
  }

  const Shape state("(B, H)", {p.B, p.H}), sequence("(T, B, H)", {p.T, p.B, p.H});
  layer.h0 = call.inputs.optional(place("h0"), get(saved, field.h0), state);
  layer.h = call.inputs.real(place("h"), get(saved, field.h), sequence);
  if (call.cell.has_c) {
    layer.c0 = call.inputs.optional_wide(place("c0"), get(saved, field.c0), state);
    layer.c = call.inputs.wide(place("c"), get(saved, field.c), sequence);
  }
  if (call.cell.saved_gates > 0) {
    const int S = call.cell.saved_gates;
    layer.gates =
        call.inputs.real(place("gates"), get(saved, field.gates), Shape("(T, B, G*H)", {p.T, p.B, S * p.H}, S));
  }
  return layer;
}

// What backward returns: arrays or None, and where the kernel writes them.
class Gradients {
 public:
  Gradients(const Call& call, Outputs& outputs, py::handle out, int needs)
      : call_(call), outputs_(outputs), out_(out), needs_(needs) {}

  Output add(bool applies, Gradient gradient, const char* field, const Shape& shape, bool transposed = false) {
    if (!applies || (needs_ >> gradient & 1) == 0) return {py::none(), nullptr, false};
    return outputs_.add(field, item(out_, gradient), shape, transposed);
  }

  Output add_dc0(bool applies, const Shape& shape) {
    if (!applies || (needs_ >> dc0 & 1) == 0) return {py::none(), nullptr, false};
    return outputs_.add_wide("dc0", item(out_, dc0), shape);
  }

  // Of one layer's and direction's weights: a tuple for Python.
  py::tuple add_weights(bool first_layer, LayerBackward& layer) {
    const int64_t H = call_.problem.H, I = first_layer ? call_.problem.I : call_.width();
    const int G = call_.cell.gates;
    const Weights& w = layer.weights;
    const bool transposed = first_layer && call_.has_ids;  // ids scatter rows of the table, which then lie side by side
    const Shape bias("(G*H)", {G * H}, G), biases("(B, G*H)", {call_.problem.B, G * H}, G);
    const Output of_w_ih = add(true, dw_ih, "dw_ih", Shape("(G*H, I)", {G * H, I}, G), transposed);
    const Output of_w_hh = add(true, dw_hh, "dw_hh", Shape("(G*H, H)", {G * H, H}, G));
    const Output of_b_ih = add(w.b_ih != nullptr, db_ih, "db_ih", w.b_ih_per_sequence ? biases : bias);
    const Output of_b_hh = add(w.b_hh != nullptr, db_hh, "db_hh", bias);
    layer.dw_ih = of_w_ih.data;
    layer.dw_ih_row_stride = transposed ? 1 : I;
    layer.dw_ih_col_stride = transposed ? G * H : 1;
    layer.dw_hh = of_w_hh.data;
    layer.db_ih = of_b_ih.data;
    layer.db_hh = of_b_hh.data;
    return py::make_tuple(of_w_ih.array, of_w_hh.array, of_b_ih.array, of_b_hh.array);
  }

 private:
  const Call& call_;
  Outputs& outputs_;
  py::handle out_;
  int needs_;
};

// Without steps, sequences or units every gradient is zero but that of the state, which is handed through.
void empty_backward(const Call& call, const BackwardArgs& args) {
  const Problem& p = call.problem;
  const std::size_t itemsize = size_of(p.dtype), GH = to_size(call.cell.gates * p.H);
  const auto clear = [&](void* data, std::size_t count) {
    if (data != nullptr && !args.accumulate) zero(data, count * itemsize, call.execution());
  };
  const auto hand_through = [&](void* to, const void* from, Dtype dtype) {
    if (to == nullptr) return;
    if (!args.accumulate) zero(to, to_size(p.B * p.H) * size_of(dtype), call.execution());
    if (from != nullptr) add(dtype, to, from, p.B * p.H, call.execution());
  };
  clear(args.dx, to_size(p.T * p.B * p.I));
  for (int k = 0; k < call.count(); ++k) {
    const LayerBackward& layer = args.layer[k];
    clear(layer.dw_ih, GH * to_size(k < p.directions ? p.I : call.width()));
    clear(layer.dw_hh, GH * to_size(p.H));
    clear(layer.db_ih, GH * to_size(layer.weights.b_ih_per_sequence ? p.B : 1));
    clear(layer.db_hh, GH);
    hand_through(layer.dh0, layer.dh_n, p.dtype);
    hand_through(layer.dc0, layer.dc_n, computed_in(p.dtype));
  }
}

// `saved`: one dataclass (level 0), or [layer][direction] of them.  Also the inputs of the layers.
std::vector<LayerBackward> read_layers(Call& call, py::handle saved, std::vector<const void*>& xs) {
  const std::vector<py::object> each = call.single ? std::vector<py::object>{py::reinterpret_borrow<py::object>(saved)}
                                                   : read_nested(call, "saved.layers", saved);
  const int D = call.problem.directions;
  xs.resize(to_size(call.problem.layers));
  std::vector<LayerBackward> layers;
  py::object layer_x;
  for (int k = 0; k < call.count(); ++k) {
    const Place place = call.single ? Place{"saved.", -1, -1} : Place{"saved.layers", k / D, k % D};
    layers.push_back(read_saved(call, place, each[to_size(k)], xs[to_size(k / D)], layer_x));
  }
  return layers;
}

// Returns dx, the tuples [layer][direction] of (dw_ih, dw_hh, db_ih, db_hh), dh0 and dc0.
py::tuple backward(py::handle kind, bool single, py::handle dy, py::handle saved, py::handle dh_n, py::handle dc_n,
                   double dropout, uint64_t dropout_key, int needs, py::handle out, py::handle accumulate,
                   const Execution& execution) {
  Call call(read_kind(kind), single, execution);
  Problem& p = call.problem;
  std::vector<const void*> xs;
  std::vector<LayerBackward> layers = read_layers(call, saved, xs);
  p.dropout = dropout;
  p.dropout_key = dropout_key;
  const void* last_dh = call.inputs.optional(call.state_name("dh_n", "dhx", "[0]"), dh_n, call.state());
  const void* last_dc = call.inputs.optional_wide(call.state_name("dc_n", "dhx", "[1]"), dc_n, call.state());
  BackwardArgs args{p, xs.data(), layers.data(), nullptr, nullptr, read_bool("accumulate", accumulate)};
  args.dy = call.inputs.optional("dy", dy, call.output());
  check_sizes(call);

  Outputs outputs(call.inputs, args.accumulate);
  Gradients gradients(call, outputs, out, needs);
  const Output of_x = gradients.add(!call.has_ids, dx, "dx", Shape("(T, B, I)", {p.T, p.B, p.I}));
  const Output of_h0 = gradients.add(true, dh0, "dh0", call.state());
  const Output of_c0 = gradients.add_dc0(call.cell.has_c, call.state());
  py::tuple of_weights(p.layers);
  for (int l = 0; l < p.layers; ++l) {
    py::tuple directions(p.directions);
    for (int d = 0; d < p.directions; ++d) {
      const int k = l * p.directions + d;
      LayerBackward& layer = layers[to_size(k)];
      directions[to_size(d)] = gradients.add_weights(l == 0, layer);
      layer.dh_n = call.state_at(last_dh, k);
      layer.dc_n = call.c_at(last_dc, k);
      layer.dh0 = call.state_at(of_h0.data, k);
      layer.dc0 = call.c_at(of_c0.data, k);
    }
    of_weights[to_size(l)] = directions;
  }
  args.dx = of_x.data;
  if (call.empty()) {
    empty_backward(call, args);
  } else {
    run(backend::backward, args, execution);
  }
  outputs.finish();
  return py::make_tuple(of_x.array, of_weights, of_h0.array, of_c0.array);
}

}  // namespace

void bind_recurrent(py::module_& module) {
  module.def("forward", &forward);
  module.def("backward", &backward);
}

}  // namespace rnnkernels::bindings
