// The numbers of a call: how arrays store them, what they are computed in, and how products of them are taken.
#pragma once

#include "lane.cuh"

namespace rnnkernels::cuda {

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(Bf16 x) { return unpack_bf16(x.bits).x; }
__device__ __forceinline__ float widen(F16 x) { return unpack_f16(x.bits).x; }

__device__ __forceinline__ void narrow(float x, float& stored) { stored = x; }
__device__ __forceinline__ void narrow(double x, double& stored) { stored = x; }
__device__ __forceinline__ void narrow(float x, Bf16& stored) { stored.bits = static_cast<uint16_t>(pack_bf16(x, 0)); }
__device__ __forceinline__ void narrow(float x, F16& stored) { stored.bits = static_cast<uint16_t>(pack_f16(x, 0)); }

template <class T>
struct WideOf {
  using type = float;
};
template <>
struct WideOf<double> {
  using type = double;
};
template <class T>
using Wide = typename WideOf<T>::type;

// 16 bytes of a row, as shared memory holds them.
struct alignas(16) Chunk {
  uint32_t word[4];
};

// Where a lane stands in the 16 x 8 tiles of products.
struct LanePlace {
  int lane = static_cast<int>(threadIdx.x) % 32;
  int row = lane / 4, pair = lane % 4;
};

// A row of an operand's tile in shared memory: 32 words of k, and 4 that spread rows over the banks.
constexpr int words_of_depth = 32, row_words = words_of_depth + 4;

// ---- sum[group][tile] += a b over one depth of k, a warp's: 16 rows of a for a group, 8 of b for a tile. A lane's four sums
// are of rows r and r + 8 and columns 2 q and 2 q + 1, as those of mma: sum[2 i + j] of row r + 8 i, column 2 q + j

// In the type itself: one chain of fma in ascending k.
template <class Real>
struct Fma {
  using Element = Real;
  using Sum = Real;
  static constexpr int blocks_at_once = 1;  // of a multiprocessor: registers would not do for two

  template <int groups, int tiles>
  static __device__ __forceinline__ void multiply(Sum (&sum)[groups][tiles][4], const uint32_t* a, const uint32_t* b) {
    constexpr int width = sizeof(Chunk) / sizeof(Real);
    const LanePlace place;
    for (int word = 0; word < words_of_depth; word += 4) {
      Real columns[tiles][2][width];
#pragma unroll
      for (int tile = 0; tile < tiles; ++tile)
#pragma unroll
        for (int j = 0; j < 2; ++j) read(columns[tile][j], b + (tile * 8 + place.pair * 2 + j) * row_words + word);
#pragma unroll
      for (int group = 0; group < groups; ++group)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          Real row[width];
          read(row, a + (group * 16 + place.row + 8 * i) * row_words + word);
#pragma unroll
          for (int k = 0; k < width; ++k)
#pragma unroll
            for (int tile = 0; tile < tiles; ++tile)
#pragma unroll
              for (int j = 0; j < 2; ++j) {
                Real& s = sum[group][tile][2 * i + j];
                s = fma(Lane<Real>(row[k]), Lane<Real>(columns[tile][j][k]), Lane<Real>(s)).v;
              }
        }
    }
  }

 private:
  template <int width>
  static __device__ __forceinline__ void read(Real (&values)[width], const uint32_t* from) {
    const Chunk chunk = *reinterpret_cast<const Chunk*>(from);
    memcpy(values, &chunk, sizeof chunk);
  }
};

// On tensor cores, with sums in float32.
template <class Kind>
struct Mma {
  using Element = typename Kind::Element;
  using Sum = float;
  // Large tiles take 110 KiB a block; two parts take the registers of two.
  static constexpr int blocks_at_once = shared_kib < 220 || Kind::column_parts > 1 ? 1 : 2;

