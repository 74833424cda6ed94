// Forward and backward of a stack of recurrent layers, and packs of one: arguments checked, results allocated, kernel run.
//
// Level 0 is the stack of one layer and one direction.  `single` says so; all it changes is what things are called and
// shaped for the user: `w_hh` instead of `params[0][0].w_hh`, h0 (B, H) instead of (L*D, B, H).
#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

#include "../cpu/dispatch.h"
#include "arrays.h"
#include "bindings.h"

namespace rnnkernels::bindings {
namespace {

constexpr Cell all_cells[] = {
#define RNNKERNELS_CELL(name, type) Cell::name,
#include "../core/cells.inc"
#undef RNNKERNELS_CELL
};

// The fields of the gradient tuples in Python, in their order: bit numbers of `needs`, and places in `out`.
enum Gradient { dx, dw_ih, dw_hh, db_ih, db_hh, dh0, dc0 };

// A call in the making: what has been read so far.
struct Call {
  Call(Cell cell_, bool single_) : cell(traits(cell_)), single(single_) {
    problem.cell = cell_;
    problem.T = 1;  // of a step, which has no axis of time
    problem.B = problem.I = problem.H = -1;
    problem.layers = problem.directions = 1;
  }

  int count() const { return problem.layers * problem.directions; }
  int64_t width() const { return problem.directions * problem.H; }  // of y
  bool empty() const { return problem.T == 0 || problem.B == 0 || problem.H == 0; }

  Shape state() const {
    if (single) return Shape("(B, H)", {problem.B, problem.H});
    return Shape("(L*D, B, H)", {count(), problem.B, problem.H});
  }
  Shape sequence(const char* symbols, int64_t size) const {
    if (step) return Shape("(B, D*H)", {problem.B, size});
    return Shape(symbols, {problem.T, problem.B, size});
  }
  // Level 0 has a name of its own for each state, a stack has the pair for an LSTM and the array for other cells.
  Name state_name(const char* level0, const char* stack, const char* index) const {
    return single ? Name(level0) : cell.has_c ? Name(stack, index) : Name(stack);
  }
  Shape output() const { return sequence(single ? "(T, B, H)" : "(T, B, D*H)", width()); }

  // Of element `index` of an array with one (B, H) for each layer and direction.
  template <class Pointer>
  Pointer state_at(Pointer states, int index) const {
    using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const char, char>;
    if (states == nullptr) return nullptr;
    const auto size = static_cast<int64_t>(size_of(problem.dtype));
    return static_cast<Byte*>(states) + index * problem.B * problem.H * size;
  }

