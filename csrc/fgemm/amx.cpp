// Integer weights are exact in bfloat16: 2x2 tiles of 16x16 float32 sums, 32 of K a step, from panels widened to bfloat16
// in scratch. The hardware takes bfloat16 subnormals as zero.
#include "common/amx.h"

#include "vec/avx512.h"
#include "formats/vectors.h"

namespace lowbit {
namespace {

inline __m512i pair(__m512i even, __m512i odd) { return _mm512_mask_blend_epi16(0xaaaaaaaau, even, odd); }

// The words of a line as [k/2][16][2] bfloat16, the layout of a B tile. The high half of a small integer's float is its bfloat16.
template <class F>
inline void widen_line(F, __m512i words, uint16_t* b) {
  for (int i = 0; i < F::kCodes; i += 2) {
    const __m512i even = _mm512_castps_si512(code(F{}, Words{words}, i).r), odd = _mm512_castps_si512(code(F{}, Words{words}, i + 1).r);
    _mm512_store_si512(b + i * 16, pair(_mm512_srli_epi32(even, 16), odd));
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
inline __m512i pairs_s4(__m512i words, int c) { return _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4 * c), values_s4()); }

inline void widen_line(S4, __m512i words, uint16_t* b) {
  for (int g = 0; g < 2; ++g) {
    const __m512i even = pairs_s4(words, g), odd = pairs_s4(words, 2 + g);
    _mm512_store_si512(b + 4 * g * 16, pair(even, _mm512_slli_epi32(odd, 16)));
    _mm512_store_si512(b + 4 * g * 16 + 32, pair(_mm512_srli_epi32(even, 16), odd));
  }
}

template <class F>
void widen(const int8_t* panel, int64_t kp, uint16_t* b) {
  for (int64_t k = 0; k < kp; k += F::kCodes) widen_line(F{}, _mm512_loadu_si512(panel + F::code_bytes(k)), b + k * 16);
}

constexpr int64_t kSums = kBlockRows * 32;  // floats of a block: rows of two halves of 16

// A block whose sums are complete, and how many of its rows have been written out (see qgemm/amx.cpp).
struct Pending {
  const float* sums;
  int64_t row, m, panel, panels, done;
};

template <class F>
inline __m512 result(const FgemmArgs* args, const Pending& pending, int64_t half) {
  const int64_t p = pending.panel + half;
  __m512 y = _mm512_load_ps(pending.sums + pending.done * 32 + half * 16);
  if (!F::kGrouped) y = _mm512_mul_ps(y, _mm512_loadu_ps(F::scales(args->w + p * F::bytes(args->kp), args->kp)));
  return args->out.bias ? _mm512_add_ps(y, _mm512_loadu_ps(args->out.bias + p * 16)) : y;
}

template <class F>
inline void finish(const FgemmArgs* args, Pending& pending, int64_t rows) {
  const int64_t stop = least(pending.done + rows, pending.m), column = pending.panel * 16, left = args->out.n - column;
  const Dtype dtype = args->out.dtype;
  for (; pending.done < stop; ++pending.done) {
    const __m512 y = result<F>(args, pending, 0), z = pending.panels == 2 ? result<F>(args, pending, 1) : _mm512_setzero_ps();
    char* out = (char*)args->out.data + ((pending.row + pending.done) * args->out.stride + column) * element_size(dtype);
    store_two(out, dtype, least(left, pending.panels * 16), y, z);
  }
}

// M x N tiles over K from start to stop. A few rows of `pending` follow each step.
template <class F, int M, int N>
inline void product_of(const FgemmArgs* args, const uint16_t* a, const uint16_t* b, int64_t start, int64_t stop, float* sums, Pending& pending,
                       int64_t share) {
  const int64_t half = args->kp * 32;
  zero_tiles<M, N>();
  multiply_tiles<Bfloats, M, N>(a + start * 16, half, b + start * 16, half, (stop - start) * 2, [&](int64_t) { finish<F>(args, pending, share); });
  store_tiles<M, N>(sums);
}

// The sums of each group meet the group's scales.
template <class F, int M, int N>
inline void groups_of(const FgemmArgs* args, const uint16_t* a, const uint16_t* b, int64_t m, int64_t p, float* total, Pending& pending,
                      int64_t share) {
  alignas(64) float sums[kSums];
  const int64_t bytes = F::bytes(args->kp, args->group);
  for (int64_t k = 0; k < args->kp; k += args->group) {
    product_of<F, M, N>(args, a, b, k, k + args->group, sums, pending, share);
    for (int j = 0; j < N; ++j) {
      const __m512 scale = _mm512_loadu_ps(F::scales(args->w + (p + j) * bytes, args->kp) + k / args->group * 16);
      for (int64_t i = j * 16; i < m * 32; i += 32) {
        const __m512 before = k ? _mm512_load_ps(total + i) : _mm512_setzero_ps();
        _mm512_store_ps(total + i, _mm512_fmadd_ps(_mm512_load_ps(sums + i), scale, before));
      }
    }
  }
}

template <class F, int M, int N>
inline void block(const FgemmArgs* args, int64_t row, int64_t m, int64_t p, const uint16_t* b, float* sums, Pending& pending) {
  const uint16_t* a = (const uint16_t*)args->x + row * args->kp;
  const int64_t steps = args->kp / 32, share = (pending.m - pending.done + steps - 1) / steps;
  if (F::kGrouped) groups_of<F, M, N>(args, a, b, m, p, sums, pending, share);
  else product_of<F, M, N>(args, a, b, 0, args->kp, sums, pending, share);
}

template <class F, int N>
inline void rows_of(const FgemmArgs* args, int64_t row, int64_t p, const uint16_t* b, float* sums, Pending& pending) {
  const int64_t m = least(args->m - row, kBlockRows);
  if (m > 16) block<F, 2, N>(args, row, m, p, b, sums, pending);
  else block<F, 1, N>(args, row, m, p, b, sums, pending);
  finish<F>(args, pending, kBlockRows);
  pending = {sums, row, m, p, N, 0};
}

// A chunk of panels is widened into L2, where it stays while rows pass by (see qgemm/amx.cpp).
template <class F>
void chunk_of(const FgemmArgs* args, int64_t begin, int64_t end, float (*sums)[kSums], int& slot, Pending& pending) {
  const int64_t kp = args->kp, size = kp * kPanel;
  uint16_t* b = (uint16_t*)args->scratch;
  for (int64_t p = begin; p < end; ++p) widen<F>(args->w + p * F::bytes(kp, args->group), kp, b + (p - begin) * size);
  for (int64_t row = 0; row < args->m; row += kBlockRows) {
    for (int64_t p = begin; p < end; p += 2) {
      slot ^= 1;
      if (p + 2 <= end) rows_of<F, 2>(args, row, p, b + (p - begin) * size, sums[slot], pending);
      else rows_of<F, 1>(args, row, p, b + (p - begin) * size, sums[slot], pending);
    }
  }
}

template <class F>
void product(const FgemmArgs* args) {
  alignas(64) float sums[2][kSums];
  int slot = 0;
  Pending pending = {sums[0], 0, 0, 0, 0, 0};
  // Few rows read a panel once or twice: widened in pairs, it is still near.
  const int64_t chunk = args->m <= 2 * kBlockRows ? 2 : even_chunk(args->panels, fgemm_scratch(args->kp) / (args->kp * kPanel * 2));
  configure_tiles(least(args->m, 16));
  for (int64_t p = 0; p < args->panels; p += chunk) chunk_of<F>(args, p, least(p + chunk, args->panels), sums, slot, pending);
  finish<F>(args, pending, kBlockRows);
  _tile_release();
}

}  // namespace

#define DEFINE(name, Format) \
  void fgemm_bf16##name##_32x32x32_amx(const FgemmArgs* args) { product<Format>(args); }
LOWBIT_FORMATS(DEFINE)

}  // namespace lowbit
