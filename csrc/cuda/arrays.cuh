// Kernels around the products of the stepwise tier: operands in the form that products want, token ids, sums over steps.
#pragma once

#include "number.cuh"

namespace rnnkernels::cuda {

constexpr int array_threads = 256;

// The sequences of a call: which steps they have, and what comes before each in the direction that they run.
struct Sequences {
  const int64_t* lengths;  // (B), or null: all T
  int64_t T;
  int B;
  bool reverse;

  __device__ __forceinline__ int64_t length(int b) const { return lengths ? lengths[b] : T; }
  __device__ __forceinline__ bool has(int64_t t, int b) const { return t < length(b); }
  // Whether a step comes before t; it is t - 1, or t + 1 in reverse.
  __device__ __forceinline__ bool has_before(int64_t t, int b) const { return reverse ? has(t + 1, b) : t > 0; }
  __device__ __forceinline__ int64_t before(int64_t t) const { return reverse ? t + 1 : t - 1; }
};

// Row i of a chunk of steps: a sequence and a step of it.
struct ChunkRow {
  __device__ __forceinline__ ChunkRow(const Sequences& sequences, int64_t first_step, uint32_t i)
      : t(first_step + i / static_cast<uint32_t>(sequences.B)),
        b(static_cast<int>(i % static_cast<uint32_t>(sequences.B))),
        row(t * sequences.B + b),
        runs(sequences.has(t, b)) {}
  int64_t t;
  int b;
  int64_t row;  // of (T, B)
  bool runs;
};

// ---- rows by number, null for one of zeros

template <class E>
struct PlainRows {
  const E* data;
  int64_t stride;
  __device__ __forceinline__ const E* row(uint32_t i) const { return data + i * stride; }
};

template <class E>
struct StepRows {  // of x: padding is not read
  const E* data;
  int64_t stride, first_step;
  Sequences sequences;
  __device__ __forceinline__ const E* row(uint32_t i) const {
    const ChunkRow at(sequences, first_step, i);
    return at.runs ? data + at.row * stride : nullptr;
  }
};

template <class E>
struct PreviousRows {  // what h was before a step
  const E *h, *h0;
  int64_t H, first_step;
  Sequences sequences;
  __device__ __forceinline__ const E* row(uint32_t i) const {
    const ChunkRow at(sequences, first_step, i);
    if (!at.runs) return nullptr;
    if (sequences.has_before(at.t, at.b)) return h + (sequences.before(at.t) * sequences.B + at.b) * H;
    return h0 ? h0 + at.b * H : nullptr;
  }
};

// Which gate each slot of d is of, 4 bits each: nvcc knows no array of constants by an index.
struct GateOrder {
  uint32_t packed;
  __device__ __forceinline__ uint32_t gate(uint32_t slot) const { return packed >> 4 * slot & 15; }
};

// The rows of w of one slot's gate after the other, each gate's padded with zeros.
template <class E>
struct GateRows {
  const E* w;
  int64_t stride;
  uint32_t H, padded;
  GateOrder order;
  __device__ __forceinline__ const E* row(uint32_t i) const {
    const uint32_t slot = i / padded, unit = i % padded;
    return unit < H ? w + (static_cast<int64_t>(order.gate(slot)) * H + unit) * stride : nullptr;
  }
};

template <class E>
struct TransposeTile {
  static constexpr int side = 32, stride = side + 1, lines = array_threads / side;
  static constexpr size_t count = side * stride, shared_bytes = count * sizeof(E);
};

// to (columns, stride): to[c][r] = from.row(r)[c], and zeros from r = rows on.
template <class To, class From>
__global__ void __launch_bounds__(array_threads)
    transpose(To* to, int64_t stride, From from, int64_t rows, int64_t columns) {
  using Tile = TransposeTile<To>;
  constexpr int side = Tile::side, lines = Tile::lines;
  SharedMemory memory;
  To* tile = memory.take<To>(Tile::count);
  const int along = threadIdx.x % side, across = threadIdx.x / side;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * side;
  const int64_t first_column = static_cast<int64_t>(blockIdx.y) * side;
  for (int i = across; i < side; i += lines) {
    const int64_t r = first_row + i, c = first_column + along;
    const auto* row = r < rows && c < columns ? from.row(static_cast<uint32_t>(r)) : nullptr;
    tile[i * Tile::stride + along] = row ? widen(row[c]) : 0;
  }
  __syncthreads();
  for (int i = across; i < side; i += lines) {
    const int64_t r = first_row + along, c = first_column + i;
    if (r < stride && c < columns) to[c * stride + r] = tile[along * Tile::stride + i];
  }
}

// A matrix of any strides; `columns` of it are read, or written.
template <class E>
struct View {
  E* data;
  int64_t row_stride, column_stride, columns;
};

// to[r][c] (+)= from[r][c], and zeros beyond from's columns.
template <class To, class From>
__global__ void __launch_bounds__(array_threads)
    copy_rows(View<To> to, View<const From> from, int64_t rows, bool accumulate) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * array_threads + threadIdx.x;
  const int64_t r = i / to.columns, c = i % to.columns;
  if (r >= rows) return;
  To& element = to.data[r * to.row_stride + c * to.column_stride];
  auto value = c < from.columns ? widen(from.data[r * from.row_stride + c * from.column_stride]) : 0;
  if (accumulate) value += widen(element);
  narrow(value, element);
}

