// The CUDA backend on arrays of a device, as backend.h says: whatever speaks DLPack or has __cuda_array_interface__. Their
// library makes results and the memory of calls; rnnkernels.cuda finds it, and its current stream.
#pragma once

#include <memory>
#include <vector>

#include "../cuda/dispatch.h"
#include "numpy_arrays.h"

namespace rnnkernels::bindings {

namespace backend = cuda;

struct Execution : cuda::Execution {
  Execution(int device_, uintptr_t stream_, bool tf32_, py::object empty_)
      : cuda::Execution{device_, reinterpret_cast<void*>(stream_), tf32_}, empty(std::move(empty_)) {}
  py::object empty;  // (sizes, name of a dtype) -> array of the device; None where nobody is known to make one
};

// A view of an array, held by whoever looks at it.
class Array {
 public:
  struct View {
    py::object object;
    std::shared_ptr<void> memory;  // keeps the data where they are
    void* data = nullptr;
    Element element = Element::other;
    std::string dtype;
    std::size_t itemsize = 1;
    std::vector<py::ssize_t> sizes, strides;  // strides in bytes
    bool writeable = true;
  };
  Array() = default;
  explicit Array(View view) : view_(std::make_shared<const View>(std::move(view))) {}
  const View& view() const { return *view_; }

 private:
  std::shared_ptr<const View> view_;
};

constexpr const char* an_array = "an array of the device";
bool is_array(py::handle value);
Array as_array(const Name& name, py::handle value, const Execution& execution);
inline Array no_array() { return Array(); }

inline py::object object_of(const Array& array) { return array.view().object; }
inline Sizes sizes_of(const Array& array) {
  return {array.view().sizes.data(), static_cast<int>(array.view().sizes.size())};
}
inline const py::ssize_t* strides_of(const Array& array) { return array.view().strides.data(); }
inline void* data_of(const Array& array) { return array.view().data; }
inline Element element_of(const Array& array) { return array.view().element; }
inline std::size_t itemsize_of(const Array& array) { return array.view().itemsize; }
inline std::string dtype_text(const Array& array) { return array.view().dtype; }
inline bool is_writeable(const Array& array) { return array.view().writeable; }
bool is_direct(const Array& array);
bool is_transposed(const Array& array);
bool shares_memory(const Array& a, const Array& b);

Array new_array(Element element, const Shape& shape, const Execution& execution);
Array direct_copy(const Array& array, const Execution& execution);
Array transposed(const Array& matrix);
void copy_into(const Array& to, const Array& from, const Execution& execution);

// Memory of the device's library, or of the stream where that is not known.
struct Scratch {
  char* data = nullptr;
  std::shared_ptr<void> owner;
};
Scratch new_scratch(std::size_t bytes, const Execution& execution);

inline void zero(void* memory, std::size_t bytes, const Execution& execution) {
  cuda::zero(memory, static_cast<int64_t>(bytes), execution);
}
inline void copy(void* to, const void* from, std::size_t bytes, const Execution& execution) {
  cuda::copy(to, from, static_cast<int64_t>(bytes), execution);
}
inline void add(Dtype dtype, void* sum, const void* term, int64_t n, const Execution& execution) {
  cuda::add(dtype, sum, term, n, execution);
}

// Queues a kernel, on a workspace of the size that it asks for, with the GIL released.
template <class Args>
void run(void (*kernel)(const Args&, const cuda::Execution&, cuda::Workspace&), const Args& args,
         const Execution& execution) {
  cuda::Workspace count;
  kernel(args, execution, count);
  const Scratch memory = new_scratch(to_size(count.bytes()), execution);
  const py::gil_scoped_release release;
  cuda::Workspace workspace(memory.data);
  kernel(args, execution, workspace);
}
template <class Args>
void run(void (*kernel)(const Args&, const cuda::Execution&), const Args& args, const Execution& execution) {
  const py::gil_scoped_release release;
  kernel(args, execution);
}

class Integers {
 public:
  Integers() = default;
  explicit Integers(Scratch memory) : memory_(std::move(memory)), data_(reinterpret_cast<int64_t*>(memory_.data)) {}
  explicit Integers(const Array& array) : array_(array), data_(static_cast<const int64_t*>(data_of(array))) {}
  const int64_t* data() const { return data_; }

 private:
  Scratch memory_;
  Array array_;
  const int64_t* data_ = nullptr;
};

Integers place(const int64_t* values, int64_t count, const Execution& execution);
// Values of the device are not looked at, which would have to wait for it: kernels make NaN of those out of range.
Integers place_ids(const Name& name, const Array& ids, const int64_t* lengths, int64_t I, const Execution& execution);
Integers place_targets(const Name& name, const Array& targets, int64_t V, int64_t ignore_index,
                       const Execution& execution);

class Count {
 public:
  explicit Count(const Execution& execution) : array_(new_array(Element::i64, Shape("()", {}), execution)) {}
  int64_t* data() const { return static_cast<int64_t*>(data_of(array_)); }
  py::object object() const { return object_of(array_); }

 private:
  Array array_;
};

}  // namespace rnnkernels::bindings