  Inputs inputs;
  Problem problem{};
  const CellTraits& cell;
  bool single;
  bool step = false;
  bool has_dtype = false;
  py::array x;
  const void* dense_x = nullptr;
  bool has_ids = false;
  std::unique_ptr<int64_t[]> ids;
  py::object lengths = py::none();
};

// Whose argument it is: nobody's (level 0), `saved.`, or one layer's and direction's.
struct Place {
  const char* owner;
  int layer, direction;
  Name operator()(const char* field) const { return Name(owner, field, layer, direction); }
};

Cell read_kind(py::handle kind) {
  std::string names;
  for (const Cell cell : all_cells) {
    const char* name = traits(cell).name;
    if (PyUnicode_Check(kind.ptr()) && PyUnicode_CompareWithASCIIString(kind.ptr(), name) == 0) return cell;
    names += names.empty() ? name : std::string(", ") + name;
  }
  bad_value("kind", "one of " + names, py::repr(kind).cast<std::string>());
}

// -- inputs -----------------------------------------------------------------------------------------------------

void fix_dtype(Call& call, const Name& name, const py::array& array) {
  if (call.has_dtype) return call.inputs.check_dtype(name, array);
  call.inputs.lead(name, array);
  call.has_dtype = true;
}

// Sizes and dtype of the first layer's x; an I or a dtype that is known already (of a pack) is checked.
void read_x(Call& call, const Name& name, py::handle value) {
  Problem& p = call.problem;
  call.x = call.inputs.array(name, value);
  const Element element = element_of(call.x);
  if (element == Element::other) bad_type(name, "float32, float64, or token ids of int32 or int64", dtype_text(call.x));
  call.has_ids = element == Element::i32 || element == Element::i64;
  if (!call.has_ids) fix_dtype(call, name, call.x);

  const int time = call.step ? 0 : 1;
  const int rank = time + (call.has_ids ? 1 : 2);
  const Shape shape = call.has_ids ? (call.step ? Shape("token ids (B)", {-1}) : Shape("token ids (T, B)", {-1, -1}))
                                   : (call.step ? Shape("(B, I)", {-1, p.I}) : Shape("(T, B, I)", {-1, -1, p.I}));
  if (call.x.ndim() != rank || !shape.matches(call.x)) bad_value(name, shape.text(), shape_text(call.x));
  if (!call.step) p.T = call.x.shape(0);
  p.B = call.x.shape(time);
  if (call.has_ids) return;
  p.I = call.x.shape(time + 1);
  call.dense_x = call.inputs.contiguous(call.x);
}

// After the weights, which tell I to a call with token ids.
void read_lengths_and_ids(Call& call, const Place& place, py::handle lengths) {
  Problem& p = call.problem;
  call.lengths = read_lengths(call.inputs, place("lengths"), lengths, p.T, p.B);
  if (!call.lengths.is_none()) {
    p.lengths = static_cast<const int64_t*>(py::reinterpret_borrow<py::array>(call.lengths).data());
  }
  if (!call.has_ids) return;
  call.ids = read_ids(call.inputs, place("x"), call.x, p.lengths, p.T, p.B, p.I);
  p.ids = call.ids.get();
}

using FourWeights = std::array<py::object, 4>;  // w_ih, w_hh, b_ih, b_hh

Weights read_weights(Call& call, const Place& place, const FourWeights& arrays) {
  Problem& p = call.problem;
  const int G = call.cell.gates;
  const bool first_layer = place.layer <= 0;

  const py::array w_ih = call.inputs.array(place("w_ih"), arrays[0]);
  fix_dtype(call, place("w_ih"), w_ih);
  int64_t H = p.H;
  if (H < 0 && w_ih.ndim() == 2 && w_ih.shape(0) % G == 0) H = w_ih.shape(0) / G;
  const int64_t I = first_layer ? p.I : p.directions * H;
  const Shape shape(first_layer ? "(G*H, I)" : "(G*H, D*H)", {H < 0 ? -1 : G * H, I}, G);
  if (H < 0 || !shape.matches(w_ih)) bad_value(place("w_ih"), shape.text(), shape_text(w_ih));
  p.H = H;
  if (first_layer) p.I = w_ih.shape(1);

  Weights w{};
  if (first_layer && call.has_ids && is_transposed(w_ih)) {
    w.w_ih = w_ih.data();
    w.w_ih_row_stride = 1;
    w.w_ih_col_stride = G * H;
  } else {
    w.w_ih = call.inputs.contiguous(w_ih);
    w.w_ih_row_stride = w_ih.shape(1);
    w.w_ih_col_stride = 1;
  }
  w.w_hh = call.inputs.real(place("w_hh"), arrays[1], Shape("(G*H, H)", {G * H, H}, G));
  w.b_ih_per_sequence =
      p.B >= 0 && py::isinstance<py::array>(arrays[2]) && py::reinterpret_borrow<py::array>(arrays[2]).ndim() == 2;
  w.b_ih = call.inputs.optional(place("b_ih"), arrays[2],
                                w.b_ih_per_sequence ? Shape("(B, G*H)", {p.B, G * H}, G) : Shape("(G*H)", {G * H}, G));
  w.b_hh = call.inputs.optional(place("b_hh"), arrays[3], Shape("(G*H)", {G * H}, G));
  return w;
}

// A tuple or list as a tuple, so that nobody changes its length meanwhile.
py::tuple read_tuple(const Name& name, const char* expected, py::handle value) {
  if (!PyTuple_Check(value.ptr()) && !PyList_Check(value.ptr())) bad_type(name, expected, type_text(value));
  return py::reinterpret_steal<py::tuple>(PySequence_Tuple(value.ptr()));
}

// nested[layer][direction]; fixes L and D.
std::vector<py::object> read_nested(Call& call, const Name& name, py::handle nested) {
  const py::tuple layers = read_tuple(name, "a tuple or list of layers", nested);
  std::vector<py::object> flat;
  std::size_t D = 0;
  for (const py::handle layer : layers) {
    const py::tuple directions = read_tuple(name, "a tuple or list of directions in each layer", layer);
    if (D == 0) D = directions.size();
    if (directions.size() != D) break;
    for (const py::handle direction : directions) flat.push_back(py::reinterpret_borrow<py::object>(direction));
  }
  if (D < 1 || D > 2 || flat.size() != layers.size() * D) {
    std::string got;
    for (const py::handle layer : layers) got += (got.empty() ? "[" : ", ") + std::to_string(py::len(layer));
    bad_value(name, "one or more layers of 1 or 2 directions each", got.empty() ? "none" : got + "]");
  }
  call.problem.layers = static_cast<int>(layers.size());
  call.problem.directions = static_cast<int>(D);
  return flat;
}

std::vector<Weights> read_params(Call& call, py::handle params) {
  const std::vector<py::object> flat = read_nested(call, "params", params);
  std::vector<Weights> weights;
  weights.reserve(flat.size());
  const int D = call.problem.directions;
  for (int k = 0; k < call.count(); ++k) {
    const Place place = call.single ? Place{"", -1, -1} : Place{"params", k / D, k % D};
    const py::tuple four = read_tuple(place(""), "a tuple (w_ih, w_hh, b_ih, b_hh)", flat[to_size(k)]);
    if (four.size() != 4) bad_value(place(""), "(w_ih, w_hh, b_ih, b_hh)", std::to_string(four.size()) + " items");
    weights.push_back(read_weights(call, place, {four[0], four[1], four[2], four[3]}));
  }
  return weights;
}

const py::handle nothing;

// Item `index` of a tuple of results to write to, or nothing.
py::handle item(py::handle out, int index) { return out.is_none() ? nothing : PyTuple_GET_ITEM(out.ptr(), index); }

// What a kernel may ask memory for beyond the arrays themselves stays below these.
void check_sizes(const Call& call) {
  const Problem& p = call.problem;
  const std::size_t itemsize = size_of(p.dtype);
  constexpr int64_t most_gates = 8, panel = 64;
  Shape("(T, B, 8*D*H)", {p.T, p.B, most_gates * call.width()}).bytes(itemsize);
  Shape("(8*(H + 64), I + D*H + 64)", {most_gates * (p.H + panel), p.I + call.width() + panel}).bytes(itemsize);
}

// -- forward ----------------------------------------------------------------------------------------------------

void copy_state(const Call& call, void* to, const void* from) {
  if (to == nullptr) return;
  const std::size_t bytes = call.state().bytes(size_of(call.problem.dtype));
  if (from != nullptr) {
    std::memcpy(to, from, bytes);
  } else {
    std::memset(to, 0, bytes);
  }
}

// The outputs of the layers but the last, (T, B, D*H) each: arrays where they are kept as the next layer's x, else two
// buffers in turns.
struct Between {
  Between(const Call& call, bool save) {
    const Shape shape = call.sequence("(T, B, D*H)", call.width());
    for (int l = 0; l + 1 < call.problem.layers; ++l) {
      if (save) {
        arrays.push_back(new_array(call.problem.dtype, shape));
        data.push_back(arrays.back().mutable_data());
      } else {
        if (l < 2) buffers[to_size(l)] = new_scratch(call.problem.dtype, shape);
        data.push_back(buffers[to_size(l % 2)].get());
      }
    }
  }
  std::vector<py::array> arrays;
  std::array<Scratch, 2> buffers;
  std::vector<void*> data;
};

// Arrays for what backward needs, and the tuples [layer][direction] of (x, gates, c, h) that hold them.
py::tuple make_saved(const Call& call, const Between& between, std::vector<LayerForward>& layers) {
  const Problem& p = call.problem;
  const Shape sequence("(T, B, H)", {p.T, p.B, p.H});
  const Shape gates("(T, B, gates*H)", {p.T, p.B, call.cell.saved_gates * p.H});
  const auto keep = [&](bool wanted, const Shape& shape, void*& data) -> py::object {
    if (!wanted) return py::none();
    py::array array = new_array(p.dtype, shape);
    data = array.mutable_data();
    return std::move(array);
  };
  py::tuple result(p.layers);
  for (int l = 0; l < p.layers; ++l) {
    const py::array& x = l == 0 ? call.x : between.arrays[to_size(l - 1)];
    py::tuple directions(p.directions);
    for (int d = 0; d < p.directions; ++d) {
      LayerForward& layer = layers[to_size(l * p.directions + d)];
      const py::object kept_gates = keep(call.cell.saved_gates > 0, gates, layer.gates);
      const py::object kept_c = keep(call.cell.has_c, sequence, layer.c);
      directions[to_size(d)] = py::make_tuple(x, kept_gates, kept_c, keep(true, sequence, layer.h));
    }
    result[to_size(l)] = directions;
  }
  return result;
}

struct ForwardResult {
  py::object y, h_n, c_n = py::none(), saved = py::none();
};

// Everything of `call` has been read but the states; `weights` is not looked at if there is a pack.
ForwardResult run_forward(Call& call, const std::vector<Weights>& weights, const PackedStack* packed, py::handle h0,
                          py::handle c0, bool save, py::handle out, const cpu::Execution& execution) {
  const Problem& p = call.problem;
  const void* first_h = call.inputs.optional(call.state_name("h0", "hx", "[0]"), h0, call.state());
  const void* first_c = call.inputs.optional(call.state_name("c0", "hx", "[1]"), c0, call.state());
  check_sizes(call);

  Outputs outputs(call.inputs, false);
  ForwardResult result;
  const Output y = outputs.add("y", item(out, 0), call.output());
  const Output last_h = outputs.add("h_n", item(out, 1), call.state());
  Output last_c{py::none(), nullptr, false};
  if (call.cell.has_c) last_c = outputs.add("c_n", item(out, 2), call.state());

  std::vector<LayerForward> layers(to_size(call.count()));
  for (int k = 0; k < call.count(); ++k) {
    LayerForward& layer = layers[to_size(k)];
    if (packed == nullptr) layer.weights = weights[to_size(k)];
    layer.h0 = call.state_at(first_h, k);
    layer.c0 = call.state_at(first_c, k);
    layer.h_n = call.state_at(last_h.data, k);
    layer.c_n = call.state_at(last_c.data, k);
  }
  Between between(call, save);
  if (save) result.saved = make_saved(call, between, layers);
  between.data.push_back(y.data);

  if (call.empty()) {
    copy_state(call, last_h.data, first_h);
    copy_state(call, last_c.data, first_c);
  } else {
    const ForwardArgs args{p, call.dense_x, layers.data(), between.data.data(), packed};
    without_gil([&] { cpu::forward(args, execution); });
  }
  outputs.finish();
  result.y = y.array;
  result.h_n = last_h.array;
  result.c_n = last_c.array;
  return result;
}

py::tuple forward(py::handle kind, bool single, py::handle x, py::handle params, py::handle h0, py::handle c0,
                  py::handle lengths, py::handle reverse, double dropout, uint64_t dropout_key, py::handle save,
                  py::handle out, const cpu::Execution& execution) {
  Call call(read_kind(kind), single);
  Problem& p = call.problem;
  read_x(call, "x", x);
  const std::vector<Weights> weights = read_params(call, params);
  p.dtype = call.inputs.dtype();
  p.reverse = read_bool("reverse", reverse);
  p.dropout = dropout;
  p.dropout_key = dropout_key;
  read_lengths_and_ids(call, {"", -1, -1}, lengths);
  const ForwardResult r = run_forward(call, weights, nullptr, h0, c0, read_bool("save", save), out, execution);
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
    const auto* values = static_cast<const int64_t*>(py::reinterpret_borrow<py::array>(own).data());
    same = std::equal(values, values + p.B, p.lengths);
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
    layer.c0 = call.inputs.optional(place("c0"), get(saved, field.c0), state);
    layer.c = call.inputs.real(place("c"), get(saved, field.c), sequence);
  }
  if (call.cell.saved_gates > 0) {
    const int S = call.cell.saved_gates;
    layer.gates =
        call.inputs.real(place("gates"), get(saved, field.gates), Shape("(T, B, G*H)", {p.T, p.B, S * p.H}, S));
  }
  return layer;
}

// The gradients of one layer's and direction's weights, as a tuple for Python.
py::tuple add_weight_gradients(const Call& call, Outputs& outputs, py::handle out, int needs, bool first_layer,
                               LayerBackward& layer) {
  const Problem& p = call.problem;
  const int G = call.cell.gates;
  const int64_t I = first_layer ? p.I : call.width();
  const auto add = [&](Gradient gradient, const char* field, const void* argument, const Shape& shape, void*& data,
                       bool transposed = false) -> py::object {
    if ((needs >> gradient & 1) == 0 || argument == nullptr) return py::none();
    Output output = outputs.add(field, item(out, gradient), shape, transposed);
    data = output.data;
    return output.array;
  };
  const bool transposed = first_layer && call.has_ids;  // ids scatter rows of the table, which then lie side by side
  layer.dw_ih_row_stride = transposed ? 1 : I;
  layer.dw_ih_col_stride = transposed ? G * p.H : 1;
  const Weights& w = layer.weights;
  const Shape bias("(G*H)", {G * p.H}, G), biases("(B, G*H)", {p.B, G * p.H}, G);
  const py::object of_w_ih = add(dw_ih, "dw_ih", &w, Shape("(G*H, I)", {G * p.H, I}, G), layer.dw_ih, transposed);
  const py::object of_w_hh = add(dw_hh, "dw_hh", &w, Shape("(G*H, H)", {G * p.H, p.H}, G), layer.dw_hh);
  const py::object of_b_ih = add(db_ih, "db_ih", w.b_ih, w.b_ih_per_sequence ? biases : bias, layer.db_ih);
  const py::object of_b_hh = add(db_hh, "db_hh", w.b_hh, bias, layer.db_hh);
  return py::make_tuple(of_w_ih, of_w_hh, of_b_ih, of_b_hh);
}

template <class Real>
void add_state(void* to, const void* from, std::size_t count) {
  for (std::size_t i = 0; from != nullptr && i < count; ++i)
    static_cast<Real*>(to)[i] += static_cast<const Real*>(from)[i];
}

// Without steps, sequences or units every gradient is zero but that of the state, which is handed through.
void empty_backward(const Call& call, const BackwardArgs& args) {
  const Problem& p = call.problem;
  const std::size_t itemsize = size_of(p.dtype), GH = to_size(call.cell.gates * p.H);
  const std::size_t state = to_size(p.B * p.H);
  const auto zero = [&](void* data, std::size_t count) {
    if (data != nullptr && !args.accumulate) std::memset(data, 0, count * itemsize);
  };
  const auto hand_through = [&](void* to, const void* from) {
    if (to == nullptr) return;
    zero(to, state);
    p.dtype == Dtype::f32 ? add_state<float>(to, from, state) : add_state<double>(to, from, state);
  };
  zero(args.dx, to_size(p.T * p.B * p.I));
  for (int k = 0; k < call.count(); ++k) {
    const LayerBackward& layer = args.layer[k];
    zero(layer.dw_ih, GH * to_size(k < p.directions ? p.I : call.width()));
    zero(layer.dw_hh, GH * to_size(p.H));
    zero(layer.db_ih, GH * to_size(layer.weights.b_ih_per_sequence ? p.B : 1));
    zero(layer.db_hh, GH);
    hand_through(layer.dh0, layer.dh_n);
    hand_through(layer.dc0, layer.dc_n);
  }
}

// `saved` is one dataclass (level 0) or a tuple [layer][direction] of them.  Returns dx, the tuples [layer][direction] of
// (dw_ih, dw_hh, db_ih, db_hh), dh0 and dc0.
py::tuple backward(py::handle kind, bool single, py::handle dy, py::handle saved, py::handle dh_n, py::handle dc_n,
                   double dropout, uint64_t dropout_key, int needs, py::handle out, py::handle accumulate,
                   const cpu::Execution& execution) {
  Call call(read_kind(kind), single);
  Problem& p = call.problem;
  const std::vector<py::object> each = single ? std::vector<py::object>{py::reinterpret_borrow<py::object>(saved)}
                                              : read_nested(call, "saved.layers", saved);
  p.dropout = dropout;
  p.dropout_key = dropout_key;

  std::vector<const void*> xs(to_size(p.layers));
  std::vector<LayerBackward> layers;
  py::object layer_x;
  for (int k = 0; k < call.count(); ++k) {
    const int l = k / p.directions, d = k % p.directions;
    const Place place = single ? Place{"saved.", -1, -1} : Place{"saved.layers", l, d};
    layers.push_back(read_saved(call, place, each[to_size(k)], xs[to_size(l)], layer_x));
  }
  BackwardArgs args{};
  args.x = xs.data();
  args.layer = layers.data();
  args.accumulate = read_bool("accumulate", accumulate);
  args.dy = call.inputs.optional("dy", dy, call.output());
  const void* last_dh = call.inputs.optional(call.state_name("dh_n", "dhx", "[0]"), dh_n, call.state());
  const void* last_dc = call.inputs.optional(call.state_name("dc_n", "dhx", "[1]"), dc_n, call.state());
  check_sizes(call);

  Outputs outputs(call.inputs, args.accumulate);
  const auto add = [&](bool applies, Gradient gradient, const char* field, const Shape& shape) -> Output {
    if (!applies || (needs >> gradient & 1) == 0) return {py::none(), nullptr, false};
    return outputs.add(field, item(out, gradient), shape);
  };
  const Output of_x = add(!call.has_ids, dx, "dx", Shape("(T, B, I)", {p.T, p.B, p.I}));
  const Output of_h0 = add(true, dh0, "dh0", call.state());
  const Output of_c0 = add(call.cell.has_c, dc0, "dc0", call.state());
  py::tuple gradients(p.layers);
  for (int l = 0; l < p.layers; ++l) {
    py::tuple directions(p.directions);
    for (int d = 0; d < p.directions; ++d) {
      const int k = l * p.directions + d;
      LayerBackward& layer = layers[to_size(k)];
      directions[to_size(d)] = add_weight_gradients(call, outputs, out, needs, l == 0, layer);
      layer.dh_n = call.state_at(last_dh, k);
      layer.dc_n = call.state_at(last_dc, k);
      layer.dh0 = call.state_at(of_h0.data, k);
      layer.dc0 = call.state_at(of_c0.data, k);
    }
    gradients[to_size(l)] = directions;
  }
  args.problem = p;
  args.dx = of_x.data;
  if (call.empty()) {
    empty_backward(call, args);
  } else {
    without_gil([&] { cpu::backward(args, execution); });
  }
  outputs.finish();
  return py::make_tuple(of_x.array, gradients, of_h0.array, of_c0.array);
}

// -- packs ------------------------------------------------------------------------------------------------------

// A stack's weights packed once for one ISA, for inference.  Never changes; holds no array of the user's.
class Packed {
 public:
  Packed(py::handle kind, py::handle params, const cpu::Execution& execution) : isa_(execution.isa) {
    Call call(read_kind(kind), false);
    const std::vector<Weights> weights = read_params(call, params);
    problem_ = call.problem;
    problem_.dtype = call.inputs.dtype();
    problem_.B = 1;
    if (problem_.H == 0) return;
    call.problem = problem_;
    check_sizes(call);
    without_gil([&] { packed_.reset(cpu::pack_stack(problem_, weights.data(), execution)); });
  }

