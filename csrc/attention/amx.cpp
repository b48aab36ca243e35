// Many query rows in bfloat16 on tiles. Key blocks are packed as the B operands of both products:
// K as [key/16][e/32][16 pairs of e][16 keys][2], V as [key/32][column/16][16 pairs of keys][16 columns][2].
#include "vec/avx512.h"

#include "attention/flow.h"
#include "attention/stream.h"
#include "common/amx.h"

namespace lowbit {
namespace {

inline int64_t depth_of(const Attention* call) { return round_up(call->e, 32); }

int64_t tiles_packed(const Attention* call) { return kKeyBlock * (depth_of(call) + value_columns(call)) * 2; }

void tiles_pack(const Attention* call, const KeyValues* from, int64_t begin, int64_t count, char* packed) {
  const int64_t depth = depth_of(call), columns = value_columns(call);
  uint16_t* out = (uint16_t*)packed;
  for (int64_t key = 0; key < kKeyBlock; key += 16) {
    for (int64_t i = 0; i < depth; i += 32, out += kTile) {
      __m512i r[16];
      for (int64_t j = 0; j < 16; ++j) {
        const __mmask32 mask = key + j < count ? first32(call->e - i) : 0;
        r[j] = _mm512_maskz_loadu_epi16(mask, (const uint16_t*)from->k + (begin + key + j) * call->k.row + i);
      }
      store_transposed(r, out);
    }
  }
  for (int64_t key = 0; key < kKeyBlock; key += 32) {
    for (int64_t i = 0; i < columns; i += 16, out += kTile) {
      for (int64_t j = 0; j < 32; j += 2) {
        const uint16_t* v = (const uint16_t*)from->v + (begin + key + j) * call->v.row + i;
        const __mmask16 mask = first(call->ev - i);
        const __m256i even = _mm256_maskz_loadu_epi16(key + j < count ? mask : 0, v);
        const __m256i odd = _mm256_maskz_loadu_epi16(key + j + 1 < count ? mask : 0, v + call->v.row);
        _mm512_store_si512(out + j * 16, _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16)));
      }
    }
  }
}

struct Tiles {
  static constexpr int64_t kRows = 32;
  static constexpr int kDegree = 3;
  static int64_t padded(int64_t width) { return round_up(width, 32); }

  const AttentionBlock* b;
  const int64_t depth, columns;
  uint16_t *q, *p;  // queries in tiles [row/16][e/32][16][32]; weights [32][kKeyBlock]
  float* s;         // scores [32][kKeyBlock]

  Tiles(const AttentionBlock* block, char* scratch)
      : b(block), depth(depth_of(block->call)), columns(value_columns(block->call)), q((uint16_t*)scratch), p(q + kMostRows * depth),
        s((float*)(p + kRows * kKeyBlock)) {
    const __m512i sign = _mm512_set1_epi16(b->call->scale < 0 ? (short)0x8000 : 0);
    for (int64_t r = 0; r < round_up(b->m, 16); ++r) {
      for (int64_t i = 0; i < depth; i += 32) {
        const __mmask32 mask = r < b->m ? first32(b->call->e - i) : 0;
        const __m512i x = _mm512_maskz_loadu_epi16(mask, (const uint16_t*)b->rows[r < b->m ? r : 0].q + i);
        _mm512_store_si512(q + (r / 16 * depth + i) * 16 + r % 16 * 32, _mm512_xor_si512(x, sign));
      }
    }
  }
  float* row(int64_t index) { return s + index * kKeyBlock; }
  void put(int64_t index, int64_t i, Vec x, Vec y) { _mm512_store_si512(p + index * kKeyBlock + i, (__m512i)_mm512_cvtne2ps_pbh(y.r, x.r)); }
  const uint16_t* keys(int64_t key) const { return (const uint16_t*)(b->source.packed + key / kKeyBlock * tiles_packed(b->call)); }

