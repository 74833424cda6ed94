// The instructions of amx.h in C++, to the bit, for machines without them and for sanitizers, which do not see into assembly:
// built where RNNKERNELS_EMULATE_AMX is on (cmake/CpuKernels.cmake), never in a wheel.
#pragma once

RNNKERNELS_BEGIN_NAMESPACE

struct EmulatedTile {
  int rows = 0;
  uint8_t row[tile_rows][tile_row_bytes];
};
inline thread_local EmulatedTile emulated_tiles[8];

inline void configure_tiles(const TileConfig& config) {
  for (int t = 0; t < 8; ++t) emulated_tiles[t] = {config.rows[t], {}};
}
inline void release_tiles() { configure_tiles({}); }

template <int tile>
inline void load_tile(const void* from, int64_t row_bytes) {
  EmulatedTile& t = emulated_tiles[tile];
  for (int r = 0; r < t.rows; ++r) {
    __builtin_memcpy(t.row[r], static_cast<const uint8_t*>(from) + r * row_bytes, tile_row_bytes);
  }
}

template <int tile>
inline void store_tile(void* to, int64_t row_bytes) {
  const EmulatedTile& t = emulated_tiles[tile];
  for (int r = 0; r < t.rows; ++r) {
    __builtin_memcpy(static_cast<uint8_t*>(to) + r * row_bytes, t.row[r], tile_row_bytes);
  }
}

// 0 with the sign of x where x is subnormal.
inline Vec<float> without_subnormals(Vec<float> x) {
  const __mmask16 small = _mm512_cmp_ps_mask(abs(x).v, _mm512_set1_ps(0x1p-126f), _CMP_LT_OQ);
  return _mm512_mask_mul_ps(x.v, small, x.v, _mm512_setzero_ps());
}

template <int sum, int a, int b>
inline void add_bf16_product() {
  using V = Vec<float>;
  const EmulatedTile &left = emulated_tiles[a], &right = emulated_tiles[b];
  EmulatedTile& sums = emulated_tiles[sum];
  const auto load = [](const uint8_t* row) { return V::load(reinterpret_cast<const float*>(row)); };
  for (int r = 0; r < sums.rows; ++r) {
    V even(0), odd(0);
    for (int k = 0; k < right.rows; ++k) {
      float pair;
      __builtin_memcpy(&pair, left.row[r] + 4 * k, sizeof pair);
      const V x(pair), w = load(right.row[k]);
      const auto add = [](V of_x, V of_w, V to) {
        return without_subnormals(fma(without_subnormals(of_x), without_subnormals(of_w), to));
      };
      even = add(first_of_pairs(x), first_of_pairs(w), even);
      odd = add(second_of_pairs(x), second_of_pairs(w), odd);
    }
    const V both = without_subnormals(even + odd);
    float* to = reinterpret_cast<float*>(sums.row[r]);
    without_subnormals(without_subnormals(V::load(to)) + both).store(to);
  }
}

RNNKERNELS_END_NAMESPACE
