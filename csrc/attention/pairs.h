// Operands of products of bfloat16 pairs, on tiles (amx.cpp) or in vectors (bf16.cpp). Key blocks are packed as
// K [key/16][e/32][16 pairs of e][16 keys][2] and V [key/32][column/16][16 pairs of keys][16 columns][2]. Include AVX-512 first.
#pragma once
#include "attention/attention.h"
#include "attention/transpose.h"

namespace lowbit {
namespace {

// 32 elements of query row r with the sign of the scale; past its end, and past the last row, zeros.
inline __m512i query_part(const AttentionBlock* b, int64_t r, int64_t i) {
  const bool real = r < b->m;
  const __m512i x = _mm512_maskz_loadu_epi16(real ? first32(b->call->e - i) : 0, (const uint16_t*)b->rows[real ? r : 0].q + i);
  return _mm512_xor_si512(x, _mm512_set1_epi16(b->call->scale < 0 ? (short)0x8000 : 0));
}

inline int64_t depth_of(const Attention* call) { return round_up(call->e > 0 ? call->e : 1, 32); }  // a product has one step at least

int64_t pairs_packed(const Attention* call) { return kKeyBlock * (depth_of(call) + value_columns(call)) * 2; }

void pairs_pack(const Attention* call, const KeyValues* from, int64_t begin, int64_t count, char* packed) {
  const int64_t depth = depth_of(call), columns = value_columns(call);
  uint16_t* out = (uint16_t*)packed;
  const int64_t padded = round_up(count, 32);  // the tiles that any product reads
  for (int64_t key = 0; key < padded; key += 16) {
    for (int64_t i = 0; i < depth; i += 32, out += kTile) {
      __m512i r[16];
      for (int64_t j = 0; j < 16; ++j) {
        const __mmask32 mask = key + j < count ? first32(call->e - i) : 0;
        r[j] = _mm512_maskz_loadu_epi16(mask, (const uint16_t*)from->k + (begin + key + j) * call->k.row + i);
      }
      store_transposed(r, out);
    }
  }
  out = (uint16_t*)packed + kKeyBlock * depth;
  for (int64_t key = 0; key < padded; key += 32) {
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

// As divide_row(), in the hardware's rounding, which takes subnormals as zero.
void pairs_divide(const float* total, float sum, int64_t n, Dtype, void* out) {
  const __m512 factor = _mm512_set1_ps(sum == 0.0f ? 0.0f : 1.0f / sum);
  for (int64_t i = 0; i < n; i += 32) {
    const __m512 low = _mm512_mul_ps(_mm512_loadu_ps(total + i), factor), high = _mm512_mul_ps(_mm512_loadu_ps(total + i + 16), factor);
    _mm512_mask_storeu_epi16((uint16_t*)out + i, first32(n - i), (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
}

}  // namespace
}  // namespace lowbit
