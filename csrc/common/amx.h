// Products on tiles: 0-3 hold sums [half of A][half of B], 4 and 5 halves of A, 6 and 7 halves of B.
#pragma once
#include <immintrin.h>
#include <stdint.h>

#include "common/avx512.h"

namespace lowbit {

constexpr int64_t kBlockRows = 32;  // of sums: two tiles

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};

// Tiles of A and of sums have `rows` rows, all have 64 bytes a row. _tile_release() must follow.
static inline void configure_tiles(int64_t rows) {
  TileConfig config = {};
  config.palette = 1;
  for (int t = 0; t < 8; ++t) {
    config.bytes[t] = 64;
    config.rows[t] = t < 6 ? (uint8_t)rows : 16;
  }
  asm volatile("" : : "r"(&config) : "memory");  // GCC takes the intrinsic to read 8 bytes only, and may drop the other stores
  _tile_loadconfig(&config);
}

// GCC does not know that tile loads read memory, and may move stores past them.
static inline void tiles_read_memory() { asm volatile("" : : : "memory"); }

// The first `count` of 32 results side by side. Bfloat16 as the hardware rounds it, which takes subnormals as zero.
static inline void store_two(void* out, Dtype dtype, int64_t count, __m512 low, __m512 high) {
  if (dtype == kBF16) {
    _mm512_mask_storeu_epi16(out, first32(count), (__m512i)_mm512_cvtne2ps_pbh(high, low));
  } else {
    store16(out, dtype, 0, first(count), low);
    store16(out, dtype, 16, first(count - 16), high);
  }
}

template <int M, int N>
static inline void zero_tiles() {
  _tile_zero(0);
  if (N == 2) _tile_zero(1);
  if (M == 2) _tile_zero(2);
  if (M == 2 && N == 2) _tile_zero(3);
}

// Sums are rows of two halves of 16.
template <int M, int N>
static inline void store_tiles(void* sums) {
  _tile_stored(0, sums, 128);
  if (N == 2) _tile_stored(1, (char*)sums + 64, 128);
  if (M == 2) _tile_stored(2, (char*)sums + 16 * 128, 128);
  if (M == 2 && N == 2) _tile_stored(3, (char*)sums + 16 * 128 + 64, 128);
}

struct Codes {
  template <int M, int N>
  static inline void multiply() {
    _tile_dpbssd(0, 4, 6);
    if (N == 2) _tile_dpbssd(1, 4, 7);
    if (M == 2) _tile_dpbssd(2, 5, 6);
    if (M == 2 && N == 2) _tile_dpbssd(3, 5, 7);
  }
};

struct Bfloats {
  template <int M, int N>
  static inline void multiply() {
    _tile_dpbf16ps(0, 4, 6);
    if (N == 2) _tile_dpbf16ps(1, 4, 7);
    if (M == 2) _tile_dpbf16ps(2, 5, 6);
    if (M == 2 && N == 2) _tile_dpbf16ps(3, 5, 7);
  }
};

// Adds a block's products, `bytes` of K a row; halves of A and B are `a_half` and `b_half` bytes apart. After each tile's depth
// comes step(). The loads come first and together: with the tile unit shared by two threads of a core, products that follow
// loads one by one run at four fifths of that speed (measured).
template <class Element, int M, int N, class F>
static inline void multiply_tiles(const void* a, int64_t a_half, const void* b, int64_t b_half, int64_t bytes, const F& step) {
  const char *left = (const char*)a, *right = (const char*)b;
  tiles_read_memory();
  for (int64_t k = 0; k < bytes * 16; k += 1024) {
    _tile_loadd(4, left + k, 64);
    _tile_loadd(6, right + k, 64);
    if (N == 2) _tile_loadd(7, right + b_half + k, 64);
    if (M == 2) _tile_loadd(5, left + a_half + k, 64);
    Element::template multiply<M, N>();
    step(k);
  }
}

}  // namespace lowbit
