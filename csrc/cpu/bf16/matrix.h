// A matrix of bfloat16 numbers, as the instruction set multiplies them: Bf16Matrix is to ForwardLayer what RealMatrix is.
//
// Weights, rows of x and states are bfloat16 in the caller's arrays, and are multiplied as they are. What is not (r*h of a GRU) is
// split into two numbers of bfloat16, whose sum has 16 bits or more, and multiplied as those.
#pragma once

#include "numbers.h"
// clang-format off
#include RNNKERNELS_STRINGIFY(RNNKERNELS_ISA.h)
// clang-format on

RNNKERNELS_BEGIN_NAMESPACE

// One matrix of a layer in panels of pairs: of neighbours in k, [lanes][2] for each pair and each of N vectors.
struct Bf16Matrix : Bf16Products {
  using V = Vec<float>;
  using Number = uint16_t;
  using Multiplier = Bf16Multiplier;
  using State = Bf16s;
  using Reset = SplitBf16s;
  static constexpr int group = bf16_group;
  static constexpr bool rounds = false, fuses = true;
  template <class Storage>
  static constexpr bool multiplies = true;

  int64_t columns, pairs;  // of whole groups
  int N;
  uint16_t* data;

  Bf16Matrix(int64_t K, int N_, int64_t panels, Arena& arena)
      : columns(K), pairs(round_up(K, group) / 2), N(N_), data(arena.take<uint16_t>(panels * panel_size())) {}

  int64_t panel_size() const { return pairs * N * 2 * V::lanes; }
  uint16_t* at(int64_t panel, int64_t pair, int vector) const {
    return data + panel * panel_size() + (vectors_apart ? vector * pairs + pair : pair * N + vector) * 2 * V::lanes;
  }

  V row(int64_t panel, int64_t k, int vector) const {
    const V both = V::load(reinterpret_cast<const float*>(at(panel, k / 2, vector)));
    return k % 2 ? second_of_pairs(both) : first_of_pairs(both);
  }

  Panels panels(Range all, const Tile& tile) const { return Bf16Products::panels(data, pairs, N, all, tile); }
  int64_t K_in_blocks() const { return Bf16Products::K_in_blocks(pairs); }
  bool in_whole_groups() const { return columns % group == 0; }

  using Bf16Products::operand;
  static Rows operand(Halves rows, int64_t stride) { return operand(rows.data, stride); }
  static Rows operand(Bf16s rows, int64_t stride) { return operand(rows.data, stride); }

  // Lane l of a vector is the row of `columns` numbers from[l*across + k*along] for l < count, else 0. Along memory a pair is
  // moved as one float.
  void pack(int64_t panel, int vector, Halves from, int64_t across, int64_t along, int64_t count) const {
    for (int64_t pair = 0; pair < pairs; pair += V::lanes) {
      V square[V::lanes];
      for (int l = 0; l < V::lanes; ++l) square[l] = l < count ? pairs_of(from + l * across, along, 2 * pair) : V(0);
      transpose(square);
      for (int i = 0; i < smaller(V::lanes, pairs - pair); ++i) {
        square[i].store(reinterpret_cast<float*>(at(panel, pair + i, vector)));
      }
    }
  }

  // Rows of x in the order of work.
  struct Copies {
    int64_t K;
    uint16_t* data;

    Copies(int64_t rows, int64_t K_, Arena& arena) : K(K_), data(arena.take<uint16_t>(rows * stride())) {}
    int64_t stride() const { return padded_stride<uint16_t>(round_up(K, group)); }
    Rows from(int64_t row) const { return operand(data + row * stride(), stride()); }
    void set(int64_t row, Halves from) const {
      uint16_t* const to = data + row * stride();
      for (int64_t k = 0; k < K; ++k) to[k] = from.data[k];
      for (int64_t k = K; k < round_up(K, group); ++k) to[k] = 0;
    }
  };

 private:
  V pairs_of(Halves row, int64_t along, int64_t k) const {
    const int n = static_cast<int>(smaller(2 * V::lanes, columns - k));
    if (along == 1) return load_pairs(row.data + k, n);
    uint16_t gathered[2 * V::lanes] = {};
    for (int i = 0; i < n; ++i) gathered[i] = row.data[(k + i) * along];
    return load_pairs(gathered, 2 * V::lanes);
  }
};

RNNKERNELS_END_NAMESPACE
