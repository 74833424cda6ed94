#include "device_backend.h"

#include <algorithm>
#include <array>

#include "dlpack.h"

namespace rnnkernels::bindings {
namespace {

constexpr int64_t workspace_alignment = 256;

std::string device_text(int device) { return "cuda:" + std::to_string(device); }

struct Kind {
  Element element;
  std::string dtype;
};

Kind kind_of(char code, int bits) {  // as in the array interface: 'f', 'i', and here 'b' for bfloat16
  const std::string size = std::to_string(bits);
  switch (code) {
    case 'f':
      return {bits == 32   ? Element::f32
              : bits == 64 ? Element::f64
              : bits == 16 ? Element::f16
                           : Element::other,
              "float" + size};
    case 'i': return {bits == 32 ? Element::i32 : bits == 64 ? Element::i64 : Element::other, "int" + size};
    case 'b': return {bits == 16 ? Element::bf16 : Element::other, "bfloat" + size};
    default: return {Element::other, std::string("type ") + code + size};
  }
}

bool strides_match(const Array& array, bool column_major) {
  const Array::View& v = array.view();
  auto step = static_cast<py::ssize_t>(v.itemsize);
  bool match = true;
  for (std::size_t i = 0; i < v.sizes.size(); ++i) {
    const std::size_t d = column_major ? i : v.sizes.size() - 1 - i;
    if (v.sizes[d] == 0) return true;
    if (v.sizes[d] > 1 && v.strides[d] != step) match = false;
    step *= v.sizes[d];
  }
  return match;
}

// Kernels read whole elements where these may stand.
void check_view(const Name& name, const Array::View& v) {
  bool whole = reinterpret_cast<uintptr_t>(v.data) % v.itemsize == 0;
  for (std::size_t d = 0; d < v.sizes.size(); ++d)
    whole = whole && (v.sizes[d] <= 1 || v.strides[d] % static_cast<py::ssize_t>(v.itemsize) == 0);
  if (!whole) bad_value(name, "elements at multiples of their size", "an array of " + v.dtype + " at other addresses");
}

// -- DLPack -----------------------------------------------------------------------------------------------------

// The capsule of version 1 where the library has it, else the older one.
py::object capsule_of(const Name& name, py::handle value, const Execution& execution) {
  const py::object produce = value.attr("__dlpack__");
  const auto stream = reinterpret_cast<uintptr_t>(execution.stream);
  py::dict options;
  options["stream"] = stream ? stream : 1;  // the legacy default stream: 0 could be either of the default ones
  try {
    options["max_version"] = py::make_tuple(dlpack::known_major, 0);
    try {
      return produce(**options);
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_TypeError)) throw;
    }
    options.attr("pop")("max_version");
    return produce(**options);
  } catch (py::error_already_set& error) {
    bad_type(name, "an array that its library lends", type_text(value) + ": " + text_of(error.value()));
  }
}

// Takes over what the capsule holds.
template <class Managed>
std::shared_ptr<Managed> take(const py::object& capsule, const char* name, const char* used) {
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), name));
  if (managed == nullptr || PyCapsule_SetName(capsule.ptr(), used) != 0) throw py::error_already_set();
  return std::shared_ptr<Managed>(managed, [](Managed* m) {
    if (m->deleter != nullptr) m->deleter(m);
  });
}

void read_tensor(Array::View& view, const dlpack::Tensor& tensor) {
  constexpr int bits_of_byte = 8;
  const char code = tensor.type.code == dlpack::floating  ? 'f'
                    : tensor.type.code == dlpack::integer ? 'i'
                    : tensor.type.code == dlpack::bfloat  ? 'b'
                                                          : 'u';
  const Kind kind = kind_of(tensor.type.lanes == 1 ? code : 'v', tensor.type.bits);
  view.element = kind.element, view.dtype = kind.dtype;
  view.itemsize = std::max<std::size_t>(1, tensor.type.bits / bits_of_byte);
  view.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  view.sizes.assign(tensor.sizes, tensor.sizes + tensor.rank);
  view.strides.resize(view.sizes.size());
  auto step = static_cast<py::ssize_t>(view.itemsize);
  for (std::size_t d = view.sizes.size(); d-- > 0; step *= view.sizes[d]) {
    view.strides[d] = tensor.strides != nullptr ? tensor.strides[d] * static_cast<py::ssize_t>(view.itemsize) : step;
  }
}

