#include "cpu_backend.h"

namespace rnnkernels::bindings {
namespace {

// What an array is based on whose memory is Scratch.
py::capsule owner_of(Scratch&& memory) {
  return py::capsule(new Scratch(std::move(memory)), [](void* p) { delete static_cast<Scratch*>(p); });
}

// Position of element `flat` of an array of the sizes: "(3, 1)".
std::string index_text(const Sizes& sizes, int64_t flat) {
  py::ssize_t index[Shape::max_rank];
  for (int d = sizes.rank - 1; d >= 0; flat /= sizes.of[d--]) index[d] = flat % sizes.of[d];
  return shape_text({index, sizes.rank});
}

int64_t count_of(const Sizes& sizes) {
  int64_t count = 1;
  for (int d = 0; d < sizes.rank; ++d) count *= sizes.of[d];
  return count;
}

// values[i] for all i, checked.
template <class Check>
Integers checked(const Array& array, Check check) {
  const int64_t count = count_of(sizes_of(array));
  std::unique_ptr<int64_t[]> result = new_buffer<int64_t>(to_size(count));
  const auto copy_from = [&](auto* values) {
    for (int64_t i = 0; i < count; ++i) result[to_size(i)] = check(static_cast<int64_t>(values[i]), i);
  };
  if (element_of(array) == Element::i32) {
    copy_from(static_cast<const int32_t*>(data_of(array)));
  } else {
    copy_from(static_cast<const int64_t*>(data_of(array)));
  }
  return Integers(std::move(result));
}

}  // namespace

// Large ones on cache lines and huge pages, and in memory that the system need not zero for each call.
Array new_array(Element element, const Shape& shape, const Execution&) {
  const std::size_t bytes = shape.bytes(size_of(element));
  if (bytes < cpu::kept_from) return make_numpy(element, shape);
  Scratch memory(bytes);
  py::array array = make_numpy(element, shape, memory.data);
  if (py::detail::npy_api::get().PyArray_SetBaseObject_(array.ptr(), owner_of(std::move(memory)).release().ptr()) < 0) {
    throw py::error_already_set();
  }
  return array;
}

Integers place_ids(const Name& name, const Array& ids, const int64_t* lengths, int64_t I, const Execution&) {
  const Sizes sizes = sizes_of(ids);
  const int64_t B = sizes.of[sizes.rank - 1];
  return checked(ids, [&](int64_t id, int64_t i) -> int64_t {
    if (lengths != nullptr && i / B >= lengths[i % B]) return 0;
    if (id < 0 || id >= I) {
      bad_value(name, "token ids in [0, I) = [0, " + std::to_string(I) + ")",
                std::to_string(id) + " at " + index_text(sizes, i));
    }
    return id;
  });
}

Integers place_targets(const Name& name, const Array& targets, int64_t V, int64_t ignore_index, const Execution&) {
  return checked(targets, [&](int64_t target, int64_t i) {
    if (target != ignore_index && (target < 0 || target >= V)) {
      bad_value(name,
                "classes in [0, V) = [0, " + std::to_string(V) + ") or ignore_index = " + std::to_string(ignore_index),
                std::to_string(target) + " at " + index_text(sizes_of(targets), i));
    }
    return target;
  });
}

}  // namespace rnnkernels::bindings