  template <int M>
  void score_tiles(int64_t from, const uint16_t* k, int64_t width) {
    const uint16_t* a = q + from * depth;
    for (int64_t j = 0; j < width; j += 32) {
      _tile_zero(0);
      _tile_zero(1);
      if (M == 2) _tile_zero(2);
      if (M == 2) _tile_zero(3);
      for (int64_t i = 0; i < depth; i += 32) {
        _tile_loadd(4, a + i * 16, 64);
        _tile_loadd(6, k + j * depth + i * 16, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, k + (j + 16) * depth + i * 16, 64);
        _tile_dpbf16ps(1, 4, 7);
        if (M == 2) _tile_loadd(5, a + (depth + i) * 16, 64);
        if (M == 2) _tile_dpbf16ps(2, 5, 6);
        if (M == 2) _tile_dpbf16ps(3, 5, 7);
      }
      _tile_stored(0, s + j, kKeyBlock * 4);
      _tile_stored(1, s + j + 16, kKeyBlock * 4);
      if (M == 2) _tile_stored(2, s + 16 * kKeyBlock + j, kKeyBlock * 4);
      if (M == 2) _tile_stored(3, s + 16 * kKeyBlock + j + 16, kKeyBlock * 4);
    }
  }
  void scores(int64_t from, int64_t to, int64_t key, int64_t width) {
    if (to - from > 16) score_tiles<2>(from, keys(key), width);
    else score_tiles<1>(from, keys(key), width);
  }

  template <int M>
  void value_tiles(float* total, const uint16_t* v, int64_t width) {
    for (int64_t j = 0; j < columns; j += 32) {
      float* sum = total + j;
      _tile_loadd(0, sum, columns * 4);
      _tile_loadd(1, sum + 16, columns * 4);
      if (M == 2) _tile_loadd(2, sum + 16 * columns, columns * 4);
      if (M == 2) _tile_loadd(3, sum + 16 * columns + 16, columns * 4);
      for (int64_t i = 0; i < width; i += 32) {
        _tile_loadd(4, p + i, kKeyBlock * 2);
        _tile_loadd(6, v + i * columns + j * 32, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, v + i * columns + (j + 16) * 32, 64);
        _tile_dpbf16ps(1, 4, 7);
        if (M == 2) _tile_loadd(5, p + 16 * kKeyBlock + i, kKeyBlock * 2);
        if (M == 2) _tile_dpbf16ps(2, 5, 6);
        if (M == 2) _tile_dpbf16ps(3, 5, 7);
      }
      _tile_stored(0, sum, columns * 4);
      _tile_stored(1, sum + 16, columns * 4);
      if (M == 2) _tile_stored(2, sum + 16 * columns, columns * 4);
      if (M == 2) _tile_stored(3, sum + 16 * columns + 16, columns * 4);
    }
  }
  void accumulate(int64_t from, int64_t to, int64_t key, int64_t width) {
    const uint16_t* v = keys(key) + kKeyBlock * depth;
    if (to - from > 16) value_tiles<2>(b->total + from * columns, v, width);
    else value_tiles<1>(b->total + from * columns, v, width);
  }
};

int64_t tiles_scratch(const Attention* call) {
  return kFlowBytes + kMostRows * depth_of(call) * 2 + Tiles::kRows * kKeyBlock * (2 + 4);
}

template <class Engine>
void with_tiles(const AttentionBlock* b) {
  configure_tiles(16);
  attend<Engine>(b);
  _tile_release();
}

}  // namespace

extern const AttentionKernels attention_stream_bf16_amx, attention_tiles_bf16_amx;
const AttentionKernels attention_stream_bf16_amx = {stream_packed, nullptr, stream_scratch, with_tiles<Stream>, scale_row, divide_row};
const AttentionKernels attention_tiles_bf16_amx = {tiles_packed, tiles_pack, tiles_scratch, with_tiles<Tiles>, scale_row, divide_row};

}  // namespace lowbit
