// AMX of an x86-64 CPU, beside AVX-512: eight tiles of up to 16 rows of 64 bytes, and products of two that are added to a third
// (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2: LDTILECFG, TILELOADD, TDPBF16PS). The
// instructions stand here as assembly, since compilers' functions for them take no template's number of a tile.
//
// A product of 16-bit numbers adds, for each lane, the sum over the even and the sum over the odd of 32 terms, each a chain of
// fused multiply-adds from 0; subnormal numbers count as 0.
#pragma once

#include "avx512.h"

RNNKERNELS_BEGIN_NAMESPACE

constexpr int tile_rows = 16, tile_row_bytes = 64;

// What a thread's tiles are shaped for. Sums 0 and 1 and left operand 4 have `top` rows; sums 2 and 3 and left operand 5 have
// `bottom`; right operands 6 and 7 are full. Loading a shape takes as long as a dozen products, so it stays until it changes.
class TileShapes {
 public:
  TileShapes() = default;
  TileShapes(const TileShapes&) = delete;
  TileShapes& operator=(const TileShapes&) = delete;
  ~TileShapes() {
    if (top_) asm volatile("tilerelease");
  }

  void set(int top, int bottom) {
    if (top == top_ && bottom == bottom_) return;
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes_of_row[16] = {};
      uint8_t rows[16] = {};
    } config;
    const int rows[8] = {top, top, bottom, bottom, top, bottom, tile_rows, tile_rows};
    for (int t = 0; t < 8; ++t) {
      config.bytes_of_row[t] = tile_row_bytes;
      config.rows[t] = static_cast<uint8_t>(rows[t]);
    }
    asm volatile("ldtilecfg %0" : : "m"(config));
    top_ = top, bottom_ = bottom;
  }

 private:
  int top_ = 0, bottom_ = 0;  // 0: none yet
};

template <int tile>
inline void load_tile(const void* from, int64_t row_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(row_bytes), "i"(tile) : "memory");
}

template <int tile>
inline void store_tile(void* to, int64_t row_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(row_bytes), "i"(tile) : "memory");
}

template <int sum, int a, int b>
inline void add_bf16_product() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sum), "i"(a), "i"(b));
}

RNNKERNELS_END_NAMESPACE
