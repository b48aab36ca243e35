// Transposes for tiles: pairs of bfloat16 move as 32 bits.
#pragma once
#include "common/avx512.h"

namespace lowbit {
namespace {

constexpr int64_t kTile = 512;  // bfloat16 elements of a tile

// For permutex2var: elements 0-15 (and 16-31) of two rows, alternating.
alignas(64) constexpr uint16_t kInterleave[2][32] = {
    {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
    {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55, 24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};

inline void store_transposed(__m512i* r, uint16_t* out) {
  transpose16(r);
  for (int64_t j = 0; j < 16; ++j) _mm512_store_si512(out + j * 32, r[j]);
}

}  // namespace
}  // namespace lowbit
