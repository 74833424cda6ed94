// A stand-in for cuBLASLt, for the tests of what csrc/cuda/blas.cpp asks of it: the same functions on matrices in the host's
// memory, written from their documentation, which check what they are told. It refuses what a test says it should.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>

#include "../../csrc/core/half.h"

namespace {

using rnnkernels::from_bf16;
using rnnkernels::from_f16;

enum Status { success = 0, not_initialized = 1, invalid_value = 7, not_supported = 15 };
enum Type { r_32f = 0, r_64f = 1, r_16f = 2, r_16bf = 14 };
enum Compute { compute_32f = 68, compute_64f = 70, fast_tf32 = 77 };

struct Product {
  int compute, scale;
  int32_t transpose_a = 0;
};
struct Layout {
  int type;
  uint64_t rows, columns;
  int64_t stride;
};
struct Preference {
  std::map<int, uint64_t> values;
};
struct Heuristic {
  uint64_t algorithm[8];
  size_t workspace_bytes;
  int status;
  float waves;
  int reserved[4];
};

struct Stub {
  int handles = 0, products = 0, heuristics = 0, descriptions = 0;
  bool refuses = false;
} stub;

constexpr size_t wanted_workspace = 4096;

double element(const Layout& of, const void* data, uint64_t row, uint64_t column) {
  const uint64_t i = column * static_cast<uint64_t>(of.stride) + row;
  switch (of.type) {
    case r_64f: return static_cast<const double*>(data)[i];
    case r_32f: return static_cast<const float*>(data)[i];
    case r_16bf: return from_bf16(static_cast<const uint16_t*>(data)[i]);
    default: return from_f16(static_cast<const uint16_t*>(data)[i]);
  }
}

void store(const Layout& of, void* data, uint64_t row, uint64_t column, double value) {
  const uint64_t i = column * static_cast<uint64_t>(of.stride) + row;
  switch (of.type) {
    case r_64f: static_cast<double*>(data)[i] = value; break;
    case r_32f: static_cast<float*>(data)[i] = static_cast<float>(value); break;
    case r_16bf: static_cast<uint16_t*>(data)[i] = rnnkernels::to_bf16(static_cast<float>(value)); break;
    default: static_cast<uint16_t*>(data)[i] = rnnkernels::to_f16(static_cast<float>(value));
  }
}

bool fits(const Product& p, const Layout& a, const Layout& b, const Layout& d) {
  const bool wide = p.compute == compute_64f;
  const bool types = wide              ? a.type == r_64f && d.type == r_64f
                     : a.type == r_32f ? d.type == r_32f
                                       : d.type == r_32f || d.type == a.type;
  const bool sizes = p.transpose_a == 1 && a.rows == b.rows && a.columns == d.rows && b.columns == d.columns;
  const auto strided = [](const Layout& l) { return static_cast<uint64_t>(l.stride) >= l.rows; };
  return a.type == b.type && types && sizes && p.scale == (wide ? r_64f : r_32f) && strided(a) && strided(b) &&
         strided(d);
}

template <class T>
Status make(void** place, T* made) {
  ++stub.descriptions;
  *place = made;
  return success;
}
template <class T>
Status destroy(void* made) {
  --stub.descriptions;
  delete static_cast<T*>(made);
  return success;
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

// ---- what tests ask and say

EXPORTED Stub* stub_state() { return &stub; }

// ---- the library

EXPORTED size_t cublasLtGetVersion() { return 130099; }
EXPORTED int cublasLtCreate(void** handle) {
  ++stub.handles;
  *handle = &stub;
  return success;
}
EXPORTED int cublasLtMatmulDescCreate(void** product, int compute, int scale) {
  return make(product, new Product{compute, scale});
}
EXPORTED int cublasLtMatmulDescDestroy(void* product) { return destroy<Product>(product); }
EXPORTED int cublasLtMatmulDescSetAttribute(void* product, int attribute, const void* value, size_t bytes) {
  if (attribute != 3 || bytes != sizeof(int32_t)) return invalid_value;
  std::memcpy(&static_cast<Product*>(product)->transpose_a, value, bytes);
  return success;
}
EXPORTED int cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
  return make(layout, new Layout{type, rows, columns, stride});
}
EXPORTED int cublasLtMatrixLayoutDestroy(void* layout) { return destroy<Layout>(layout); }
EXPORTED int cublasLtMatmulPreferenceCreate(void** preference) { return make(preference, new Preference); }
EXPORTED int cublasLtMatmulPreferenceDestroy(void* preference) { return destroy<Preference>(preference); }
EXPORTED int cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* value, size_t bytes) {
  if (bytes != (attribute == 1 ? sizeof(uint64_t) : sizeof(uint32_t))) return invalid_value;
  uint64_t number = 0;
  std::memcpy(&number, value, bytes);
  static_cast<Preference*>(preference)->values[attribute] = number;
  return success;
}
// The algorithm is the alignments that it relies on.
EXPORTED int cublasLtMatmulAlgoGetHeuristic(void* handle, void* product, void* a, void* b, void* c, void* d,
                                            void* preference, int wanted, Heuristic* results, int* found) {
  auto& values = static_cast<Preference*>(preference)->values;
  if (handle != &stub || wanted != 1 || c != d) return invalid_value;
  if (values[1] < wanted_workspace || (values[3] & 1)) return invalid_value;  // reductions in place have no order
  ++stub.heuristics;
  *found = 0;
  const bool can = fits(*static_cast<Product*>(product), *static_cast<Layout*>(a), *static_cast<Layout*>(b),
                        *static_cast<Layout*>(d));
  if (!can) return invalid_value;
  if (stub.refuses) return not_supported;
  *results = {};
  for (int i = 5; i <= 8; ++i) results->algorithm[i - 5] = values[i];
  results->workspace_bytes = wanted_workspace;
  *found = 1;
  return success;
}
EXPORTED int cublasLtMatmul(void* handle, void* product, const void* alpha, const void* a, void* a_layout,
                            const void* b, void* b_layout, const void* beta, const void* c, void* c_layout, void* d,
                            void* d_layout, const uint64_t* algorithm, void* workspace, size_t workspace_bytes,
                            void* stream) {
  if (handle != &stub) return not_initialized;
  const auto& p = *static_cast<Product*>(product);
  const auto &of_a = *static_cast<Layout*>(a_layout), &of_b = *static_cast<Layout*>(b_layout);
  const auto& of_d = *static_cast<Layout*>(d_layout);
  const auto aligned = [](const void* pointer, uint64_t to) {
    return to >= 2 && reinterpret_cast<uintptr_t>(pointer) % to == 0;
  };
  const bool all_aligned = aligned(a, algorithm[0]) && aligned(b, algorithm[1]) && aligned(d, algorithm[3]);
  if (!fits(p, of_a, of_b, of_d) || c != d || c_layout != d_layout || !all_aligned) return invalid_value;
  if (workspace_bytes < wanted_workspace || !aligned(workspace, 256) || stream != reinterpret_cast<void*>(7))
    return invalid_value;
  std::memset(workspace, 0x5a, wanted_workspace);
  ++stub.products;
  const bool wide = p.scale == r_64f;
  const auto factor = [&](const void* at) {
    return wide ? *static_cast<const double*>(at) : static_cast<double>(*static_cast<const float*>(at));
  };
  const double of_sum = factor(alpha), of_c = factor(beta);
  for (uint64_t n = 0; n < of_d.columns; ++n) {
    for (uint64_t m = 0; m < of_d.rows; ++m) {
      double sum = 0;
      for (uint64_t k = 0; k < of_a.rows; ++k) sum += element(of_a, a, k, m) * element(of_b, b, k, n);
      const double before = of_c != 0 ? of_c * element(of_d, d, m, n) : 0;
      store(of_d, d, m, n, of_sum * sum + before);
    }
  }
  return success;
}
