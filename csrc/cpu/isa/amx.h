// AMX of an x86-64 CPU, beside AVX-512: eight tiles of up to 16 rows of 64 bytes, and products of two that are added to a third
// (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2: LDTILECFG, TILELOADD, TDPBF16PS). The
// instructions stand here as assembly, since compilers' functions for them take no template's number of a tile.
//
// A product of 16-bit numbers adds, for each lane, the sum over the even and the sum over the odd of 32 terms, each a chain of
// fused multiply-adds from 0; subnormal numbers count as 0.
#pragma once

#include "pairs.h"

RNNKERNELS_BEGIN_NAMESPACE

constexpr int tile_rows = 16, tile_row_bytes = 64;
constexpr int bf16_group = 32;  // terms of a product of tiles

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_of_row[16] = {};
  uint8_t rows[16] = {};
};

RNNKERNELS_END_NAMESPACE

#if defined(RNNKERNELS_EMULATE_AMX)
#include "emulated_amx.h"
#else
RNNKERNELS_BEGIN_NAMESPACE

inline void configure_tiles(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
inline void release_tiles() { asm volatile("tilerelease"); }

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
#endif

RNNKERNELS_BEGIN_NAMESPACE

// What this thread's tiles are shaped for; 0: nothing.
struct TileShape {
  int top = 0, bottom = 0;
};
inline thread_local TileShape tile_shape;

// Sums 0 and 1 and left operand 4 get `top` rows; sums 2 and 3 and left operand 5 `bottom`; right operands 6 and 7 are full.
// That takes as long as a dozen products, so a shape stays until it changes.
inline void shape_tiles(int top, int bottom) {
  if (top == tile_shape.top && bottom == tile_shape.bottom) return;
  const int rows[8] = {top, top, bottom, bottom, top, bottom, tile_rows, tile_rows};
  TileConfig config;
  for (int t = 0; t < 8; ++t) {
    config.bytes_of_row[t] = tile_row_bytes;
    config.rows[t] = static_cast<uint8_t>(rows[t]);
  }
  configure_tiles(config);
  tile_shape = {top, bottom};
}

// While a thread multiplies. Afterwards its tiles need not be saved any more when it makes room for another.
struct Bf16Multiplier {
  Bf16Multiplier() = default;
  Bf16Multiplier(const Bf16Multiplier&) = delete;
  Bf16Multiplier& operator=(const Bf16Multiplier&) = delete;
  ~Bf16Multiplier() {
    if (tile_shape.top == 0) return;
    release_tiles();
    tile_shape = {};
  }
};

RNNKERNELS_END_NAMESPACE
