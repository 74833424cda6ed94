// Finds the passes of a call's numbers, and queues what surrounds them. Everything runs on the call's device: the thread's own
// choice of a device is put back.
#include "dispatch.h"

#include <limits>

#include "blas.h"
#include "heads.cuh"
#include "launch.h"
#include "passes.h"
#include "plumbing.cuh"

namespace rnnkernels::cuda {
namespace {

class OnDevice {
 public:
  explicit OnDevice(int device) : device_(device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != device) check(cudaSetDevice(device), "cudaSetDevice");
  }
  ~OnDevice() {
    if (before_ != device_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int device_, before_ = 0;
};

cudaStream_t stream_of(const Execution& execution) { return static_cast<cudaStream_t>(execution.stream); }

const Passes& passes_of(Dtype dtype, const Execution& execution) {
  switch (dtype) {
    case Dtype::f32: return execution.tf32 ? passes_tf32() : passes_f32();
    case Dtype::f64: return passes_f64();
    case Dtype::bf16: return passes_bf16();
    case Dtype::f16: return passes_f16();
  }
  throw std::invalid_argument("dtype: unknown");
}

// Kernels count rows, columns and units in 32 bits.
void check_size(const char* name, int64_t size, int64_t most = std::numeric_limits<int32_t>::max() / 2) {
  if (size > most)
    throw std::invalid_argument(std::string(name) + ": expected at most " + std::to_string(most) + " on a GPU, got " +
                                std::to_string(size));
}

void check_sizes(const Problem& p) {
  constexpr int64_t most_slots = 8;
  check_size("B", p.B), check_size("I", p.I);
  check_size("H", p.H, std::numeric_limits<int32_t>::max() / (2 * most_slots));
}

template <class Pass, class Args>
void run(Pass Passes::* pass, Dtype dtype, const Args& args, const Execution& execution, Workspace& workspace) {
  const OnDevice on(execution.device);
  Blas* const blas = blas_of(execution.device);
  void* const memory = blas ? workspace.take<unsigned char>({Blas::workspace_bytes}) : nullptr;
  (passes_of(dtype, execution).*pass)(args, workspace, Stream(stream_of(execution), blas, memory));
}

// A kernel whose threads have an element each.
template <class... P, class... A>
void for_elements(const char* name, int64_t count, size_t shared, const Execution& execution, void (*kernel)(P...),
                  A... arguments) {
  if (count == 0) return;
  const OnDevice on(execution.device);
  const int64_t blocks = (count + array_threads - 1) / array_threads;
  if (blocks > std::numeric_limits<int32_t>::max())
    throw std::invalid_argument(std::string(name) + ": too many elements");
  LaunchShape shape;
  shape.grid = static_cast<unsigned>(blocks), shape.block = array_threads, shape.shared_bytes = shared;
  shape.stream = stream_of(execution);
  launch(name, shape, kernel, arguments...);
}

template <class Real>
void reduce(const ReduceLossesArgs& a, const Execution& execution) {
  const Targets targets = {a.targets, a.ignore_index};
  for_elements("reduce_losses", 1, array_warps * (sizeof(double) + sizeof(int64_t)), execution, reduce_losses<Real>,
               static_cast<const Real*>(a.losses), targets, a.N, a.reduction == Reduction::mean,
               static_cast<Real*>(a.loss), a.count);
}

template <class Real>
void spread(const SpreadGradientArgs& a, const Execution& execution) {
  for_elements("spread_gradient", a.N, 0, execution, spread_gradient<Real>, static_cast<Real*>(a.rows),
               static_cast<const Real*>(a.each), static_cast<const Real*>(a.one), a.value,
               a.reduction == Reduction::mean ? a.count : nullptr, a.N);
}

template <class E>
void add(void* sum, const void* term, int64_t n, const Execution& execution) {
  for_elements("add_elements", n, 0, execution, add_elements<E>, static_cast<E*>(sum), static_cast<const E*>(term), n);
}

template <class E>
void copy_elements(void* to, const Strides& to_strides, const void* from, const Strides& from_strides,
                   const Sizes& sizes, int64_t count, const Execution& execution) {
  for_elements("copy_strided", count, 0, execution, cuda::copy_strided<E>, static_cast<E*>(to), to_strides,
               static_cast<const E*>(from), from_strides, sizes, count);
}

}  // namespace

// -- passes -----------------------------------------------------------------------------------------------------

void forward(const ForwardArgs& args, const Execution& execution, Workspace& workspace) {
  check_sizes(args.problem);
  run(&Passes::forward, args.problem.dtype, args, execution, workspace);
}

void backward(const BackwardArgs& args, const Execution& execution, Workspace& workspace) {
  check_sizes(args.problem);
  run(&Passes::backward, args.problem.dtype, args, execution, workspace);
}

void linear_forward(const LinearArgs& args, const Execution& execution, Workspace& workspace) {
  check_size("N", args.N), check_size("I", args.I), check_size("O", args.O);
  run(&Passes::linear_forward, args.dtype, args, execution, workspace);
}

void linear_backward(const LinearBackwardArgs& args, const Execution& execution, Workspace& workspace) {
  check_size("N", args.N), check_size("I", args.I), check_size("O", args.O);
  run(&Passes::linear_backward, args.dtype, args, execution, workspace);
}

void cross_entropy_forward(const CrossEntropyArgs& args, const Execution& execution, Workspace& workspace) {
  check_size("N", args.N), check_size("V", args.V);
  run(&Passes::cross_entropy_forward, args.dtype, args, execution, workspace);
}

void cross_entropy_backward(const CrossEntropyBackwardArgs& args, const Execution& execution, Workspace& workspace) {
  check_size("N", args.N), check_size("V", args.V);
  run(&Passes::cross_entropy_backward, args.dtype, args, execution, workspace);
}

void linear_cross_entropy_forward(const LinearCrossEntropyArgs& args, const Execution& execution,
                                  Workspace& workspace) {
  check_size("N", args.N), check_size("H", args.H), check_size("V", args.V);
  run(&Passes::linear_cross_entropy_forward, args.dtype, args, execution, workspace);
}

void linear_cross_entropy_backward(const LinearCrossEntropyBackwardArgs& args, const Execution& execution,
                                   Workspace& workspace) {
  check_size("N", args.N), check_size("H", args.H), check_size("V", args.V);
  run(&Passes::linear_cross_entropy_backward, args.dtype, args, execution, workspace);
}

void reduce_losses(const ReduceLossesArgs& args, const Execution& execution) {
  args.dtype == Dtype::f64 ? reduce<double>(args, execution) : reduce<float>(args, execution);
}

void spread_gradient(const SpreadGradientArgs& args, const Execution& execution) {
  args.dtype == Dtype::f64 ? spread<double>(args, execution) : spread<float>(args, execution);
}

// -- memory -----------------------------------------------------------------------------------------------------

void zero(void* memory, int64_t bytes, const Execution& execution) {
  if (bytes == 0) return;
  const OnDevice on(execution.device);
  check(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes), stream_of(execution)), "cudaMemsetAsync");
}

