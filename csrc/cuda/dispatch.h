// The CUDA backend's front door: picks the kernels for a cell and dtype, and queues them on the caller's stream. All pointers of
// arguments are of the device but those that lead to other pointers. Nothing waits for the device and nothing is allocated: a
// call takes its memory from a workspace, of which it also says the size (workspace.h), so that it can be captured in a graph.
// No header of CUDA: whoever includes this need not be compiled with it.
#pragma once

#include <cstddef>
#include <string>

#include "../traits.h"
#include "workspace.h"

namespace rnnkernels::cuda {

struct Execution {
  int device;
  void* stream;  // cudaStream_t
  bool tf32;     // products of float32 may be rounded to it
};

// All of these count what they would take if the workspace counts only. They throw std::runtime_error where CUDA reports an
// error, which names the kernel and the shape of its launch, and std::invalid_argument for sizes beyond check_sizes.
void forward(const ForwardArgs& args, const Execution& execution, Workspace& workspace);
void backward(const BackwardArgs& args, const Execution& execution, Workspace& workspace);
void linear_forward(const LinearArgs& args, const Execution& execution, Workspace& workspace);
void linear_backward(const LinearBackwardArgs& args, const Execution& execution, Workspace& workspace);
void cross_entropy_forward(const CrossEntropyArgs& args, const Execution& execution, Workspace& workspace);
void cross_entropy_backward(const CrossEntropyBackwardArgs& args, const Execution& execution, Workspace& workspace);
void linear_cross_entropy_forward(const LinearCrossEntropyArgs& args, const Execution& execution, Workspace& workspace);
void linear_cross_entropy_backward(const LinearCrossEntropyBackwardArgs& args, const Execution& execution,
                                   Workspace& workspace);
void reduce_losses(const ReduceLossesArgs& args, const Execution& execution);
void spread_gradient(const SpreadGradientArgs& args, const Execution& execution);

// What surrounds them. Bytes may be 0.
void zero(void* memory, int64_t bytes, const Execution& execution);
void copy(void* to, const void* from, int64_t bytes, const Execution& execution);
void add(Dtype dtype, void* sum, const void* term, int64_t n, const Execution& execution);  // sum[i] += term[i]
void put(int64_t* to, const int64_t* values, int64_t n, const Execution& execution);        // values of the host
void widen_integers(int64_t* to, const int32_t* from, int64_t n, const Execution& execution);

// Elements of 1, 2, 4 or 8 bytes between two arrays of the same sizes; strides in elements.
constexpr int most_strided_rank = 8;
void copy_strided(void* to, const int64_t* to_strides, const void* from, const int64_t* from_strides,
                  const int64_t* sizes, int rank, std::size_t itemsize, const Execution& execution);

// Memory of the stream, for those who have no allocator.
void* allocate(int64_t bytes, const Execution& execution);
void free(void* memory, const Execution& execution) noexcept;

// Work queued on `execution.stream` from now on comes after what `other` holds.
void wait_for(void* other, const Execution& execution);

struct Device {
  std::string name;
  int major, minor, multiprocessors;
  int64_t bytes;
};
int device_count();           // 0 without a driver
std::string why_no_device();  // what CUDA says, empty where there is one
Device device(int index);
int device_of(const void* pointer);  // -1 for memory of the host that no device knows
int runtime_version();               // 13000 is 13.0
int driver_version();                // of CUDA that the driver has; 0 without one

}  // namespace rnnkernels::cuda