// What products of x begin with: b_ih, of each sequence if it says so, and b_hh where x and h go into one sum.
template <class T>
struct Biases {
  const T *ih, *hh;
  int64_t rows;    // G*H
  int64_t shared;  // rows whose sum h goes into, too
  int B;
  bool per_sequence;

  __device__ __forceinline__ Wide<T> at(int64_t j, uint32_t i) const {
    Wide<T> sum = 0;
    if (ih) sum = widen(ih[per_sequence ? i % B * rows + j : j]);
    if (hh && j < shared) sum += widen(hh[j]);
    return sum;
  }
};

// ---- what gemm begins and ends with. For products that are not its own, an Out says where its first element stands, how far
// apart rows of n are, whether end(begin) has to be there before, and whether the product is added to what is there

template <class T>
struct ProjectInput {  // xg (steps*B, G*H)
  Wide<T>* xg;
  Biases<T> biases;
  __device__ __forceinline__ Wide<T> begin(int64_t m, int64_t n) const {
    return biases.at(m, static_cast<uint32_t>(n));
  }
  __device__ __forceinline__ void end(int64_t m, int64_t n, Wide<T> sum) const { xg[n * biases.rows + m] = sum; }
  Wide<T>* first() const { return xg; }
  int64_t row_stride() const { return biases.rows; }
  bool begins() const { return biases.ih || (biases.hh && biases.shared); }
  bool adds() const { return begins(); }
};

template <class T>
struct StoreRows {  // out[n][m] (+)= sum
  T* out;
  int64_t stride;
  bool accumulate;
  __device__ __forceinline__ Wide<T> begin(int64_t, int64_t) const { return 0; }
  __device__ __forceinline__ void end(int64_t m, int64_t n, Wide<T> sum) const {
    T& element = out[n * stride + m];
    narrow(accumulate ? widen(element) + sum : sum, element);
  }
  T* first() const { return out; }
  int64_t row_stride() const { return stride; }
  bool begins() const { return false; }
  bool adds() const { return accumulate; }
};

// out.end(out.begin), before a product that is added.
template <class Out>
__global__ void __launch_bounds__(array_threads) begin_rows(Out out, int64_t M, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * array_threads + threadIdx.x;
  if (i < M * N) out.end(i % M, i / M, out.begin(i % M, i / M));
}

// Sums of parts of k, each by itself: (parts, N, M).
template <class Real>
struct Partials {
  const Real* data;
  int64_t part_stride, stride;
  int parts;

  // The sums at m, m + step, ... of n: the parts of each in their order.
  template <int count>
  __device__ __forceinline__ void add_up(Real (&sums)[count], int64_t m, int64_t step, int64_t n) const {
#pragma unroll
    for (int s = 0; s < count; ++s) sums[s] = 0;
    const Real* part = data + n * stride + m;
#pragma unroll 4
    for (int i = 0; i < parts; ++i, part += part_stride)
#pragma unroll
      for (int s = 0; s < count; ++s) sums[s] += part[s * step];
  }
  __device__ __forceinline__ Real at(int64_t m, int64_t n) const {
    Real sum[1];
    add_up(sum, m, 0, n);
    return sum[0];
  }
  __device__ __forceinline__ Real begin(int64_t, int64_t) const { return 0; }
  __device__ __forceinline__ void end(int64_t m, int64_t n, Real sum) const {
    const_cast<Real*>(data)[blockIdx.z * part_stride + n * stride + m] = sum;
  }
};

