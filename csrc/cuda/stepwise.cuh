// One step of one layer as one kernel: the products of x and of h, and the cell on top, in float32. The simplest tier, for
// any size; the truth on the device for faster ones. A thread owns one unit of one sequence and sums in the order of the
// CPU's kernels: biases, x in ascending k, h in ascending k, one chain of fma a slot.
#pragma once

#include <type_traits>

#include "../core/cells/gru.h"
#include "../core/cells/lstm.h"
#include "../core/cells/rnn.h"
#include "lane.cuh"

namespace rnnkernels::cuda {

// Of one step; b_ih, b_hh and, for cells without c, c_prev and c may be null. h and h_prev are different arrays.
struct StepArguments {
  const float *x, *h_prev, *c_prev;  // (B, I), (B, H), (B, H)
  const float *w_ih, *w_hh;          // (G*H, I), (G*H, H)
  const float *b_ih, *b_hh;          // (G*H)
  float *h, *c;                      // (B, H)
  int B, I, H;
};

struct StepTile {
  static constexpr int units = 16, sequences = 16, threads = units * sequences;
  static constexpr int depth = 32, stride = depth + 1;  // of k; an odd stride spreads rows over the banks

  static constexpr size_t shared_bytes(int slots) { return sizeof(float) * stride * (slots * units + sequences); }
  static dim3 grid(int B, int H) { return dim3((H + units - 1) / units, (B + sequences - 1) / sequences); }
};

// act(s) for each slot from `slot` up to `end`, as a constant: nvcc knows the elements of a cell's arrays by these alone.
template <int slot, int end, class Act>
__device__ __forceinline__ void for_slots(Act act) {
  if constexpr (slot < end) {
    act(std::integral_constant<int, slot>());
    for_slots<slot + 1, end>(act);
  }
}

// A tile of `rows` rows from `first` on and StepTile::depth columns from k on, with zeros beyond the matrix of (end, K).
template <int rows>
__device__ __forceinline__ void load_step_tile(float* tile, const float* matrix, int first, int end, int k, int K) {
  for (int i = threadIdx.x; i < rows * StepTile::depth; i += StepTile::threads) {
    const int row = i / StepTile::depth, column = i % StepTile::depth;
    const bool inside = first + row < end && k + column < K;
    tile[row * StepTile::stride + column] = inside ? matrix[static_cast<size_t>(first + row) * K + k + column] : 0;
  }
}

// sum[s] += w[gate of s] . source, for the slots that the source contributes to.
template <class Cell, int first_slot, int slot_count>
__device__ void add_step_product(float (&sum)[Cell::slots], const float* source, const float* w, int K,
                                 const StepArguments& a, float* source_tile, float* weight_tiles) {
  constexpr int tile_size = StepTile::units * StepTile::stride;
  const int unit = threadIdx.x % StepTile::units, sequence = threadIdx.x / StepTile::units;
  const int first_unit = blockIdx.x * StepTile::units, first_sequence = blockIdx.y * StepTile::sequences;
  for (int k = 0; k < K; k += StepTile::depth) {
    __syncthreads();  // the tiles before this one have been read
    load_step_tile<StepTile::sequences>(source_tile, source, first_sequence, a.B, k, K);
    for_slots<0, slot_count>([&](auto s) {
      constexpr int slot = decltype(s)::value, gate = Cell::gate_of_slot[first_slot + slot];
      const float* rows = w + static_cast<size_t>(gate) * a.H * K;
      load_step_tile<StepTile::units>(weight_tiles + slot * tile_size, rows, first_unit, a.H, k, K);
    });
    __syncthreads();
    for (int i = 0; i < StepTile::depth; ++i) {
      const float value = source_tile[sequence * StepTile::stride + i];
#pragma unroll
      for (int s = 0; s < slot_count; ++s)
        sum[first_slot + s] =
            fmaf(weight_tiles[s * tile_size + unit * StepTile::stride + i], value, sum[first_slot + s]);
    }
  }
}

template <class Cell, int first_slot, int slot_count>
__device__ __forceinline__ void add_step_bias(float (&sum)[Cell::slots], const float* bias, int unit, int H) {
  if (!bias) return;
  for_slots<first_slot, first_slot + slot_count>([&](auto s) {
    constexpr int slot = decltype(s)::value, gate = Cell::gate_of_slot[slot];
    sum[slot] += bias[static_cast<size_t>(gate) * H + unit];
  });
}

template <class Cell>
__global__ void __launch_bounds__(StepTile::threads) step_forward_f32(StepArguments a) {
  static_assert(!Cell::reset_before, "its second product needs r of the whole state");
  SharedMemory memory;
  float* source_tile = memory.take<float>(StepTile::sequences * StepTile::stride);
  float* weight_tiles = memory.take<float>(Cell::slots * StepTile::units * StepTile::stride);
  const int unit = blockIdx.x * StepTile::units + threadIdx.x % StepTile::units;
  const int b = blockIdx.y * StepTile::sequences + threadIdx.x / StepTile::units;
  const bool owns = unit < a.H && b < a.B;

  float sum[Cell::slots] = {};
  if (owns) {
    add_step_bias<Cell, Cell::x_first, Cell::x_count>(sum, a.b_ih, unit, a.H);
    add_step_bias<Cell, Cell::h_first, Cell::h_count>(sum, a.b_hh, unit, a.H);
  }
  add_step_product<Cell, Cell::x_first, Cell::x_count>(sum, a.x, a.w_ih, a.I, a, source_tile, weight_tiles);
  add_step_product<Cell, Cell::h_first, Cell::h_count>(sum, a.h_prev, a.w_hh, a.H, a, source_tile, weight_tiles);
  if (!owns) return;

  Lane gates[Cell::slots], h, c;
#pragma unroll
  for (int s = 0; s < Cell::slots; ++s) gates[s] = Lane(sum[s]);
  const size_t at = static_cast<size_t>(b) * a.H + unit;
  Cell::forward(gates, Lane(a.h_prev[at]), Lane(Cell::has_c ? a.c_prev[at] : 0), h, c);
  a.h[at] = h.v;
  if (Cell::has_c) a.c[at] = c.v;
}

}  // namespace rnnkernels::cuda
