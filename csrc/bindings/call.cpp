#include "call.h"

namespace rnnkernels::bindings {
namespace {

constexpr Cell all_cells[] = {
#define RNNKERNELS_CELL(name, type) Cell::name,
#include "../core/cells.inc"
#undef RNNKERNELS_CELL
};

void fix_dtype(Call& call, const Name& name, const Array& array) {
  if (call.has_dtype) return call.inputs.check_dtype(name, array);
  call.inputs.lead(name, array);
  call.has_dtype = true;
}

// A tuple or list as a tuple, so that nobody changes its length meanwhile.
py::tuple read_tuple(const Name& name, const char* expected, py::handle value) {
  if (!PyTuple_Check(value.ptr()) && !PyList_Check(value.ptr())) bad_type(name, expected, type_text(value));
  return py::tuple(py::reinterpret_borrow<py::object>(value));
}

}  // namespace

Cell read_kind(py::handle kind) {
  std::string names;
  for (const Cell cell : all_cells) {
    const char* name = traits(cell).name;
    if (PyUnicode_Check(kind.ptr()) && PyUnicode_CompareWithASCIIString(kind.ptr(), name) == 0) return cell;
    names += names.empty() ? name : std::string(", ") + name;
  }
  bad_value("kind", "one of " + names, py::repr(kind).cast<std::string>());
}

void read_x(Call& call, const Name& name, py::handle value) {
  Problem& p = call.problem;
  call.x = call.inputs.array(name, value);
  const Element element = element_of(call.x);
  if (element == Element::other)
    bad_type(name, "float32, float64, bfloat16, float16, or token ids of int32 or int64", dtype_text(call.x));
  call.has_ids = is_id(element);
  if (!call.has_ids) fix_dtype(call, name, call.x);

  const int time = call.step ? 0 : 1;
  const int rank = time + (call.has_ids ? 1 : 2);
  const Shape shape = call.has_ids ? (call.step ? Shape("token ids (B)", {-1}) : Shape("token ids (T, B)", {-1, -1}))
                                   : (call.step ? Shape("(B, I)", {-1, p.I}) : Shape("(T, B, I)", {-1, -1, p.I}));
  const Sizes sizes = sizes_of(call.x);
  if (sizes.rank != rank || !shape.matches(sizes)) bad_value(name, shape.text(), shape_text(sizes));
  if (!call.step) p.T = sizes.of[0];
  p.B = sizes.of[time];
  if (call.has_ids) return;
  p.I = sizes.of[time + 1];
  call.dense_x = call.inputs.contiguous(call.x);
}

Weights read_weights(Call& call, const Place& place, const FourWeights& arrays) {
  Problem& p = call.problem;
  const int G = call.cell.gates;
  const bool first_layer = place.layer <= 0;

  const Array w_ih = call.inputs.array(place("w_ih"), arrays[0]);
  const Sizes sizes = sizes_of(w_ih);
  fix_dtype(call, place("w_ih"), w_ih);
  int64_t H = p.H;
  if (H < 0 && sizes.rank == 2 && sizes.of[0] % G == 0) H = sizes.of[0] / G;
  const int64_t I = first_layer ? p.I : p.directions * H;
  const Shape shape(first_layer ? "(G*H, I)" : "(G*H, D*H)", {H < 0 ? -1 : G * H, I}, G);
  if (H < 0 || !shape.matches(sizes)) bad_value(place("w_ih"), shape.text(), shape_text(sizes));
  p.H = H;
  if (first_layer) p.I = sizes.of[1];

  Weights w{};
  if (first_layer && call.has_ids && is_transposed(w_ih)) {
    w.w_ih = data_of(w_ih);
    w.w_ih_row_stride = 1;
    w.w_ih_col_stride = G * H;
  } else {
    w.w_ih = call.inputs.contiguous(w_ih);
    w.w_ih_row_stride = sizes.of[1];
    w.w_ih_col_stride = 1;
  }
  w.w_hh = call.inputs.real(place("w_hh"), arrays[1], Shape("(G*H, H)", {G * H, H}, G));
  const Shape bias("(G*H)", {G * H}, G);
  if (!arrays[2].is_none()) {
    const Array b_ih = call.inputs.array(place("b_ih"), arrays[2]);
    w.b_ih_per_sequence = p.B >= 0 && sizes_of(b_ih).rank == 2;
    w.b_ih = call.inputs.real(place("b_ih"), b_ih, w.b_ih_per_sequence ? Shape("(B, G*H)", {p.B, G * H}, G) : bias);
  }
  w.b_hh = call.inputs.optional(place("b_hh"), arrays[3], bias);
  return w;
}

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

void read_lengths_and_ids(Call& call, const Place& at, py::handle lengths) {
  Problem& p = call.problem;
  call.lengths = read_lengths(call.inputs, at("lengths"), lengths, p.T, p.B);
  if (!call.lengths.is_none()) {
    const void* values = data_of(py::reinterpret_borrow<py::array>(call.lengths));
    call.lengths_to_read = place(static_cast<const int64_t*>(values), p.B, call.execution());
    p.lengths = call.lengths_to_read.data();
  }
  if (!call.has_ids) return;
  call.ids = place_ids(at("x"), call.inputs.direct(call.x), p.lengths, p.I, call.execution());
  p.ids = call.ids.data();
}

void check_sizes(const Call& call) {
  const Problem& p = call.problem;
  const std::size_t itemsize = size_of(computed_in(p.dtype));
  constexpr int64_t most_gates = 8, panel = 64;
  Shape("(T, B, 8*D*H)", {p.T, p.B, most_gates * call.width()}).bytes(itemsize);
  Shape("(8*(H + 64), I + D*H + 64)", {most_gates * (p.H + panel), p.I + call.width() + panel}).bytes(itemsize);
}

}  // namespace rnnkernels::bindings