// dw[gate][unit][m] += the sum of products(m, n), n = slot * padded + unit.
template <class Real>
__global__ void __launch_bounds__(array_threads) add_products(Real* dw, int64_t columns, uint32_t H, uint32_t padded,
                                                              GateOrder order, Partials<Real> products, int64_t rows) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * array_threads + threadIdx.x;
  const int64_t n = i / columns, m = i % columns;
  const uint32_t slot = static_cast<uint32_t>(n) / padded, unit = static_cast<uint32_t>(n) % padded;
  if (n < rows && unit < H) dw[(static_cast<int64_t>(order.gate(slot)) * H + unit) * columns + m] += products.at(m, n);
}

// ---- token ids

// xg of ids: the product with a one-hot x is a column of w_ih. Nobody can look at ids before a call without waiting for the
// device; one out of [0, I) gives NaN.
template <class T>
__global__ void __launch_bounds__(array_threads)
    gather_inputs(Wide<T>* xg, Biases<T> biases, const T* w_ih, int64_t row_stride, int64_t column_stride,
                  const int64_t* ids, int64_t I, int64_t first_step, int64_t rows, Sequences sequences) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * array_threads + threadIdx.x;
  const int64_t row = i / biases.rows, j = i % biases.rows;
  if (row >= rows) return;
  const ChunkRow at(sequences, first_step, static_cast<uint32_t>(row));
  if (!at.runs) return;  // whatever stands there is not read
  const int64_t id = ids[at.row];
  const bool known = id >= 0 && id < I;
  const Wide<T> column = known ? widen(w_ih[j * row_stride + id * column_stride]) : static_cast<Wide<T>>(NAN);
  xg[i] = biases.at(j, static_cast<uint32_t>(row)) + column;
}

// dw (I, G*H), the transpose, += rows of d whose id it is, in ascending order. A block has one id and a thread for each of so
// many rows of gates.
template <class Real>
__global__ void __launch_bounds__(array_threads)
    scatter_gradients(Real* dw, const Real* d, int64_t d_stride, uint32_t H, uint32_t padded, int gates,
                      GateOrder order, const int64_t* ids, int64_t first_step, int64_t rows, Sequences sequences) {
  SharedMemory memory;
  int* matches = memory.take<int>(array_threads);
  const int64_t id = blockIdx.x;
  const int64_t j = static_cast<int64_t>(blockIdx.y) * array_threads + threadIdx.x;
  const bool owns = j < static_cast<int64_t>(gates) * H;
  const int64_t column = owns ? j / H * padded + j % H : 0;
  Real* element = dw + id * gates * H + (owns ? order.gate(static_cast<uint32_t>(j / H)) * H + j % H : 0);
  Real sum = owns ? *element : 0;
  for (int64_t first = 0; first < rows; first += array_threads) {
    const int64_t row = first + threadIdx.x;
    const ChunkRow at(sequences, first_step, static_cast<uint32_t>(row));
    const bool match = row < rows && at.runs && ids[at.row] == id;
    matches[threadIdx.x] = match;
    if (!__syncthreads_or(match)) continue;
    for (int i = 0; i < array_threads; ++i)
      if (matches[i] && owns) sum += d[(first + i) * d_stride + column];
    __syncthreads();
  }
  if (owns) *element = sum;
}

// ---- sums over rows in a fixed order

constexpr int sum_columns = 32;  // of a block

// sums[group][c] += d[r][c] over the rows r = group, group + groups, ...: one group for a bias, one for each sequence where
// each has a bias.
template <class Real>
__global__ void __launch_bounds__(array_threads)
    sum_rows(Real* sums, const Real* d, int64_t d_stride, int64_t rows, int64_t columns, int64_t groups) {
  constexpr int side = sum_columns, lines = array_threads / side;
  SharedMemory memory;
  Real* parts = memory.take<Real>(array_threads);
  const int64_t c = static_cast<int64_t>(blockIdx.y) * side + threadIdx.x % side, group = blockIdx.x;
  const int line = threadIdx.x / side;
  Real part = 0;
  if (c < columns)
    for (int64_t r = group + line * groups; r < rows; r += lines * groups) part += d[r * d_stride + c];
  parts[threadIdx.x] = part;
  __syncthreads();
  if (line || c >= columns) return;
  Real sum = sums[group * columns + c];
  for (int i = 0; i < lines; ++i) sum += parts[i * side + threadIdx.x];
  sums[group * columns + c] = sum;
}

}  // namespace rnnkernels::cuda