  // (y, h_n, c_n) of sequences, or of one step, in which x, y and ids have no axis of time.
  py::tuple run(py::handle x, py::handle h0, py::handle c0, py::handle lengths, bool step,
                const cpu::Execution& execution) const {
    Call call(problem_.cell, false);
    call.problem = problem_;
    call.step = step;
    call.inputs.lead(problem_.dtype, "the packed weights");
    call.has_dtype = true;
    if (step && problem_.directions == 2) throw py::value_error("step: expected a pack of 1 direction, got one of 2");
    read_x(call, "x", x);
    read_lengths_and_ids(call, {"", -1, -1}, lengths);
    const cpu::Execution as_packed{isa_, execution.num_threads};
    const ForwardResult r = run_forward(call, {}, packed_.get(), h0, c0, false, py::none(), as_packed);
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
    d["isa"] = cpu::isa_name(isa_);
    return d;
  }

 private:
  struct Free {
    void operator()(PackedStack* packed) const { cpu::free_packed(packed); }
  };
  Problem problem_{};
  Isa isa_;
  std::unique_ptr<PackedStack, Free> packed_;  // null without hidden units
};

}  // namespace

void bind_recurrent(py::module_& module) {
  module.def("forward", &forward);
  module.def("backward", &backward);
  py::class_<Packed>(module, "Packed")
      .def(py::init<py::handle, py::handle, const cpu::Execution&>())
      .def("run", &Packed::run)
      .def("description", &Packed::description);
}

}  // namespace rnnkernels::bindings
