// cuBLASLt for large products, where the process has it: loaded at run time from a path that rnnkernels.cuda finds, by the few
// functions that are needed, whose prototypes are declared in blas.cpp. No header of CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "../api.h"

namespace rnnkernels::cuda {

// d (N, M), a row every d_stride, = a b^T with a (M, K) and b (N, K), or d + that. `result` is f32 or f64 for any operands, or
// of their own type. Sums are float32, or float64.
struct BlasProduct {
  Dtype operands, result;
  bool tf32;
  int64_t M, N, K, a_stride, b_stride, d_stride;
  bool adds;
  int64_t b_apart, d_apart;  // bytes, of one of several that are to be done alike; 0: it is alone
};

// What queues products there; programs that load nothing need not be linked with blas.cpp.
class Blas {
 public:
  static constexpr int64_t workspace_bytes = int64_t{32} << 20;

  explicit Blas(int64_t least) : least_(least) {}
  virtual ~Blas() = default;

  // Whether a product is worth its costs. Not measured yet: below, the project's own product takes some 10 us.
  bool wants(int64_t M, int64_t N, int64_t K) const { return M * N >= least_ / (K > 0 ? K : 1); }

  // Queues it; false if cuBLASLt has no way to do it, which depends on the product and the pointers' alignment alone, and is the
  // same for several that lie apart. Throws std::runtime_error for an error that cuBLASLt reports.
  virtual bool multiply(const BlasProduct& product, const void* a, const void* b, void* d, void* workspace,
                        void* stream) = 0;

 private:
  int64_t least_;
};

// From then on products of so many multiplications go there. Returns the library's version; throws std::runtime_error.
std::size_t load_blas(const std::string& path, int64_t least);
void unload_blas();
Blas* blas_of(int device);  // which is the thread's; null if nothing was loaded

}  // namespace rnnkernels::cuda
