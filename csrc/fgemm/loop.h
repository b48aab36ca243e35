// Float rows times a packed weight, for every ISA: each panel is unpacked to floats, then multiplied in tiles of rows. Include one of the
// vectors of csrc/vec first. Everything has internal linkage.
#pragma once
#include "common/types.h"
#include "fgemm/unpack.h"

namespace lowbit {
namespace {

// Multiply by the block Hadamard matrix along K; it is its own inverse.
void rotate_panel(float* panel, int64_t kp) {
  for (int64_t i = 0; i < kp * kPanel; ++i) panel[i] *= 0.125f;
  for (int64_t half = 1; half < kBlock; half *= 2) {
    for (int64_t k = 0; k < kp; k += 2 * half) {
      float* low = panel + k * kPanel;
      float* high = low + half * kPanel;
      for (int64_t i = 0; i < half * kPanel; ++i) {
        const float a = low[i], b = high[i];
        low[i] = a + b;
        high[i] = a - b;
      }
    }
  }
}

// Sums of a row with panel p become results.
inline void finish(const FgemmArgs* args, int64_t row, int64_t p, const Vec* sums) {
  char* out = (char*)args->out.data + row * args->out.stride * element_size(args->out.dtype);
  for (int64_t v = 0; v < kVecs; ++v) {
    const int64_t n = p * kPanel + v * Vec::kWidth;
    const Vec y = args->out.bias ? sums[v] + load(args->out.bias + n) : sums[v];
    store_some(out, args->out.dtype, n, args->out.n - n, y);
  }
}

template <int M>
void tile(const FgemmArgs* args, const float* w, int64_t row, int64_t p) {
  const float* x = (const float*)args->x + row * args->ldx;
  Vec sums[M][kVecs];
  for (int i = 0; i < M; ++i) {
    for (int64_t v = 0; v < kVecs; ++v) sums[i][v] = splat(0.0f);
  }
  for (int64_t k = 0; k < args->kp; ++k) {
    Vec b[kVecs];
    for (int64_t v = 0; v < kVecs; ++v) b[v] = load(w + k * kPanel + v * Vec::kWidth);
    for (int i = 0; i < M; ++i) {
      const Vec a = splat(x[i * args->ldx + k]);
      for (int64_t v = 0; v < kVecs; ++v) sums[i][v] = add_product(a, b[v], sums[i][v]);
    }
  }
  for (int i = 0; i < M; ++i) finish(args, row + i, p, sums[i]);
}

template <int M>
inline void tiles(const FgemmArgs* args, const float* w, int64_t& row, int64_t p) {
  for (; row + M <= args->m; row += M) tile<M>(args, w, row, p);
}

typedef void Unpack(const int8_t* panel, int64_t kp, int64_t group, float* w);

// `bytes` of a panel. kRows: of a tile; as many as fit of the first kind, then of the next; the last is 1.
template <int... kRows>
void product(const FgemmArgs* args, int64_t bytes, Unpack* unpack) {
  float* w = (float*)args->scratch;
  for (int64_t p = 0; p < args->panels; ++p) {
    unpack(args->w + p * bytes, args->kp, args->group, w);
    if (args->rotate) rotate_panel(w, args->kp);
    int64_t row = 0;
    (tiles<kRows>(args, w, row, p), ...);
  }
}

}  // namespace
}  // namespace lowbit
