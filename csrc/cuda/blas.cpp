// What blas.h says, on the twelve functions of cuBLASLt that it needs.
#include "blas.h"

#include <dlfcn.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <tuple>

namespace rnnkernels::cuda {
namespace {

// -- cuBLASLt, as its documentation has it (https://docs.nvidia.com/cuda/cublas/#using-the-cublaslt-api) ------------

using Status = int;  // 0: success
enum Compute : int { compute_32f = 68, compute_64f = 70, compute_32f_fast_tf32 = 77 };
enum CudaType : int { r_32f = 0, r_64f = 1, r_16f = 2, r_16bf = 14 };
enum Attribute : int { desc_transpose_a = 3 };
enum Preference : int {
  most_workspace = 1,
  reduction_schemes = 3,
  alignment_a = 5,
  alignment_b = 6,
  alignment_c = 7,
  alignment_d = 8
};
constexpr int32_t transposed = 1;
constexpr uint32_t reductions_in_order = 2 | 4;  // by a kernel of their own, in compute or output type; not in place

struct Heuristic {
  uint64_t algorithm[8];
  size_t workspace_bytes;
  Status status;
  float waves;
  int reserved[4];
};

struct Library {
  void* file = nullptr;
  size_t (*GetVersion)();
  Status (*Create)(void** handle);
  Status (*MatmulDescCreate)(void** desc, int compute, int scale);
  Status (*MatmulDescDestroy)(void* desc);
  Status (*MatmulDescSetAttribute)(void* desc, int attribute, const void* value, size_t bytes);
  Status (*MatrixLayoutCreate)(void** layout, int type, uint64_t rows, uint64_t columns, int64_t stride);
  Status (*MatrixLayoutDestroy)(void* layout);
  Status (*MatmulPreferenceCreate)(void** preference);
  Status (*MatmulPreferenceDestroy)(void* preference);
  Status (*MatmulPreferenceSetAttribute)(void* preference, int attribute, const void* value, size_t bytes);
  Status (*MatmulAlgoGetHeuristic)(void* handle, void* desc, void* a, void* b, void* c, void* d, void* preference,
                                   int wanted, Heuristic* results, int* found);
  Status (*Matmul)(void* handle, void* desc, const void* alpha, const void* a, void* a_layout, const void* b,
                   void* b_layout, const void* beta, const void* c, void* c_layout, void* d, void* d_layout,
                   const void* algorithm, void* workspace, size_t workspace_bytes, void* stream);
};

template <class Function>
void find(void* file, const char* name, Function& function) {
  const std::string symbol = std::string("cublasLt") + name;
  function = reinterpret_cast<Function>(dlsym(file, symbol.c_str()));
  if (!function) throw std::runtime_error(symbol + " is missing");
}

Library open(const std::string& path) {
  Library l;
  l.file = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!l.file) throw std::runtime_error(dlerror());
#define RNNKERNELS_FIND(name) find(l.file, #name, l.name)
  RNNKERNELS_FIND(GetVersion), RNNKERNELS_FIND(Create);
  RNNKERNELS_FIND(MatmulDescCreate), RNNKERNELS_FIND(MatmulDescDestroy), RNNKERNELS_FIND(MatmulDescSetAttribute);
  RNNKERNELS_FIND(MatrixLayoutCreate), RNNKERNELS_FIND(MatrixLayoutDestroy);
  RNNKERNELS_FIND(MatmulPreferenceCreate), RNNKERNELS_FIND(MatmulPreferenceDestroy);
  RNNKERNELS_FIND(MatmulPreferenceSetAttribute);
  RNNKERNELS_FIND(MatmulAlgoGetHeuristic), RNNKERNELS_FIND(Matmul);
#undef RNNKERNELS_FIND
  return l;
}

// -- what was loaded -------------------------------------------------------------------------------------------

constexpr int most_devices = 64;
using Key =
    std::tuple<const Blas*, int, int, bool, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, bool, int, int>;

std::mutex guard;  // of all below
Library library;
int64_t least_of_library = 0;
std::unique_ptr<Blas> handles[most_devices];
std::map<Key, Heuristic> plans;  // one that finds nothing has a status that is not 0

void check(Status status, const char* what) {
  if (status) throw std::runtime_error(std::string("cublasLt") + what + ": status " + std::to_string(status));
}

CudaType cuda_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32: return r_32f;
    case Dtype::f64: return r_64f;
    case Dtype::bf16: return r_16bf;
    case Dtype::f16: return r_16f;
  }
  return r_32f;
}

// A description that is destroyed when it goes.
class Description {
 public:
  using Destroy = Status (*)(void*);
  explicit Description(Destroy destroy) : destroy_(destroy) {}
  ~Description() {
    if (made) destroy_(made);
  }
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;
  void* made = nullptr;

 private:
  Destroy destroy_;
};

