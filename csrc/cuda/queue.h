// What calls of the device queue, whatever they compute: kernels on the caller's stream, on pieces of the caller's workspace.
#pragma once

#include <algorithm>
#include <type_traits>

#include "arrays.cuh"
#include "blas.h"
#include "launch.h"
#include "split.h"
#include "workspace.h"

namespace rnnkernels::cuda {

constexpr int64_t usual_chunk_bytes = int64_t{64} << 20;

template <class E>
constexpr int64_t pad_row(int64_t count) {
  constexpr int64_t width = sizeof(Chunk) / sizeof(E);
  return (count + width - 1) / width * width;
}

// Rows (steps, or rows of a head) of a chunk, by the bytes that each takes.
inline int64_t rows_of_chunk(int64_t count, int64_t bytes_of_row, int64_t chunk_bytes) {
  return std::max<int64_t>(1, std::min(count, chunk_bytes / std::max<int64_t>(1, bytes_of_row)));
}

// Where work is queued; and cuBLASLt, with memory of the workspace, where large products may go there.
struct Stream {
  Stream(cudaStream_t handle_, Blas* blas_ = nullptr, void* blas_memory_ = nullptr)
      : handle(handle_), blas(blas_), blas_memory(blas_memory_) {}
  cudaStream_t handle;
  Blas* blas;
  void* blas_memory;
};

// What cuBLASLt has to be told of a way to multiply.
template <class Math>
struct OfBlas {
  static constexpr bool can = false;  // gradients in two parts
};
template <Dtype dtype_, bool tf32_>
struct OperandsOfBlas {
  static constexpr bool can = true, tf32 = tf32_;
  static constexpr Dtype dtype = dtype_;
};
template <>
struct OfBlas<Fma<float>> : OperandsOfBlas<Dtype::f32, false> {};
template <>
struct OfBlas<Fma<double>> : OperandsOfBlas<Dtype::f64, false> {};
template <>
struct OfBlas<Mma<KindTf32<1>>> : OperandsOfBlas<Dtype::f32, true> {};
template <>
struct OfBlas<Mma<KindBf16>> : OperandsOfBlas<Dtype::bf16, false> {};
template <>
struct OfBlas<Mma<KindF16>> : OperandsOfBlas<Dtype::f16, false> {};

template <class Number>
class Queue {
 protected:
  using T = typename Number::T;
  using Real = typename Number::Real;

  Queue(Workspace& workspace, Stream stream) : workspace_(workspace), stream_(stream) {}

  template <class... P, class... A>
  void queue(const char* name, dim3 grid, int threads, size_t shared, void (*kernel)(P...), A... arguments) const {
    LaunchShape shape;
    shape.grid = grid, shape.block = static_cast<unsigned>(threads), shape.shared_bytes = shared,
    shape.stream = stream_.handle;
    launch(name, shape, kernel, arguments...);
  }

  static unsigned blocks(int64_t count, int64_t each) { return static_cast<unsigned>(pieces(count, each)); }

