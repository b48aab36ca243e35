// Scales and minima of 4 adjacent outputs for 32 of K, which lie in one group: what is done with them to codes, or to sums of products.
#pragma once
#include "cuda/quads.h"
#include "cuda/tile.h"

namespace lowbit::cuda {

constexpr int kHalf = 32;  // elements of K

// Of a format whose panels have a scale for each span, or one a row, which is left to the end.
template <class F>
struct Span {
  static constexpr int kScales = F::kGrouped ? kPanel * 4 : 0, kMinima = 0;  // bytes of a panel's, for one group
  static constexpr bool kOnSums = F::kGrouped;                               // they multiply sums of 32 products
  Four<float> scale;

  LOWBIT_DEVICE static int64_t scales_at(int64_t kp) { return F::scales_at(kp); }
  LOWBIT_DEVICE static int64_t minima_at(int64_t, int64_t) { return 0; }
  LOWBIT_DEVICE void load(const char* scales, const char*, int chunk) {
    if (F::kGrouped) scale = load_wide<Four<float>>(scales + chunk * 16);
  }
  LOWBIT_DEVICE uint32_t bytes(uint32_t codes, int) const { return codes; }
  LOWBIT_DEVICE float add(int j, float part, float, float c) const { return fmaf(scale.of[j], part, c); }
};

// scale * sum of x q + minimum * sum of x.
template <int kBits>
struct Span<Affine<kBits, HalfLines>> {
  typedef Affine<kBits, HalfLines> A;
  static constexpr int kScales = kPanel * 2, kMinima = kPanel * 2;
  static constexpr bool kOnSums = true;
  HalfWords scale, minimum;

  LOWBIT_DEVICE static int64_t scales_at(int64_t kp) { return A::code_bytes(kp); }
  LOWBIT_DEVICE static int64_t minima_at(int64_t kp, int64_t group) { return A::minima_at(kp, group); }
  LOWBIT_DEVICE void load(const char* scales, const char* minima, int chunk) {
    scale = load_wide<HalfWords>(scales + chunk * 8);
    minimum = load_wide<HalfWords>(minima + chunk * 8);
  }
  LOWBIT_DEVICE uint32_t bytes(uint32_t codes, int) const { return codes; }
  LOWBIT_DEVICE float add(int j, float part, float sum, float c) const { return fmaf(number(scale, j), part, fmaf(number(minimum, j), sum, c)); }

 private:
  LOWBIT_DEVICE static float number(const HalfWords& words, int j) { return f16_to_float((uint16_t)(words.w[j / 2] >> j % 2 * 16)); }
};

// Codes become int8 codes: scale * q is below 256, and so is the whole with 128 more, so nothing is carried from byte to byte.
template <>
struct Span<U4Nested> {
  static constexpr int kScales = kPanel, kMinima = kPanel;
  static constexpr bool kOnSums = false;
  uint32_t scale, minimum;

  LOWBIT_DEVICE static int64_t scales_at(int64_t kp) { return U4Nested::code_bytes(kp); }
  LOWBIT_DEVICE static int64_t minima_at(int64_t kp, int64_t group) { return U4Nested::minima_at(kp, group); }
  LOWBIT_DEVICE void load(const char* scales, const char* minima, int chunk) {
    scale = ((const uint32_t*)scales)[chunk];
    minimum = ((const uint32_t*)minima)[chunk];
  }
  LOWBIT_DEVICE uint32_t bytes(uint32_t codes, int j) const {
    return codes * (scale >> 8 * j & 255) + ((minimum >> 8 * j & 255) ^ 128) * 0x01010101u;
  }
  LOWBIT_DEVICE float add(int, float, float, float c) const { return c; }
};

// A slice of a panel in shared memory: its codes, swizzled, then scales and minima of its first 32 of K, then of the others.
template <class F>
struct Staged {
  static constexpr int kCodes = (int)F::code_bytes(kSlice), kSpan = Span<F>::kScales + Span<F>::kMinima, kBytes = kCodes + 2 * kSpan;

  // Where 16-byte chunk `chunk` of it is, and where it comes from in a panel.
  LOWBIT_DEVICE static int place(int chunk) { return (chunk * 16 < kCodes ? swizzled(chunk) : chunk) * 16; }
  LOWBIT_DEVICE static uint32_t source(int chunk, int slice, int slices, int group_bits) {
    int byte = chunk * 16 - kCodes;
    if (byte < 0) return (uint32_t)slice * kCodes + chunk * 16;
    const int half = byte / (kSpan ? kSpan : 1), group = (slice * kSlice + half * kHalf) >> group_bits;
    const int64_t kp = (int64_t)slices * kSlice;
    byte -= half * kSpan;
    if (byte < Span<F>::kScales) return (uint32_t)Span<F>::scales_at(kp) + group * Span<F>::kScales + byte;
    return (uint32_t)Span<F>::minima_at(kp, (int64_t)1 << group_bits) + group * Span<F>::kMinima + byte - Span<F>::kScales;
  }
  LOWBIT_DEVICE static Words chunk(const char* slice, int line, int chunk) { return load_wide<Words>(slice + swizzled(line * 4 + chunk) * 16); }
  LOWBIT_DEVICE static Span<F> span(const char* slice, int half, int chunk) {
    Span<F> made = {};
    const char* scales = slice + kCodes + half * kSpan;
    made.load(scales, scales + Span<F>::kScales, chunk);
    return made;
  }
};

// Starts the copies of one stage: slices `slice`, `slice` + 1, ... of the panels.
template <class S, class F>
LOWBIT_DEVICE void fetch_panels(char* stage, const TileSource& w, int group_bits, int slice) {
  constexpr int kChunks = Staged<F>::kBytes / 16, kTotal = S::kWarpsK * S::kPanels * kChunks;
#pragma unroll 1  // addresses of all copies at once would take the registers that sums need
  for (int i = thread_index(); i < kTotal; i += S::kThreads) {
    const int chunk = i % kChunks, p = i / kChunks % S::kPanels, s = i / kChunks / S::kPanels;
    const bool valid = p < w.count && slice + s < w.slices;
    const uint32_t offset = valid ? p * w.stride + Staged<F>::source(chunk, slice + s, w.slices, group_bits) : 0;
    copy_async(stage + (s * S::kPanels + p) * Staged<F>::kBytes + Staged<F>::place(chunk), w.first + offset, valid);
  }
}

}  // namespace lowbit::cuda