void copy(void* to, const void* from, int64_t bytes, const Execution& execution) {
  if (bytes == 0) return;
  const OnDevice on(execution.device);
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream_of(execution)),
        "cudaMemcpyAsync");
}

void add(Dtype dtype, void* sum, const void* term, int64_t n, const Execution& execution) {
  switch (dtype) {
    case Dtype::f32: return add<float>(sum, term, n, execution);
    case Dtype::f64: return add<double>(sum, term, n, execution);
    case Dtype::bf16: return add<Bf16>(sum, term, n, execution);
    case Dtype::f16: return add<F16>(sum, term, n, execution);
  }
}

void put(int64_t* to, const int64_t* values, int64_t n, const Execution& execution) {
  for (int64_t first = 0; first < n; first += Values::most) {
    Values some = {};
    const int count = static_cast<int>(n - first < Values::most ? n - first : Values::most);
    for (int i = 0; i < count; ++i) some.value[i] = values[first + i];
    for_elements("put_values", 1, 0, execution, put_values, to + first, some, count);
  }
}

void widen_integers(int64_t* to, const int32_t* from, int64_t n, const Execution& execution) {
  for_elements("widen_integers", n, 0, execution, widen_int32, to, from, n);
}

static_assert(most_strided_rank == most_strided_dimensions);

void copy_strided(void* to, const int64_t* to_strides, const void* from, const int64_t* from_strides,
                  const int64_t* sizes, int rank, size_t itemsize, const Execution& execution) {
  Strides of_to = {}, of_from = {};
  Sizes of_both = {rank, {}};
  int64_t count = 1;
  for (int d = 0; d < rank; ++d) {
    of_to.of[d] = to_strides[d], of_from.of[d] = from_strides[d], of_both.of[d] = sizes[d];
    count *= sizes[d];
  }
  switch (itemsize) {
    case 2: return copy_elements<uint16_t>(to, of_to, from, of_from, of_both, count, execution);
    case 4: return copy_elements<uint32_t>(to, of_to, from, of_from, of_both, count, execution);
    case 8: return copy_elements<uint64_t>(to, of_to, from, of_from, of_both, count, execution);
    default: throw std::invalid_argument("copy_strided: elements of 2, 4 or 8 bytes");
  }
}

void* allocate(int64_t bytes, const Execution& execution) {
  const OnDevice on(execution.device);
  void* memory = nullptr;
  if (bytes) check(cudaMallocAsync(&memory, static_cast<size_t>(bytes), stream_of(execution)), "cudaMallocAsync");
  return memory;
}

void free(void* memory, const Execution& execution) noexcept {
  if (!memory) return;
  int before = 0;
  cudaGetDevice(&before);
  cudaSetDevice(execution.device);
  cudaFreeAsync(memory, stream_of(execution));  // of an error the next call hears
  cudaSetDevice(before);
}

void wait_for(void* other, const Execution& execution) {
  if (other == execution.stream) return;
  const OnDevice on(execution.device);
  cudaEvent_t event;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  const cudaError_t recorded = cudaEventRecord(event, static_cast<cudaStream_t>(other));
  const cudaError_t waits = recorded == cudaSuccess ? cudaStreamWaitEvent(stream_of(execution), event, 0) : recorded;
  check(cudaEventDestroy(event), "cudaEventDestroy");
  check(waits, "cudaStreamWaitEvent");
}

// -- devices ----------------------------------------------------------------------------------------------------

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // which would be the next launch's otherwise
  return 0;
}

std::string why_no_device() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (driver_version() == 0) return "no NVIDIA driver was found";
  if (status != cudaSuccess) return cudaGetErrorString(status);
  return count ? "" : "no CUDA-capable device is detected";
}

Device device(int index) {
  cudaDeviceProp p;
  check(cudaGetDeviceProperties(&p, index), "cudaGetDeviceProperties");
  return {p.name, p.major, p.minor, p.multiProcessorCount, static_cast<int64_t>(p.totalGlobalMem)};
}

int device_of(const void* pointer) {
  cudaPointerAttributes attributes;
  check(cudaPointerGetAttributes(&attributes, pointer), "cudaPointerGetAttributes");
  return attributes.type == cudaMemoryTypeUnregistered ? -1 : attributes.device;
}

int runtime_version() {
  int version = 0;
  check(cudaRuntimeGetVersion(&version), "cudaRuntimeGetVersion");
  return version;
}

int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

}  // namespace rnnkernels::cuda
