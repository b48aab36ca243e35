// Few query rows in bfloat16 on tiles, K and V read once and where they are: scores come as K Q^T, whose left operand is K itself;
// for the weighted sum, rows of V are interleaved on their way to a tile.
#pragma once
#include "attention/flow.h"
#include "attention/pairs.h"

namespace lowbit {
namespace {

struct Stream {
  static constexpr int64_t kRows = 16;
  static constexpr int kDegree = 3;
  static constexpr int kBuffers = 4;  // interleaved tiles in flight
  static int64_t padded(int64_t width) { return round_up(width, 32); }

  const AttentionBlock* b;
  const int64_t depth, columns;
  uint16_t *q, *p, *wide;  // queries in tiles [row/16][e/32][16 pairs of e][16 rows][2]; weights [16][kKeyBlock]; tiles on their way
  float* s;                // scores [16][kKeyBlock]

  Stream(const AttentionBlock* block, char* scratch)
      : b(block), depth(round_up(block->call->e, 32)), columns(value_columns(block->call)), q((uint16_t*)scratch), p(q + kMostRows * depth),
        wide(p + kRows * kKeyBlock), s((float*)(wide + kBuffers * 2 * kTile)) {
    uint16_t* out = q;
    for (int64_t top = 0; top < b->m; top += 16) {
      for (int64_t i = 0; i < depth; i += 32, out += kTile) {
        __m512i r[16];
        for (int64_t j = 0; j < 16; ++j) r[j] = query_part(b, top + j, i);
        store_transposed(r, out);
      }
    }
  }
  float* row(int64_t index) { return s + index * kKeyBlock; }
  void put(int64_t index, int64_t i, Vec x, Vec y) { _mm512_store_si512(p + index * kKeyBlock + i, (__m512i)_mm512_cvtne2ps_pbh(y.r, x.r)); }

  // 16 keys against 16 queries; a tile that would read past K, or past a row into what is not a number, is copied.
  void score_tile(const uint16_t* queries, const uint16_t* k, int64_t count, float* out) {
    const int64_t e = b->call->e, stride = b->call->k.row;
    _tile_zero(0);
    for (int64_t i = 0; i < depth; i += 32) {
      if (count >= 16 && i + 32 <= e) {
        _tile_loadd(4, k + i, stride * 2);
      } else {
        for (int64_t j = 0; j < 16; ++j) {
          _mm512_store_si512(wide + j * 32, _mm512_maskz_loadu_epi16(j < count ? first32(e - i) : 0, k + (j < count ? j : 0) * stride + i));
        }
        _tile_loadd(4, wide, 64);
      }
      _tile_loadd(6, queries + i * 16, 64);
      _tile_dpbf16ps(0, 4, 6);
    }
    alignas(64) float sums[16][16];
    _tile_stored(0, sums, 64);
    __m512i r[16];
    for (int j = 0; j < 16; ++j) r[j] = _mm512_load_si512(sums[j]);
    transpose16(r);
    for (int64_t j = 0; j < 16; ++j) _mm512_store_si512(out + j * kKeyBlock, r[j]);
  }
  void scores(const Item& item) {
    for (int64_t top = 0; top < item.width; top += 16) {
      score_tile(q + item.from * depth, (const uint16_t*)b->source.k + (item.key + top) * b->call->k.row, item.width - top, s + top);
    }
  }

  // Rows 2j and 2j+1 of V side by side: two tiles of 16 columns.
  void interleave(const uint16_t* v, int64_t count, __mmask32 mask, uint16_t* out) {
    const int64_t stride = b->call->v.row;
    const __m512i low = _mm512_load_si512(kInterleave[0]), high = _mm512_load_si512(kInterleave[1]);
    for (int64_t j = 0; j < 32; j += 2) {
      const __m512i even = _mm512_maskz_loadu_epi16(j < count ? mask : 0, v + j * stride);
      const __m512i odd = _mm512_maskz_loadu_epi16(j + 1 < count ? mask : 0, v + (j + 1) * stride);
      _mm512_store_si512(out + j * 16, _mm512_permutex2var_epi16(even, low, odd));
      _mm512_store_si512(out + kTile + j * 16, _mm512_permutex2var_epi16(even, high, odd));
    }
  }
  void accumulate(const Item& item) {
    int64_t buffer = 0;
    for (int64_t column = 0; column < columns; column += 32) {
      const uint16_t* v = (const uint16_t*)b->source.v + item.key * b->call->v.row + column;
      float* total = b->total + item.from * columns + column;
      _tile_loadd(0, total, columns * 4);
      _tile_loadd(1, total + 16, columns * 4);
      for (int64_t i = 0; i < item.width; i += 32, ++buffer) {
        uint16_t* tiles = wide + buffer % kBuffers * 2 * kTile;
        interleave(v + i * b->call->v.row, item.width - i, first32(b->call->ev - column), tiles);
        _tile_loadd(4, p + i, kKeyBlock * 2);
        _tile_loadd(6, tiles, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, tiles + kTile, 64);
        _tile_dpbf16ps(1, 4, 7);
      }
      _tile_stored(0, total, columns * 4);
      _tile_stored(1, total + 16, columns * 4);
    }
  }
};

int64_t stream_packed(const Attention*) { return 0; }

int64_t stream_scratch(const Attention* call) {
  return RowState::kBytes + kMostRows * round_up(call->e, 32) * 2 + Stream::kRows * kKeyBlock * (2 + 4) + Stream::kBuffers * 2 * kTile * 2;
}

}  // namespace
}  // namespace lowbit