  template <int groups, int tiles>
  static __device__ __forceinline__ void multiply(Sum (&sum)[groups][tiles][4], const uint32_t* a, const uint32_t* b) {
    const LanePlace place;
    // The four matrices that a lane's pointer is for: rows 0-7 and 8-15 of the earlier words, then of the later ones.
    const uint32_t* a_row = a + place.lane % 16 * row_words + place.lane / 16 * 4;
#pragma unroll
    for (int word = 0; word < words_of_depth; word += 8) {
      uint32_t columns[tiles][2];
      read_columns(columns, b + word);
      uint32_t rows[groups][4];
#pragma unroll
      for (int group = 0; group < groups; ++group) {
        load_matrix_x4(rows[group], a_row + group * 16 * row_words + word);
#pragma unroll
        for (int i = 0; i < 4; ++i) rows[group][i] = Kind::operand(rows[group][i]);
      }
#pragma unroll
      for (int part = Kind::column_parts - 1; part >= 0; --part) {
#pragma unroll
        for (int tile = 0; tile < tiles; ++tile) {
          const uint32_t column[2] = {Kind::column(columns[tile][0], part), Kind::column(columns[tile][1], part)};
#pragma unroll
          for (int group = 0; group < groups; ++group) Kind::mma(sum[group][tile], rows[group], column);
        }
      }
    }
  }

 private:
  // Two tiles at once are four matrices: the earlier and the later words of each.
  template <int tiles>
  static __device__ __forceinline__ void read_columns(uint32_t (&columns)[tiles][2], const uint32_t* b) {
    const LanePlace place;
    if constexpr (tiles % 2) {
#pragma unroll
      for (int tile = 0; tile < tiles; ++tile)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          columns[tile][half] = b[(tile * 8 + place.row) * row_words + half * 4 + place.pair];
    } else {
      const uint32_t* row = b + (place.lane / 16 * 8 + place.lane % 8) * row_words + place.lane / 8 % 2 * 4;
#pragma unroll
      for (int tile = 0; tile < tiles; tile += 2) {
        uint32_t matrices[4];
        load_matrix_x4(matrices, row + tile * 8 * row_words);
#pragma unroll
        for (int i = 0; i < 4; ++i) columns[tile + i / 2][i % 2] = matrices[i];
      }
    }
  }
};

// A kind of mma: how words of a's rows become its operands, and those of b's columns, of which there may be several whose sum is
// multiplied, the least first.
template <class E>
struct AsStored {
  using Element = E;
  static constexpr int column_parts = 1;
  static __device__ __forceinline__ uint32_t operand(uint32_t word) { return word; }
  static __device__ __forceinline__ uint32_t column(uint32_t word, int) { return word; }
};
struct KindBf16 : AsStored<Bf16> {
  static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_bf16(d, a, b);
  }
};
struct KindF16 : AsStored<F16> {
  static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_f16(d, a, b);
  }
};

// Float32 rounded to tf32; with two parts of b, what the first has lost is the second.
template <int parts>
struct KindTf32 {
  using Element = float;
  static constexpr int column_parts = parts;
  static __device__ __forceinline__ uint32_t operand(uint32_t word) { return to_tf32(__uint_as_float(word)); }
  static __device__ __forceinline__ uint32_t column(uint32_t word, int part) {
    const uint32_t first = operand(word);
    if (part == 0) return first;
    const float lost = __uint_as_float(word) - __uint_as_float(first);
    return lost == lost ? to_tf32(lost) : 0;  // of infinity nothing is lost
  }
  static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_tf32(d, a, b);
  }
};

// ---- what a call may be in. Gradients of 16-bit numbers are float32 until they are stored, and their products tf32, in which
// weights and activations of 16 bits are exact: rounding gradients to bfloat16 would cost more than its budget, and float16
// lacks their range. They are the columns of every product of a backward pass. tf32 has as many bits as float16, whose gradients
// are taken in two parts: terms may cancel, which leaves a rounding of one part of them larger than the budget

template <class Storage, class ForwardMath, class BackwardMath>
struct Number {
  using T = Storage;
  using Real = Wide<Storage>;
  using Forward = ForwardMath;
  using Backward = BackwardMath;
};

using NumberF64 = Number<double, Fma<double>, Fma<double>>;
using NumberF32 = Number<float, Fma<float>, Fma<float>>;
using NumberTf32 = Number<float, Mma<KindTf32<1>>, Mma<KindTf32<1>>>;
using NumberBf16 = Number<Bf16, Mma<KindBf16>, Mma<KindTf32<1>>>;
using NumberF16 = Number<F16, Mma<KindF16>, Mma<KindTf32<2>>>;

}  // namespace rnnkernels::cuda
