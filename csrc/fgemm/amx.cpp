// Integer weights are exact in bfloat16: 2x2 tiles of 16x16 float32 sums, 32 of K a step, from panels widened to bfloat16
// in scratch. The hardware takes bfloat16 subnormals as zero.
#include "common/amx.h"
#include "common/avx512.h"

namespace lowbit {
namespace {

inline __m512i pair(__m512i even, __m512i odd) { return _mm512_mask_blend_epi16(0xaaaaaaaau, even, odd); }

inline __m512i code_s8(__m512i lanes, int b) {
  return _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(lanes, 24 - 8 * b), 24)));
}

// [kp/2][16][2] bfloat16, the layout of a B tile. The high half of a small integer's float is its bfloat16.
void widen_s8(const int8_t* panel, int64_t kp, uint16_t* b) {
  for (int64_t k = 0; k < kp; k += 4) {
    const __m512i lanes = _mm512_loadu_si512(panel + k * 16);
    _mm512_store_si512(b + k * 16, pair(_mm512_srli_epi32(code_s8(lanes, 0), 16), code_s8(lanes, 1)));
    _mm512_store_si512(b + k * 16 + 32, pair(_mm512_srli_epi32(code_s8(lanes, 2), 16), code_s8(lanes, 3)));
  }
}

// bfloat16 -8..7, twice: vpermw reads five bits, the fifth is a neighbour's.
inline __m512i values_s4() {
  const __m512i once = _mm512_castsi256_si512(_mm256_setr_epi16(
      (short)0xc100, (short)0xc0e0, (short)0xc0c0, (short)0xc0a0, (short)0xc080, (short)0xc040, (short)0xc000, (short)0xbf80, 0,
      0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0));
  return _mm512_inserti64x4(once, _mm512_castsi512_si256(once), 1);
}

// Halves of 16 bits: nibble c of bytes (0, 2) for c = 0, 1 and of bytes (1, 3) for c = 2, 3; odd c is the next k-group.
inline __m512i pairs_s4(__m512i lanes, int c, __m512i values) { return _mm512_permutexvar_epi16(_mm512_srli_epi16(lanes, 4 * c), values); }

void widen_s4(const int8_t* panel, int64_t kp, uint16_t* b) {
  const __m512i values = values_s4();
  for (int64_t k = 0; k < kp; k += 8) {
    const __m512i lanes = _mm512_loadu_si512(panel + k * 8);
    for (int g = 0; g < 2; ++g) {
      const __m512i even = pairs_s4(lanes, g, values), odd = pairs_s4(lanes, 2 + g, values);
      _mm512_store_si512(b + (k + 4 * g) * 16, pair(even, _mm512_slli_epi32(odd, 16)));
      _mm512_store_si512(b + (k + 4 * g) * 16 + 32, pair(_mm512_srli_epi32(even, 16), odd));
    }
  }
}

constexpr int64_t kSums = kBlockRows * 32;  // floats of a block: rows of two halves of 16

// A block whose sums are complete, and how many of its rows have been written out (see qgemm/amx.cpp).
struct Pending {
  const float* sums;
  int64_t row, m, panel, panels, done;
};

inline __m512 scaled(const FgemmArgs* args, const Pending& pending, int64_t half) {
  const int64_t p = pending.panel + half;
  __m512 y = _mm512_load_ps(pending.sums + pending.done * 32 + half * 16);
  if (args->group == 0) y = _mm512_mul_ps(y, _mm512_loadu_ps(panel_scales(args->w + p * panel_bytes_s8(args->kp), args->kp)));
  return args->out.bias ? _mm512_add_ps(y, _mm512_loadu_ps(args->out.bias + p * 16)) : y;
}

inline void finish(const FgemmArgs* args, Pending& pending, int64_t rows) {
  const int64_t stop = least(pending.done + rows, pending.m), column = pending.panel * 16, left = args->out.n - column;
  const Dtype dtype = args->out.dtype;
  for (; pending.done < stop; ++pending.done) {
    const __m512 y = scaled(args, pending, 0), z = pending.panels == 2 ? scaled(args, pending, 1) : _mm512_setzero_ps();
    char* out = (char*)args->out.data + ((pending.row + pending.done) * args->out.stride + column) * element_size(dtype);
    store_two(out, dtype, least(left, pending.panels * 16), y, z);
  }
}

