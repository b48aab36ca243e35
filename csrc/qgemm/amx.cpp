// 2x2 tiles of 16x16 sums, 64 codes of K a step. B tiles are read straight from the packed panel.
#include "common/avx512.h"

namespace lowbit {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tiles 0-3: sums [A half][B half]; 4, 5: A; 6, 7: B.
void configure(int rows) {
  TileConfig config;
  for (int t = 0; t < 8; ++t) {
    config.bytes[t] = 64;
    config.rows[t] = t < 6 ? (uint8_t)rows : 16;
  }
  _tile_loadconfig(&config);
}

inline __m256i pack_bf16(__m512 y) { return (__m256i)_mm512_cvtneps_pbh(y); }

// Rows of 16 or 32 sums (64 int32 bytes a half, rows 128 bytes apart) to outputs.
template <int N>
inline void finish(const QgemmArgs* args, const int32_t* sums, int64_t row, int64_t m, int64_t p) {
  const int64_t kp = args->kp, bytes = panel_bytes_s8(kp);
  __m512 ws[N], bias[N];
  for (int j = 0; j < N; ++j) {
    ws[j] = _mm512_loadu_ps(panel_scales(args->w + (p + j) * bytes, kp));
    bias[j] = args->out.bias ? _mm512_loadu_ps(args->out.bias + (p + j) * 16) : _mm512_setzero_ps();
  }
  const int64_t left = args->out.n - p * 16;
  const __mmask16 last = first(left - (N - 1) * 16);
  const Dtype dtype = args->out.dtype;
  char* out = (char*)args->out.data + (row * args->out.stride + p * 16) * element_size(dtype);
  const int64_t step = args->out.stride * element_size(dtype);
  for (int64_t i = 0; i < m; ++i, out += step) {
    const __m512 sx = _mm512_set1_ps(args->scale[row + i]);
    __m512 y[N];
    for (int j = 0; j < N; ++j) {
      y[j] = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums + i * 32 + j * 16)), sx);
      if (args->exact) y[j] = _mm512_add_ps(y[j], _mm512_loadu_ps(args->exact + ((p + j) * args->m + row + i) * 16));
      y[j] = _mm512_mul_ps(y[j], ws[j]);
      if (args->out.bias) y[j] = _mm512_add_ps(y[j], bias[j]);
    }
    if (dtype == kBF16) {
      if (N == 2) _mm256_storeu_si256((__m256i*)out, pack_bf16(y[0]));
      _mm256_mask_storeu_epi16(out + (N - 1) * 32, last, pack_bf16(y[N - 1]));
    } else {
      if (N == 2) store16(out, dtype, 0, 0xffff, y[0]);
      store16(out, dtype, (N - 1) * 16, last, y[N - 1]);
    }
  }
}

template <int M, int N>
inline void tile(const QgemmArgs* args, int64_t row, int64_t m, int64_t p, int32_t* sums) {
  const int64_t kp = args->kp, bytes = panel_bytes_s8(kp), ldq = args->ldq;
  const int8_t* q = args->q + row * ldq;
  const int8_t* w = args->w + p * bytes;
  _tile_zero(0);
  if (N == 2) _tile_zero(1);
  if (M == 2) _tile_zero(2);
  if (M == 2 && N == 2) _tile_zero(3);
  for (int64_t k = 0; k < kp; k += 64) {
    _tile_loadd(4, q + k, ldq);
    _tile_loadd(6, w + k * 16, 64);
    _tile_dpbssd(0, 4, 6);
    if (N == 2) {
      _tile_loadd(7, w + bytes + k * 16, 64);
      _tile_dpbssd(1, 4, 7);
    }
    if (M == 2) {
      _tile_loadd(5, q + 16 * ldq + k, ldq);
      _tile_dpbssd(2, 5, 6);
      if (N == 2) _tile_dpbssd(3, 5, 7);
    }
  }
  _tile_stored(0, sums, 128);
  if (N == 2) _tile_stored(1, sums + 16, 128);
  if (M == 2) _tile_stored(2, sums + 16 * 32, 128);
  if (M == 2 && N == 2) _tile_stored(3, sums + 16 * 32 + 16, 128);
  finish<N>(args, sums, row, m, p);
}

// All rows against N panels, while lines of the panels that come next are fetched into L2.
template <int N>
void rows_of(const QgemmArgs* args, int64_t p, int32_t* sums) {
  const int64_t bytes = panel_bytes_s8(args->kp), blocks = (args->m + 31) / 32;
  const bool more = p + N + 1 < args->panels;
  const int8_t* next = args->w + (p + N) * bytes;
  const int64_t share = round_up((2 * bytes + blocks - 1) / blocks, 64);
  for (int64_t row = 0; row < args->m; row += 32) {
    if (more) {
      const int64_t start = row / 32 * share;
      for (int64_t b = start; b < start + share && b < 2 * bytes; b += 64) _mm_prefetch((const char*)next + b, _MM_HINT_T1);
    }
    const int64_t m = args->m - row < 32 ? args->m - row : 32;
    if (m > 16) tile<2, N>(args, row, m, p, sums);
    else tile<1, N>(args, row, m, p, sums);
  }
}

}  // namespace

void qgemm_s8s8s32_32x32x64_amx(const QgemmArgs* args) {
  alignas(64) int32_t sums[32 * 32];
  configure(args->m < 16 ? (int)args->m : 16);
  int64_t p = 0;
  for (; p + 2 <= args->panels; p += 2) rows_of<2>(args, p, sums);
  if (p < args->panels) rows_of<1>(args, p, sums);
  _tile_release();
}

}  // namespace lowbit