  void zero(void* memory, int64_t bytes) const {
    if (bytes) check(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes), stream_.handle), "cudaMemsetAsync");
  }

  template <class To, class From>
  void copy(View<To> to, View<const From> from, int64_t rows, bool accumulate = false) const {
    if (rows * to.columns == 0) return;
    queue("copy_rows", blocks(rows * to.columns, array_threads), array_threads, 0, copy_rows<To, From>, to, from, rows,
          accumulate);
  }

  // Of rows of `columns` elements, padded with zeros to to_columns.
  template <class To, class From>
  void copy(To* to, int64_t to_stride, int64_t to_columns, const From* from, int64_t from_stride, int64_t rows,
            int64_t columns, bool accumulate = false) const {
    copy(View<To>{to, to_stride, 1, to_columns}, View<const From>{from, from_stride, 1, columns}, rows, accumulate);
  }

  // Whether rows of an array begin at multiples of 16 bytes.
  template <class E>
  static bool usable(const E* data, int64_t columns) {
    return reinterpret_cast<uintptr_t>(data) % sizeof(Chunk) == 0 && pad_row<E>(columns) == columns;
  }

  // The array itself where products can use it, else a copy.
  Rows<T> operand(const void* data, int64_t rows, int64_t columns) const {
    const T* from = static_cast<const T*>(data);
    if (usable(from, columns)) return {from, columns, rows};
    const int64_t padded = pad_row<T>(columns);
    T* to = take<T>({rows, padded});
    if (!workspace_.counts_only()) copy(to, padded, padded, from, columns, rows, columns);
    return {to, padded, rows};
  }

  template <class Math, class Shape, class Out>
  void multiply_in(const char* name, Rows<typename Math::Element> a, Rows<typename Math::Element> b, int64_t K,
                   Split split, Out out) const {
    using Block = Product<Math, Shape>;
    queue(name, dim3(blocks(b.count, Block::columns), blocks(a.count, Block::rows), static_cast<unsigned>(split.parts)),
          Block::threads, Block::shared_bytes, gemm<Math, Shape, Out>, a, b, static_cast<int>(K), split.part, out);
  }

  template <class Math>
  static Split split_of(int64_t M, int64_t N, int64_t K, bool in_parts) {
    return split(M, N, K, Product<Math, SmallShape>::depth, in_parts);
  }

  // out(m, n) = sum over all of k.
  template <class Math, class Out>
  void multiply(const char* name, Rows<typename Math::Element> a, Rows<typename Math::Element> b, int64_t K,
                Out out) const {
    if (a.count == 0 || b.count == 0 || by_blas<Math>(a, b, K, out)) return;
    const Split whole = split_of<Math>(a.count, b.count, K, false);
    if (whole.shape == TileShape::large)
      multiply_in<Math, LargeShape>(name, a, b, K, whole, out);
    else  // a narrow tile too: kernels of its own would be for chunks of a few rows alone
      multiply_in<Math, SmallShape>(name, a, b, K, whole, out);
  }

  // The sums of parts of k, which whoever reads them adds up. They are cut as for most_K, of which K may fall short.
  template <class Math>
  Partials<Real> multiply_parts(const char* name, Rows<typename Math::Element> a, Rows<typename Math::Element> b,
                                int64_t K, int64_t most_K, Real* partials) const {
    Split parts = split_of<Math>(a.count, b.count, most_K, true);
    parts.parts = static_cast<int>(std::max<int64_t>(1, pieces(K, parts.part)));
    const Partials<Real> out = {partials, b.count * a.count, a.count, parts.parts};
    if (a.count == 0 || b.count == 0) return out;
    switch (parts.shape) {
      case TileShape::narrow: multiply_in<Math, NarrowShape>(name, a, b, K, parts, out); break;
      case TileShape::small: multiply_in<Math, SmallShape>(name, a, b, K, parts, out); break;
      case TileShape::large: multiply_in<Math, LargeShape>(name, a, b, K, parts, out); break;
    }
    return out;
  }

  // The product by cuBLASLt; false where it has none.
  template <class Math, class Out>
  bool by_blas(Rows<typename Math::Element> a, Rows<typename Math::Element> b, int64_t K, Out out, int64_t b_apart = 0,
               int64_t d_apart = 0) const {
    using To = std::remove_pointer_t<decltype(out.first())>;
    if constexpr (OfBlas<Math>::can &&
                  (std::is_same_v<To, typename Math::Sum> || std::is_same_v<To, typename Math::Element>)) {
      if (!stream_.blas || !stream_.blas->wants(a.count, b.count, K)) return false;
      if (out.begins())
        queue("begin_rows", blocks(a.count * b.count, array_threads), array_threads, 0, begin_rows<Out>, out, a.count,
              b.count);
      constexpr Dtype sums = std::is_same_v<typename Math::Sum, double> ? Dtype::f64 : Dtype::f32;
      constexpr Dtype result = std::is_same_v<To, typename Math::Sum> ? sums : OfBlas<Math>::dtype;
      const BlasProduct product = {OfBlas<Math>::dtype,
                                   result,
                                   OfBlas<Math>::tf32,
                                   a.count,
                                   b.count,
                                   K,
                                   a.stride,
                                   b.stride,
                                   out.row_stride(),
                                   out.adds(),
                                   b_apart,
                                   d_apart};
      return stream_.blas->multiply(product, a.data, b.data, out.first(), stream_.blas_memory, stream_.handle);
    }
    return false;
  }

  template <class Math>
  Real* take_partials(int64_t M, int64_t N, int64_t K) const {
    return take<Real>({split_of<Math>(M, N, K, true).parts, N, M});
  }

  template <class E>
  E* take(std::initializer_list<int64_t> sizes) const {
    return workspace_.template take<E>(sizes);
  }

  template <class From>
  Rows<Real> transposed(Real* to, int64_t stride, From from, int64_t rows, int64_t columns) const {
    using Tile = TransposeTile<Real>;
    if (stride && columns)
      queue("transpose", dim3(blocks(stride, Tile::side), blocks(columns, Tile::side)), array_threads,
            Tile::shared_bytes, transpose<Real, From>, to, stride, from, rows, columns);
    return {to, stride, columns};
  }

  // dw (gates, H, rows of a_t) += d a_t^T over k: gates in `order`, `padded` rows of d each.
  template <class Math>
  void add_gradients_of_weights(Real* dw, Rows<Real> a_t, Rows<Real> d, int64_t H, int64_t padded, GateOrder order,
                                int64_t K, int64_t most_K, Real* partials) const {
    const int64_t columns = a_t.count;
    if (d.count * columns == 0 || add_by_blas<Math>(dw, a_t, d, H, padded, order, K)) return;
    const Partials<Real> products = multiply_parts<Math>("gradient of weights", a_t, d, K, most_K, partials);
    queue("add_products", blocks(d.count * columns, array_threads), array_threads, 0, add_products<Real>, dw, columns,
          static_cast<uint32_t>(H), static_cast<uint32_t>(padded), order, products, d.count);
  }

  // The same by cuBLASLt, gate after gate: which it has for all of them or for none.
  template <class Math>
  bool add_by_blas(Real* dw, Rows<Real> a_t, Rows<Real> d, int64_t H, int64_t padded, GateOrder order,
                   int64_t K) const {
    const int64_t columns = a_t.count, gates = d.count / padded;
    constexpr int64_t size = sizeof(Real);
    const int64_t d_apart = gates > 1 ? padded * d.stride * size : 0, dw_apart = gates > 1 ? H * columns * size : 0;
    for (int64_t gate = 0; gate < gates; ++gate) {
      const Rows<Real> of_gate = {d.data + gate * padded * d.stride, d.stride, H};
      const StoreRows<Real> sums = {dw + (order.packed >> 4 * gate & 15) * H * columns, columns, true};
      if (!by_blas<Math>(a_t, of_gate, K, sums, d_apart, dw_apart)) return false;
    }
    return true;
  }

  // sums[group] += rows of d.
  void add_rows(Real* sums, const Real* d, int64_t d_stride, int64_t rows, int64_t columns, int64_t groups) const {
    queue("sum_rows", dim3(static_cast<unsigned>(groups), blocks(columns, sum_columns)), array_threads,
          array_threads * sizeof(Real), sum_rows<Real>, sums, d, d_stride, rows, columns, groups);
  }

  Workspace& workspace_;
  Stream stream_;
};

}  // namespace rnnkernels::cuda
