// Weights in bfloat16: 2x2 tiles of 16x16 float32 sums, 32 of K a step, from panels widened to bfloat16 in scratch. The hardware takes bfloat16
// subnormals as zero.
#include "common/amx.h"

#include "fgemm/widen.h"

namespace lowbit {
namespace {

// How the panels of a format are read.
struct Weights {
  int64_t bytes;   // of a panel
  int64_t scales;  // where float[16] scales of its rows are in it; negative where the widened numbers have theirs
  void (*widen)(const int8_t* panel, int64_t kp, int64_t group, uint16_t* b);
};

constexpr int64_t kSums = kBlockRows * 32;  // floats of a block: rows of two halves of 16

// A block whose sums are complete, and how many of its rows have been written out (see qgemm/amx.cpp).
struct Pending {
  const float* sums;
  int64_t row, m, panel, panels, done;
};

inline __m512 result(const FgemmArgs* args, const Weights& weights, const Pending& pending, int64_t half) {
  const int64_t p = pending.panel + half;
  __m512 y = _mm512_load_ps(pending.sums + pending.done * 32 + half * 16);
  if (weights.scales >= 0) y = _mm512_mul_ps(y, _mm512_loadu_ps((const float*)(args->w + p * weights.bytes + weights.scales)));
  return args->out.bias ? _mm512_add_ps(y, _mm512_loadu_ps(args->out.bias + p * 16)) : y;
}

inline void finish(const FgemmArgs* args, const Weights& weights, Pending& pending, int64_t rows) {
  const int64_t stop = least(pending.done + rows, pending.m), column = pending.panel * 16, left = args->out.n - column;
  const Dtype dtype = args->out.dtype;
  for (; pending.done < stop; ++pending.done) {
    const __m512 y = result(args, weights, pending, 0), z = pending.panels == 2 ? result(args, weights, pending, 1) : _mm512_setzero_ps();
    char* out = (char*)args->out.data + ((pending.row + pending.done) * args->out.stride + column) * element_size(dtype);
    store_two(out, dtype, least(left, pending.panels * 16), y, z);
  }
}

// M x N tiles. A few rows of `pending` follow each step.
template <int M, int N>
inline void block(const FgemmArgs* args, const Weights& weights, int64_t row, const uint16_t* b, float* sums, Pending& pending) {
  const uint16_t* a = (const uint16_t*)args->x + row * args->kp;
  const int64_t half = args->kp * 32, steps = args->kp / 32, share = (pending.m - pending.done + steps - 1) / steps;
  zero_tiles<M, N>();
  multiply_tiles<Bfloats, M, N>(a, half, b, half, args->kp * 2, [&](int64_t) { finish(args, weights, pending, share); });
  store_tiles<M, N>(sums);
}

template <int N>
inline void rows_of(const FgemmArgs* args, const Weights& weights, int64_t row, int64_t p, const uint16_t* b, float* sums, Pending& pending) {
  const int64_t m = least(args->m - row, kBlockRows);
  if (m > 16) block<2, N>(args, weights, row, b, sums, pending);
  else block<1, N>(args, weights, row, b, sums, pending);
  finish(args, weights, pending, kBlockRows);
  pending = {sums, row, m, p, N, 0};
}

// A chunk of panels is widened into L2, where it stays while rows pass by (see qgemm/amx.cpp).
void chunk_of(const FgemmArgs* args, const Weights& weights, int64_t begin, int64_t end, float (*sums)[kSums], int& slot, Pending& pending) {
  const int64_t kp = args->kp, size = kp * kPanel;
  uint16_t* b = (uint16_t*)args->scratch;
  for (int64_t p = begin; p < end; ++p) weights.widen(args->w + p * weights.bytes, kp, args->group, b + (p - begin) * size);
  for (int64_t row = 0; row < args->m; row += kBlockRows) {
    for (int64_t p = begin; p < end; p += 2) {
      slot ^= 1;
      if (p + 2 <= end) rows_of<2>(args, weights, row, p, b + (p - begin) * size, sums[slot], pending);
      else rows_of<1>(args, weights, row, p, b + (p - begin) * size, sums[slot], pending);
    }
  }
}

void product(const FgemmArgs* args, const Weights& weights) {
  alignas(64) float sums[2][kSums];
  int slot = 0;
  Pending pending = {sums[0], 0, 0, 0, 0, 0};
  // Few rows read a panel once or twice: widened in pairs, it is still near.
  const int64_t chunk = args->m <= 2 * kBlockRows ? 2 : even_chunk(args->panels, fgemm_scratch(args->kp) / (args->kp * kPanel * 2));
  configure_tiles(least(args->m, 16));
  for (int64_t p = 0; p < args->panels; p += chunk) chunk_of(args, weights, p, least(p + chunk, args->panels), sums, slot, pending);
  finish(args, weights, pending, kBlockRows);
  _tile_release();
}

}  // namespace

#define DEFINE(name, Format)                                                                              \
  void fgemm_bf16##name##_32x32x32_amx(const FgemmArgs* args) {                                          \
    const int64_t scales = Format::kGrouped ? -1 : Format::scales_at(args->kp);                          \
    product(args, {Format::bytes(args->kp, args->group), scales, widen<Format>});                        \
  }
LOWBIT_FORMATS(DEFINE)

#define LINES(name, Format)                                                                               \
  void fgemm_bf16##name##_32x32x32_amx(const FgemmArgs* args) {                                          \
    const int64_t outer = Format::kNested ? Format::outer_at(args->kp, args->group) : -1;                \
    product(args, {Format::bytes(args->kp, args->group), outer, widen_lines<Format>});                   \
  }
LOWBIT_PLANES(LINES)

}  // namespace lowbit