// M x N tiles over K from start to stop. A few rows of `pending` follow each step.
template <int M, int N>
inline void product_of(const FgemmArgs* args, const uint16_t* a, const uint16_t* b, int64_t start, int64_t stop, float* sums, Pending& pending,
                       int64_t share) {
  const int64_t half = args->kp * 32;
  zero_tiles<M, N>();
  multiply_tiles<Bfloats, M, N>(a + start * 16, half, b + start * 16, half, (stop - start) * 2, [&](int64_t) { finish(args, pending, share); });
  store_tiles<M, N>(sums);
}

// int4: the sums of each group meet the group's scales.
template <int M, int N>
inline void groups_of(const FgemmArgs* args, const uint16_t* a, const uint16_t* b, int64_t m, int64_t p, float* total, Pending& pending,
                      int64_t share) {
  alignas(64) float sums[kSums];
  const int64_t bytes = panel_bytes(args->kp, args->group);
  for (int64_t k = 0; k < args->kp; k += args->group) {
    product_of<M, N>(args, a, b, k, k + args->group, sums, pending, share);
    for (int j = 0; j < N; ++j) {
      const __m512 scale = _mm512_loadu_ps(panel_group_scales(args->w + (p + j) * bytes, args->kp) + k / args->group * 16);
      for (int64_t i = j * 16; i < m * 32; i += 32) {
        const __m512 before = k ? _mm512_load_ps(total + i) : _mm512_setzero_ps();
        _mm512_store_ps(total + i, _mm512_fmadd_ps(_mm512_load_ps(sums + i), scale, before));
      }
    }
  }
}

template <int M, int N>
inline void block(const FgemmArgs* args, int64_t row, int64_t m, int64_t p, const uint16_t* b, float* sums, Pending& pending) {
  const uint16_t* a = (const uint16_t*)args->x + row * args->kp;
  const int64_t steps = args->kp / 32, share = (pending.m - pending.done + steps - 1) / steps;
  if (args->group) groups_of<M, N>(args, a, b, m, p, sums, pending, share);
  else product_of<M, N>(args, a, b, 0, args->kp, sums, pending, share);
}

template <int N>
inline void rows_of(const FgemmArgs* args, int64_t row, int64_t p, const uint16_t* b, float* sums, Pending& pending) {
  const int64_t m = least(args->m - row, kBlockRows);
  if (m > 16) block<2, N>(args, row, m, p, b, sums, pending);
  else block<1, N>(args, row, m, p, b, sums, pending);
  finish(args, pending, kBlockRows);
  pending = {sums, row, m, p, N, 0};
}

// A chunk of panels is widened into L2, where it stays while rows pass by (see qgemm/amx.cpp).
void chunk_of(const FgemmArgs* args, int64_t begin, int64_t end, float (*sums)[kSums], int& slot, Pending& pending) {
  const int64_t kp = args->kp, size = kp * kPanel;
  uint16_t* b = (uint16_t*)args->scratch;
  for (int64_t p = begin; p < end; ++p) {
    const int8_t* panel = args->w + p * panel_bytes(kp, args->group);
    if (args->group) widen_s4(panel, kp, b + (p - begin) * size);
    else widen_s8(panel, kp, b + (p - begin) * size);
  }
  for (int64_t row = 0; row < args->m; row += kBlockRows) {
    for (int64_t p = begin; p < end; p += 2) {
      slot ^= 1;
      if (p + 2 <= end) rows_of<2>(args, row, p, b + (p - begin) * size, sums[slot], pending);
      else rows_of<1>(args, row, p, b + (p - begin) * size, sums[slot], pending);
    }
  }
}

void product(const FgemmArgs* args) {
  alignas(64) float sums[2][kSums];
  int slot = 0;
  Pending pending = {sums[0], 0, 0, 0, 0, 0};
  // Few rows read a panel once or twice: widened in pairs, it is still near.
  const int64_t chunk = args->m <= 2 * kBlockRows ? 2 : even_chunk(args->panels, fgemm_scratch(args->kp) / (args->kp * kPanel * 2));
  configure_tiles(least(args->m, 16));
  for (int64_t p = 0; p < args->panels; p += chunk) chunk_of(args, p, least(p + chunk, args->panels), sums, slot, pending);
  finish(args, pending, kBlockRows);
  _tile_release();
}

}  // namespace

void fgemm_bf16s8_32x32x32_amx(const FgemmArgs* args) { product(args); }
void fgemm_bf16s4_32x32x32_amx(const FgemmArgs* args) { product(args); }

}  // namespace lowbit
