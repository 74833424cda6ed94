// Runs every kernel of this build against the scalar one, on odd sizes, for machines whose Python is not at hand: an
// emulated AArch64 above all (tests/test_native.py builds and runs it).  Prints a line a kernel: its cases, the worst
// share of its budget, and a digest of its bits.  The one subtlety: every array a kernel sees ends exactly at a page that
// may not be touched, so that a tail that reads or writes too far ends the program.
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cpu/kernel_sets.h"

using namespace rnnkernels;

namespace {

// -- arrays -----------------------------------------------------------------------------------------------------

// Memory that ends at a guard page.
class Guarded {
 public:
  explicit Guarded(size_t bytes) : bytes_(bytes) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t usable = (bytes + page - 1) / page * page;
    size_ = usable + page;
    base_ = static_cast<char*>(mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + usable, page, PROT_NONE) != 0) std::abort();
    data_ = base_ + usable - bytes;
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(base_, size_); }

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  char *base_, *data_;
  size_t bytes_, size_;
};

// The arrays of one case by name; results are filled with NaN, so that what a kernel forgets is seen.
template <class Real>
class Arrays {
 public:
  explicit Arrays(uint64_t seed) : state_(seed) {}

  const Real* input(int64_t n, double scale) {
    Real* a = take("", n);
    for (int64_t i = 0; i < n; ++i) a[i] = static_cast<Real>(uniform() * scale);
    return a;
  }
  Real* output(const std::string& name, int64_t n) {
    Real* a = take(name, n);
    for (int64_t i = 0; i < n; ++i) a[i] = std::numeric_limits<Real>::quiet_NaN();
    return a;
  }
  const int64_t* integers(int64_t n, const std::function<int64_t(int64_t)>& value) {
    held_.push_back(std::make_unique<Guarded>(static_cast<size_t>(n) * sizeof(int64_t)));
    int64_t* a = held_.back()->template as<int64_t>();
    for (int64_t i = 0; i < n; ++i) a[i] = value(i);
    return a;
  }
  uint64_t bits() {  // splitmix64
    uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  std::map<std::string, const Guarded*> results;

 private:
  Real* take(const std::string& name, int64_t n) {
    held_.push_back(std::make_unique<Guarded>(static_cast<size_t>(n) * sizeof(Real)));
    if (!name.empty()) results[name] = held_.back().get();
    return held_.back()->template as<Real>();
  }
  double uniform() { return static_cast<double>(static_cast<int64_t>(bits()) >> 22) * 0x1p-41; }

  uint64_t state_;
  std::vector<std::unique_ptr<Guarded>> held_;
};

template <class Real>
constexpr Dtype dtype_of = sizeof(Real) == 4 ? Dtype::f32 : Dtype::f64;

// -- cells ------------------------------------------------------------------------------------------------------

struct CellCase {
  int64_t T, B, I, H;
  bool reverse, ragged, ids, plain_table, bias_per_sequence;
  int layers, directions, threads;
};

constexpr CellCase cell_cases[] = {
    // T, B, I, H, reverse, ragged, ids, plain_table, bias_per_sequence, layers, directions, threads
    {1, 1, 1, 1, false, false, false, false, false, 1, 1, 1},
    {3, 2, 3, 2, true, false, false, false, false, 1, 1, 1},
    {4, 3, 5, 3, false, true, false, false, true, 1, 1, 1},
    {3, 13, 4, 4, true, true, false, false, false, 1, 1, 1},
    {5, 7, 9, 5, false, true, true, false, false, 1, 1, 1},
    {4, 6, 7, 7, true, true, true, true, false, 1, 1, 1},
    {2, 12, 8, 8, false, false, false, false, true, 1, 1, 1},
    {3, 1, 16, 9, false, false, true, true, true, 1, 1, 1},
    {2, 5, 17, 15, false, true, false, false, false, 1, 1, 1},
    {3, 11, 1, 16, true, false, false, false, false, 1, 1, 1},
    {3, 8, 31, 17, false, false, false, false, false, 1, 1, 1},
    {4, 1, 33, 31, true, true, false, false, false, 1, 1, 1},
    {2, 9, 6, 33, false, true, false, false, true, 1, 1, 1},
    {130, 1, 3, 5, false, false, false, false, false, 1, 1, 1},
    {30, 10, 3, 5, true, true, false, false, false, 1, 1, 1},
    {3, 4, 5, 9, false, true, false, false, false, 2, 2, 1},
    {6, 10, 20, 70, false, true, false, false, false, 2, 2, 4},
    {9, 24, 20, 33, false, true, false, false, false, 1, 1, 3},
    {6, 8, 20, 129, false, false, false, false, false, 1, 1, 3},
};

template <class Real>
void run_cell(Cell cell, const CellCase& c, Isa isa, Arrays<Real>& arrays) {
  const CellTraits& cell_traits = traits(cell);
  const int64_t D = c.directions, G = cell_traits.gates, GH = G * c.H, steps = c.T * c.B, state = c.B * c.H;
  const double weight = 1 / std::sqrt(static_cast<double>(c.H));
  const auto lengths = [&](int64_t b) {
    return b == 0 ? 0 : b == c.B - 1 ? c.T : static_cast<int64_t>(arrays.bits() % (c.T + 1));
  };
  const auto id = [&](int64_t) { return static_cast<int64_t>(arrays.bits() % static_cast<uint64_t>(c.I)); };

  Problem problem{cell,
                  dtype_of<Real>,
                  c.T,
                  c.B,
                  c.I,
                  c.H,
                  c.layers,
                  c.directions,
                  c.reverse,
                  nullptr,
                  nullptr,
                  c.layers > 1 ? 0.25 : 0.0,
                  0x123456789ABCDEFu};
  if (c.ragged) problem.lengths = arrays.integers(c.B, lengths);
  if (c.ids) problem.ids = arrays.integers(steps, id);
  const Real* x = arrays.input(steps * c.I, 2);
  const Real* dy = arrays.input(steps * D * c.H, 1);

  std::vector<LayerForward> forward;
  std::vector<LayerBackward> backward;
  std::vector<void*> y;
  std::vector<const void*> inputs;
  for (int l = 0; l < c.layers; ++l) {
    const int64_t I = l ? D * c.H : c.I;
    inputs.push_back(l ? y.back() : x);
    y.push_back(arrays.output("forward.y" + std::to_string(l), steps * D * c.H));
    for (int d = 0; d < D; ++d) {
      const std::string suffix = std::to_string(l) + std::to_string(d);
      const auto output = [&](const char* name, int64_t n) { return arrays.output(name + suffix, n); };
      const bool table = c.ids && !c.plain_table && l == 0;
      LayerForward f{};
      f.weights.w_ih = arrays.input(GH * I, weight);
      f.weights.w_hh = arrays.input(GH * c.H, weight);
      f.weights.b_ih = arrays.input((c.bias_per_sequence ? c.B : 1) * GH, weight);
      f.weights.b_hh = arrays.input(GH, weight);
      f.weights.w_ih_row_stride = table ? 1 : I;
      f.weights.w_ih_col_stride = table ? GH : 1;
      f.weights.b_ih_per_sequence = c.bias_per_sequence;
      f.h0 = arrays.input(state, 1);
      f.h_n = output("forward.h_n", state);
      f.h = output("forward.h", steps * c.H);
      if (cell_traits.has_c) f.c0 = arrays.input(state, 1);
      if (cell_traits.has_c) f.c_n = output("forward.c_n", state);
      if (cell_traits.has_c) f.c = output("forward.c", steps * c.H);
      if (cell_traits.saved_gates) f.gates = output("forward.gates", steps * cell_traits.saved_gates * c.H);
      forward.push_back(f);

      LayerBackward b{};
      b.weights = f.weights;
      b.h0 = f.h0, b.c0 = f.c0, b.gates = f.gates, b.c = f.c, b.h = f.h;
      b.dh_n = arrays.input(state, 1);
      b.dw_ih = output("backward.dw_ih", GH * I);
      b.dw_hh = output("backward.dw_hh", GH * c.H);
      b.db_ih = output("backward.db_ih", (c.bias_per_sequence ? c.B : 1) * GH);
      b.db_hh = output("backward.db_hh", GH);
      b.dw_ih_row_stride = f.weights.w_ih_row_stride;
      b.dw_ih_col_stride = f.weights.w_ih_col_stride;
      b.dh0 = output("backward.dh0", state);
      if (cell_traits.has_c) b.dc_n = arrays.input(state, 1);
      if (cell_traits.has_c) b.dc0 = output("backward.dc0", state);
      backward.push_back(b);
    }
  }
  const cpu::Execution execution{isa, c.threads};
  cpu::forward({problem, c.ids ? nullptr : x, forward.data(), y.data(), nullptr}, execution);
  Real* dx = c.ids ? nullptr : arrays.output("backward.dx", steps * c.I);
  cpu::backward({problem, inputs.data(), backward.data(), dy, dx, false}, execution);
}

// -- heads ------------------------------------------------------------------------------------------------------

struct HeadCase {
  int64_t N, I, O;
  int threads;
};

constexpr HeadCase head_cases[] = {{1, 1, 1, 1},   {2, 3, 5, 1},   {5, 7, 3, 1},    {13, 9, 17, 1}, {7, 33, 9, 1},
                                   {3, 16, 65, 1}, {65, 4, 31, 1}, {130, 9, 33, 3}, {259, 5, 7, 1}, {515, 6, 258, 2}};

template <class Real>
void run_linear(const HeadCase& c, Isa isa, Arrays<Real>& arrays) {
  const cpu::Execution execution{isa, c.threads};
  const Real *x = arrays.input(c.N * c.I, 2), *w = arrays.input(c.O * c.I, 1), *b = arrays.input(c.O, 1);
  const Real* dy = arrays.input(c.N * c.O, 1);
  cpu::linear_forward({dtype_of<Real>, c.N, c.I, c.O, x, w, b, arrays.output("forward.y", c.N * c.O)}, execution);
  cpu::linear_backward({dtype_of<Real>, c.N, c.I, c.O, x, w, dy, arrays.output("backward.dx", c.N * c.I),
                        arrays.output("backward.dw", c.O * c.I), arrays.output("backward.db", c.O), false},
                       execution);
}

template <class Real>
const int64_t* targets_of(const HeadCase& c, Arrays<Real>& arrays) {
  return arrays.integers(c.N, [&](int64_t n) { return n % 4 == 3 ? -1 : static_cast<int64_t>(arrays.bits() % c.O); });
}

template <class Real>
void run_cross_entropy(const HeadCase& c, Isa isa, Arrays<Real>& arrays) {
  const cpu::Execution execution{isa, c.threads};
  const Real *logits = arrays.input(c.N * c.O, 4), *dloss = arrays.input(c.N, 1);
  const int64_t* targets = targets_of(c, arrays);
  Real *loss = arrays.output("forward.loss", c.N), *lse = arrays.output("forward.lse", c.N);
  cpu::cross_entropy_forward({dtype_of<Real>, c.N, c.O, logits, targets, -1, loss, lse}, execution);
  cpu::cross_entropy_backward(
      {dtype_of<Real>, c.N, c.O, logits, targets, -1, lse, dloss, arrays.output("backward.dlogits", c.N * c.O)},
      execution);
}

template <class Real>
void run_linear_cross_entropy(const HeadCase& c, Isa isa, Arrays<Real>& arrays) {
  const cpu::Execution execution{isa, c.threads};
  const Real *h = arrays.input(c.N * c.I, 2), *w = arrays.input(c.O * c.I, 1), *b = arrays.input(c.O, 1);
  const Real* dloss = arrays.input(c.N, 1);
  const int64_t* targets = targets_of(c, arrays);
  Real *loss = arrays.output("forward.loss", c.N), *lse = arrays.output("forward.lse", c.N);
  cpu::linear_cross_entropy_forward({dtype_of<Real>, c.N, c.I, c.O, h, w, b, targets, -1, loss, lse}, execution);
  cpu::linear_cross_entropy_backward(
      {dtype_of<Real>, c.N, c.I, c.O, h, w, b, targets, -1, lse, dloss, arrays.output("backward.dh", c.N * c.I),
       arrays.output("backward.dw", c.O * c.I), arrays.output("backward.db", c.O), false},
      execution);
}

// -- comparison -------------------------------------------------------------------------------------------------

struct Row {
  int cases = 0;
  double worst = 0;  // share of the budget
  uint64_t digest = 0xCBF29CE484222325u;
};

// The table of python/rnnkernels/testing.py, in eps.
template <class Real>
double budget(bool gradient) {
  const int forward = sizeof(Real) == 4 ? 80 : 450;
  return forward * (gradient ? 10.0 : 1.0) * static_cast<double>(std::numeric_limits<Real>::epsilon());
}

template <class Real>
double relative_error(const Guarded& got, const Guarded& want) {
  const Real *g = got.as<Real>(), *w = want.as<Real>();
  double difference = 0, largest = 0;
  for (size_t i = 0; i < want.bytes() / sizeof(Real); ++i) {
    if (!std::isfinite(g[i]) || !std::isfinite(w[i])) return std::numeric_limits<double>::infinity();
    difference = std::fmax(difference, std::fabs(static_cast<double>(g[i]) - static_cast<double>(w[i])));
    largest = std::fmax(largest, std::fabs(static_cast<double>(w[i])));
  }
  return difference == 0 ? 0 : difference / largest;
}

// Compares the results whose names begin with `stage`.
template <class Real>
void compare(Row& row, const std::string& stage, const Arrays<Real>& got, const Arrays<Real>& want) {
  ++row.cases;
  for (const auto& [name, array] : want.results) {
    if (name.rfind(stage, 0) != 0) continue;
    const Guarded& result = *got.results.at(name);
    row.worst = std::fmax(row.worst, relative_error<Real>(result, *array) / budget<Real>(stage == "backward"));
    for (size_t i = 0; i < result.bytes(); ++i)
      row.digest = (row.digest ^ result.as<unsigned char>()[i]) * 0x100000001B3u;
  }
}

using Rows = std::map<std::string, Row>;

template <class Real, class Run>
void add_case(Rows& rows, const std::string& family, Isa isa, uint64_t seed, const Run& run) {
  Arrays<Real> got(seed), want(seed);
  run(isa, got);
  run(Isa::scalar, want);
  const std::string tail = std::string(sizeof(Real) == 4 ? "_f32_" : "_f64_") + cpu::isa_name(isa);
  for (const char* stage : {"forward", "backward"}) compare(rows[family + "_" + stage + tail], stage, got, want);
}

template <class Real>
void run_all(Rows& rows, Isa isa) {
  uint64_t seed = 0;
#define RNNKERNELS_CELL(name, type)                                                                   \
  for (const CellCase& c : cell_cases) {                                                              \
    add_case<Real>(rows, #name, isa, ++seed,                                                          \
                   [&](Isa on, Arrays<Real>& arrays) { run_cell<Real>(Cell::name, c, on, arrays); }); \
  }
#include "core/cells.inc"
#undef RNNKERNELS_CELL
  for (const HeadCase& c : head_cases) {
    add_case<Real>(rows, "linear", isa, ++seed, [&](Isa on, Arrays<Real>& arrays) { run_linear(c, on, arrays); });
    add_case<Real>(rows, "cross_entropy", isa, ++seed,
                   [&](Isa on, Arrays<Real>& arrays) { run_cross_entropy(c, on, arrays); });
    add_case<Real>(rows, "linear_cross_entropy", isa, ++seed,
                   [&](Isa on, Arrays<Real>& arrays) { run_linear_cross_entropy(c, on, arrays); });
  }
}

// Numbers of 16 bits: every one widened, and floats rounded, of which many lie halfway or beyond; to the bit, NaNs too.
void compare_conversions(Rows& rows, Isa isa) {
  constexpr int64_t n = 65536 + 5;
  const auto convert = [&](Isa on, Dtype dtype, uint64_t seed) {
    const cpu::KernelSet& set = cpu::kernel_set(on, dtype);
    Arrays<float> arrays(seed);
    std::vector<uint16_t> halves(n);
    for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
    std::vector<float> floats(n), results(2 * n);
    for (float& x : floats) {
      const uint64_t bits = arrays.bits(), kept = bits >> 32 & 1 ? 0xffffffffu : 0xfffff000u;
      const uint32_t pattern = static_cast<uint32_t>(bits & kept);
      std::memcpy(&x, &pattern, sizeof x);
    }
    set.widen(halves.data(), results.data(), n);
    set.round(floats.data(), halves.data(), n, false);
    set.widen(halves.data(), results.data() + n, n);
    return results;
  };
  for (const Dtype dtype : {Dtype::bf16, Dtype::f16}) {
    Row& row = rows[std::string(dtype == Dtype::bf16 ? "convert_bf16_" : "convert_f16_") + cpu::isa_name(isa)];
    for (uint64_t seed = 1; seed <= 10; ++seed, ++row.cases) {
      const std::vector<float> got = convert(isa, dtype, seed), want = convert(Isa::scalar, dtype, seed);
      const auto* bytes = reinterpret_cast<const unsigned char*>(got.data());
      const size_t size = got.size() * sizeof(float);
      if (std::memcmp(bytes, want.data(), size) != 0) row.worst = std::numeric_limits<double>::infinity();
      for (size_t i = 0; i < size; ++i) row.digest = (row.digest ^ bytes[i]) * 0x100000001B3u;
    }
  }
}

}  // namespace

int main() {
  Rows rows;
  for (const Isa isa : {Isa::neon, Isa::avx2, Isa::avx512}) {
    if (!cpu::isa_available(isa)) continue;
    run_all<float>(rows, isa);
    run_all<double>(rows, isa);
    compare_conversions(rows, isa);
  }
  bool failed = rows.empty();
  for (const auto& [name, row] : rows) {
    failed |= !(row.worst <= 1);
    std::printf("%s %d %.4f %016llx\n", name.c_str(), row.cases, row.worst,
                static_cast<unsigned long long>(row.digest));
  }
  return failed ? 1 : 0;
}