Array::View read_dlpack(const Name& name, py::handle value, const Execution& execution) {
  const py::tuple where = value.attr("__dlpack_device__")();
  const int type = py::int_(where[0]).cast<int>(), id = where[1].cast<int>();
  const bool of_device = type == dlpack::cuda || type == dlpack::cuda_managed;
  if (!of_device || id != execution.device) {
    bad_type(name, "an array of " + device_text(execution.device),
             type_text(value) + (of_device ? " of " + device_text(id) : " of another kind of memory"));
  }
  const py::object capsule = capsule_of(name, value, execution);
  Array::View view;
  view.object = py::reinterpret_borrow<py::object>(value);
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    const auto managed = take<dlpack::ManagedVersioned>(capsule, "dltensor_versioned", "used_dltensor_versioned");
    if (managed->version.major > dlpack::known_major) {
      bad_type(name, "DLPack of version 1", "version " + std::to_string(managed->version.major));
    }
    view.memory = managed;
    view.writeable = (managed->flags & dlpack::read_only) == 0;
    read_tensor(view, managed->tensor);
  } else {
    const auto managed = take<dlpack::Managed>(capsule, "dltensor", "used_dltensor");
    view.memory = managed;
    read_tensor(view, managed->tensor);
  }
  return view;
}

// -- __cuda_array_interface__ (https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html) --------------

Array::View read_interface(const Name& name, py::handle value, const Execution& execution) {
  const py::dict interface = value.attr("__cuda_array_interface__");
  const auto type = interface["typestr"].cast<std::string>();  // "<f4"
  const py::tuple data = interface["data"], sizes = interface["shape"];
  const auto item = [&](const char* key) -> py::object {
    return interface.contains(key) ? py::object(interface[key]) : py::none();
  };
  if (!item("mask").is_none()) bad_type(name, "an array without a mask", type_text(value));
  constexpr int bits_of_byte = 8;
  Array::View view;
  view.object = py::reinterpret_borrow<py::object>(value);
  view.itemsize = type.size() > 2 ? std::stoul(type.substr(2)) : 1;
  const Kind kind = kind_of(type[0] == '>' ? 'v' : type[1], static_cast<int>(view.itemsize) * bits_of_byte);
  view.element = kind.element, view.dtype = kind.element == Element::other ? type : kind.dtype;
  view.data = reinterpret_cast<void*>(data[0].cast<uintptr_t>());
  view.writeable = !data[1].cast<bool>();
  for (const py::handle size : sizes) view.sizes.push_back(size.cast<py::ssize_t>());
  view.strides.resize(view.sizes.size());
  const py::object strides = item("strides");
  auto step = static_cast<py::ssize_t>(view.itemsize);
  for (std::size_t d = view.sizes.size(); d-- > 0; step *= view.sizes[d]) {
    view.strides[d] = strides.is_none() ? step : py::tuple(strides)[d].cast<py::ssize_t>();
  }
  const int device = view.data != nullptr ? cuda::device_of(view.data) : execution.device;
  if (device != execution.device) {
    bad_type(name, "an array of " + device_text(execution.device),
             type_text(value) + (device < 0 ? " of the host" : " of " + device_text(device)));
  }
  const py::object stream = item("stream");
  if (!stream.is_none()) cuda::wait_for(reinterpret_cast<void*>(stream.cast<uintptr_t>()), execution);
  return view;
}

// As NumPy would see it: its addresses are not read.
py::array addresses_of(const Array& array) {
  const Array::View& v = array.view();
  return py::array(py::dtype("V" + std::to_string(v.itemsize)), v.sizes, v.strides, v.data, py::none());
}

const int64_t* in_elements(const Array& array, std::array<int64_t, cuda::most_strided_rank>& strides) {
  const Array::View& v = array.view();
  for (std::size_t d = 0; d < v.strides.size(); ++d) strides[d] = v.strides[d] / static_cast<py::ssize_t>(v.itemsize);
  return strides.data();
}

// An array of the call's own memory.
Array own_array(Element element, const std::vector<py::ssize_t>& sizes, const Execution& execution) {
  Array::View view;
  view.element = element, view.itemsize = size_of(element), view.sizes = sizes;
  view.strides.resize(sizes.size());
  auto step = static_cast<py::ssize_t>(view.itemsize);
  for (std::size_t d = sizes.size(); d-- > 0; step *= sizes[d]) view.strides[d] = step;
  const Scratch memory = new_scratch(to_size(step), execution);
  view.data = memory.data, view.memory = memory.owner;
  return Array(std::move(view));
}

const char* name_of(Element element) {
  if (is_real(element)) return rnnkernels::name_of(static_cast<Dtype>(element));
  return element == Element::i32 ? "int32" : element == Element::i64 ? "int64" : "uint8";
}

py::object make(Element element, const py::tuple& sizes, const Execution& execution) {
  if (execution.empty.is_none()) {
    throw py::type_error(
        "out: nobody is known to make arrays like x; give all results as out=, with save=False where there is save");
  }
  return execution.empty(sizes, name_of(element));
}

