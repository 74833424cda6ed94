// Philox 4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
// The same (key, counter) gives the same bits in NumPy (reference/philox.py), C++ and CUDA, whatever the order of work.
#pragma once

#include <cstdint>

#include "namespace.h"

RNNKERNELS_BEGIN_NAMESPACE

struct Philox {
  uint32_t word[4];
};

RNNKERNELS_INLINE Philox philox(uint64_t key, const Philox& counter) {
  constexpr uint32_t multiplier[2] = {0xD2511F53u, 0xCD9E8D57u};
  constexpr uint32_t weyl[2] = {0x9E3779B9u, 0xBB67AE85u};
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  Philox x = counter;
  for (int round = 0; round < 10; ++round) {
    uint64_t p0 = uint64_t(multiplier[0]) * x.word[0];
    uint64_t p1 = uint64_t(multiplier[1]) * x.word[2];
    x = {{static_cast<uint32_t>(p1 >> 32) ^ x.word[1] ^ k0, static_cast<uint32_t>(p1),
          static_cast<uint32_t>(p0 >> 32) ^ x.word[3] ^ k1, static_cast<uint32_t>(p0)}};
    k0 += weyl[0];
    k1 += weyl[1];
  }
  return x;
}

// Dropout between layers: element e of a layer's output takes word e%4 of block e/4 and lives iff its upper 24 bits
// reach p * 2^24.
RNNKERNELS_INLINE Philox dropout_block(uint64_t key, uint64_t block, uint32_t layer) {
  return philox(key, {{static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), layer, 0}});
}

RNNKERNELS_INLINE bool dropout_keeps(uint32_t word, uint32_t threshold) { return (word >> 8) >= threshold; }

RNNKERNELS_END_NAMESPACE