// In cuBLASLt's terms, whose matrices are column-major: d (M, N) = a' b with a (K, M) and b (K, N).
struct Descriptions {
  explicit Descriptions(const BlasProduct& p)
      : product(library.MatmulDescDestroy),
        a(library.MatrixLayoutDestroy),
        b(library.MatrixLayoutDestroy),
        d(library.MatrixLayoutDestroy) {
    const bool wide = p.operands == Dtype::f64;
    check(library.MatmulDescCreate(&product.made,
                                   wide     ? compute_64f
                                   : p.tf32 ? compute_32f_fast_tf32
                                            : compute_32f,
                                   wide ? r_64f : r_32f),
          "MatmulDescCreate");
    check(library.MatmulDescSetAttribute(product.made, desc_transpose_a, &transposed, sizeof transposed),
          "MatmulDescSetAttribute");
    const auto layout = [](Description& made, Dtype dtype, int64_t rows, int64_t columns, int64_t stride) {
      check(library.MatrixLayoutCreate(&made.made, cuda_type(dtype), static_cast<uint64_t>(rows),
                                       static_cast<uint64_t>(columns), stride),
            "MatrixLayoutCreate");
    };
    layout(a, p.operands, p.K, p.M, p.a_stride);
    layout(b, p.operands, p.K, p.N, p.b_stride);
    layout(d, p.result, p.M, p.N, p.d_stride);
  }
  Description product, a, b, d;
};

uint32_t alignment_of(const void* pointer, int64_t apart = 0) {
  constexpr uintptr_t most = 256;
  const auto address = reinterpret_cast<uintptr_t>(pointer) | static_cast<uintptr_t>(apart) | most;
  return static_cast<uint32_t>(address & (~address + 1));
}

Heuristic choose(void* handle, const Descriptions& of, uint32_t operands, uint32_t result) {
  Description preference(library.MatmulPreferenceDestroy);
  check(library.MatmulPreferenceCreate(&preference.made), "MatmulPreferenceCreate");
  const auto set = [&](Preference attribute, auto value) {
    check(library.MatmulPreferenceSetAttribute(preference.made, attribute, &value, sizeof value),
          "MatmulPreferenceSetAttribute");
  };
  set(most_workspace, static_cast<uint64_t>(Blas::workspace_bytes));
  set(reduction_schemes, reductions_in_order);
  set(alignment_a, operands), set(alignment_b, operands);
  set(alignment_c, result), set(alignment_d, result);
  Heuristic best = {};
  int found = 0;
  const Status status = library.MatmulAlgoGetHeuristic(handle, of.product.made, of.a.made, of.b.made, of.d.made,
                                                       of.d.made, preference.made, 1, &best, &found);
  if (status || found < 1) best.status = status ? status : 1;
  return best;
}

class Loaded : public Blas {
 public:
  explicit Loaded(int64_t least) : Blas(least) { check(library.Create(&handle_), "Create"); }
  bool multiply(const BlasProduct& product, const void* a, const void* b, void* d, void* workspace,
                void* stream) override;

 private:
  void* handle_ = nullptr;  // for as long as the process runs
};

}  // namespace

std::size_t load_blas(const std::string& path, int64_t least) {
  const std::lock_guard<std::mutex> lock(guard);
  library = open(path);
  least_of_library = least;
  plans.clear();
  for (auto& blas : handles) blas.reset();
  return library.GetVersion();
}

// The file stays where it is: calls that are queued may use it.
void unload_blas() {
  const std::lock_guard<std::mutex> lock(guard);
  library.file = nullptr;
}

Blas* blas_of(int device) {
  const std::lock_guard<std::mutex> lock(guard);
  if (!library.file || device < 0 || device >= most_devices) return nullptr;
  if (!handles[device]) handles[device] = std::make_unique<Loaded>(least_of_library);
  return handles[device].get();
}

bool Loaded::multiply(const BlasProduct& p, const void* a, const void* b, void* d, void* workspace, void* stream) {
  const uint32_t operands = std::min(alignment_of(a), alignment_of(b, p.b_apart));
  const uint32_t result = alignment_of(d, p.d_apart);
  const Key key = {this,
                   static_cast<int>(p.operands),
                   static_cast<int>(p.result),
                   p.tf32,
                   p.M,
                   p.N,
                   p.K,
                   p.a_stride,
                   p.b_stride,
                   p.d_stride,
                   p.adds,
                   static_cast<int>(operands),
                   static_cast<int>(result)};
  const Descriptions of(p);
  Heuristic plan;
  {
    const std::lock_guard<std::mutex> lock(guard);
    const auto known = plans.find(key);
    plan =
        known != plans.end() ? known->second : plans.emplace(key, choose(handle_, of, operands, result)).first->second;
  }
  if (plan.status) return false;
  const double factors[2] = {1, p.adds ? 1. : 0.};
  const float narrow[2] = {1, p.adds ? 1.f : 0.f};
  const bool wide = p.operands == Dtype::f64;
  const void* alpha = wide ? static_cast<const void*>(&factors[0]) : &narrow[0];
  const void* beta = wide ? static_cast<const void*>(&factors[1]) : &narrow[1];
  check(library.Matmul(handle_, of.product.made, alpha, a, of.a.made, b, of.b.made, beta, d, of.d.made, d, of.d.made,
                       plan.algorithm, workspace, static_cast<size_t>(workspace_bytes), stream),
        ("Matmul of " + std::to_string(p.M) + " x " + std::to_string(p.N) + " x " + std::to_string(p.K)).c_str());
  return true;
}

}  // namespace rnnkernels::cuda