Integers widened(const Array& array, const Execution& execution) {
  if (element_of(array) == Element::i64) return Integers(array);
  const Sizes sizes = sizes_of(array);
  int64_t count = 1;
  for (int d = 0; d < sizes.rank; ++d) count *= sizes.of[d];
  Integers result(new_scratch(to_size(count) * sizeof(int64_t), execution));
  cuda::widen_integers(const_cast<int64_t*>(result.data()), static_cast<const int32_t*>(data_of(array)), count,
                       execution);
  return result;
}

}  // namespace

bool is_array(py::handle value) {
  return !py::isinstance<py::array>(value) && !py::isinstance(value, numpy().generic) &&
         (py::hasattr(value, "__dlpack__") || py::hasattr(value, "__cuda_array_interface__"));
}

Array as_array(const Name& name, py::handle value, const Execution& execution) {
  if (!is_array(value)) bad_type(name, "an array of " + device_text(execution.device), type_text(value));
  Array::View view =
      py::hasattr(value, "__dlpack__") ? read_dlpack(name, value, execution) : read_interface(name, value, execution);
  check_view(name, view);
  return Array(std::move(view));
}

bool is_direct(const Array& array) { return strides_match(array, false); }

bool is_transposed(const Array& array) { return array.view().sizes.size() == 2 && strides_match(array, true); }

bool shares_memory(const Array& a, const Array& b) { return shares_memory(addresses_of(a), addresses_of(b)); }

Array new_array(Element element, const Shape& shape, const Execution& execution) {
  shape.bytes(size_of(element));
  py::tuple sizes(shape.rank);
  for (int d = 0; d < shape.rank; ++d) sizes[to_size(d)] = shape.sizes[d];
  const Array array = as_array("a result", make(element, sizes, execution), execution);
  if (element_of(array) != element || !is_direct(array) || !shape.matches(sizes_of(array))) {
    bad_type("a result", std::string(name_of(element)) + " " + shape.text(),
             dtype_text(array) + " " + shape_text(sizes_of(array)));
  }
  return array;
}

Array direct_copy(const Array& array, const Execution& execution) {
  const Array copy = own_array(element_of(array), array.view().sizes, execution);
  copy_into(copy, array, execution);
  return copy;
}

Array transposed(const Array& matrix) {
  Array::View view = matrix.view();
  view.object = view.object.attr("T");
  std::swap(view.sizes[0], view.sizes[1]);
  std::swap(view.strides[0], view.strides[1]);
  return Array(std::move(view));
}

void copy_into(const Array& to, const Array& from, const Execution& execution) {
  const Array::View& view = to.view();
  const int rank = static_cast<int>(view.sizes.size());
  if (rank > cuda::most_strided_rank) {
    throw py::value_error("strided arrays of a GPU: expected at most " + std::to_string(cuda::most_strided_rank) +
                          " dimensions, got " + std::to_string(rank));
  }
  std::array<int64_t, cuda::most_strided_rank> of_to, of_from;
  cuda::copy_strided(view.data, in_elements(to, of_to), data_of(from), in_elements(from, of_from), view.sizes.data(),
                     rank, view.itemsize, execution);
}

Scratch new_scratch(std::size_t bytes, const Execution& execution) {
  if (bytes == 0) return {};
  const auto size = static_cast<int64_t>(bytes) + workspace_alignment;
  Scratch scratch;
  if (execution.empty.is_none()) {
    const cuda::Execution how = execution;
    scratch.owner = {cuda::allocate(size, execution), [how](void* memory) { cuda::free(memory, how); }};
    scratch.data = static_cast<char*>(scratch.owner.get());
  } else {
    const Array array = as_array("memory", make(Element::other, py::make_tuple(size), execution), execution);
    scratch.owner = {data_of(array), [array](void*) {}};
    scratch.data = static_cast<char*>(data_of(array));
  }
  const auto address = reinterpret_cast<uintptr_t>(scratch.data);
  scratch.data += (workspace_alignment - address % workspace_alignment) % workspace_alignment;
  return scratch;
}

Integers place(const int64_t* values, int64_t count, const Execution& execution) {
  Integers result(new_scratch(to_size(count) * sizeof(int64_t), execution));
  cuda::put(const_cast<int64_t*>(result.data()), values, count, execution);
  return result;
}

Integers place_ids(const Name&, const Array& ids, const int64_t*, int64_t, const Execution& execution) {
  return widened(ids, execution);
}

Integers place_targets(const Name&, const Array& targets, int64_t, int64_t, const Execution& execution) {
  return widened(targets, execution);
}

}  // namespace rnnkernels::bindings
