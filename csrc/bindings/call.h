// A call to a stack of layers in the making: its arguments are read one after the other, each checked against what the
// ones before have fixed.
//
// Level 0 is the stack of one layer and one direction.  `single` says so; all it changes is what things are called and
// shaped for the user: `w_hh` instead of `params[0][0].w_hh`, h0 (B, H) instead of (L*D, B, H).
#pragma once

#include <array>
#include <type_traits>
#include <vector>

#include "arrays.h"

namespace rnnkernels::bindings {

struct Call {
  Call(Cell cell_, bool single_, const Execution& execution) : inputs(execution), cell(traits(cell_)), single(single_) {
    problem.cell = cell_;
    problem.T = 1;  // of a step, which has no axis of time
    problem.B = problem.I = problem.H = -1;
    problem.layers = problem.directions = 1;
  }

  int count() const { return problem.layers * problem.directions; }
  int64_t width() const { return problem.directions * problem.H; }  // of y
  const Execution& execution() const { return inputs.execution(); }
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

  // Of element `index` of an array with one (B, H) for each layer and direction: of h, or of c.
  template <class Pointer>
  Pointer state_at(Pointer states, int index) const {
    return state_at(states, index, problem.dtype);
  }
  template <class Pointer>
  Pointer c_at(Pointer states, int index) const {
    return state_at(states, index, computed_in(problem.dtype));
  }
  template <class Pointer>
  Pointer state_at(Pointer states, int index, Dtype dtype) const {
    using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const char, char>;
    if (states == nullptr) return nullptr;
    return static_cast<Byte*>(states) + index * problem.B * problem.H * static_cast<int64_t>(size_of(dtype));
  }

  Inputs inputs;
  Problem problem{};
  const CellTraits& cell;
  bool single;
  bool step = false;
  bool has_dtype = false;
  Array x = no_array();
  const void* dense_x = nullptr;
  bool has_ids = false;
  Integers ids, lengths_to_read;
  py::object lengths = py::none();  // for Python
};

// Whose argument it is: nobody's (level 0), `saved.`, or one layer's and direction's.
struct Place {
  const char* owner;
  int layer, direction;
  Name operator()(const char* field) const { return Name(owner, field, layer, direction); }
};

using FourWeights = std::array<py::object, 4>;  // w_ih, w_hh, b_ih, b_hh

Cell read_kind(py::handle kind);

// Sizes and dtype of the first layer's x; an I or a dtype that is known already (of a pack) is checked.
void read_x(Call& call, const Name& name, py::handle value);

// One layer's and direction's weights; the first ones read fix H, and I where x is token ids.
Weights read_weights(Call& call, const Place& place, const FourWeights& arrays);

// params[layer][direction]; fixes L and D.
std::vector<Weights> read_params(Call& call, py::handle params);

// nested[layer][direction] one after the other; fixes L and D.
std::vector<py::object> read_nested(Call& call, const Name& name, py::handle nested);

// After the weights, which tell I to a call with token ids.
void read_lengths_and_ids(Call& call, const Place& place, py::handle lengths);

struct ForwardResult {
  py::object y, h_n, c_n = py::none(), saved = py::none();
};

// Everything of `call` has been read but the states; a call of a pack has no weights.
ForwardResult run_forward(Call& call, const std::vector<Weights>& weights, const PackedStack* packed, py::handle h0,
                          py::handle c0, bool save, py::handle out);

// ValueError where the memory that a kernel may need, beyond the arrays themselves, could not be addressed.
void check_sizes(const Call& call);

}  // namespace rnnkernels::bindings
