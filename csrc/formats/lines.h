// Unsigned codes of a few bits on a line for each group: w = outer * (scale * q + minimum). A code is split into planes of 8, 4, 2 and 1 bits,
// the widest of which has its lowest bits; for each 64 of K the lines of one plane follow those of the one before (docs/arithmetic.md).
#pragma once
#include "formats/panel.h"

namespace lowbit {

constexpr int kQuads = kBlock / 4;  // of adjacent k in a block of 64: one code of each is a byte of a word

// Scales and minima in float16 under a power of two.
struct HalfLines {
  typedef uint16_t Scale, Minimum;
  static constexpr bool kNested = false;
};

// Integers, of which scale * q + minimum is an int8 code under a float32 scale for the row.
struct IntegerLines {
  typedef uint8_t Scale;
  typedef int8_t Minimum;
  static constexpr bool kNested = true;
};

// What is behind the codes of a panel: scales [groups][16], minima [groups][16], float[16] outer; nested: int32[16] sums of the int8 codes.
template <int kBitsOfCode, class LinesOfGroups>
struct Affine {
  typedef LinesOfGroups Lines;
  typedef typename Lines::Scale Scale;
  typedef typename Lines::Minimum Minimum;
  static constexpr int kBits = kBitsOfCode, kLeast = 0, kMost = (1 << kBits) - 1;
  static constexpr bool kNested = Lines::kNested, kGrouped = true;
  static constexpr int64_t kBehind = 0;
  static constexpr int64_t kBlockBytes = kBits * 2 * kLine;  // of the codes of 64 of K

  static LOWBIT_INLINE constexpr int64_t padded(int64_t k, int64_t group) { return round_up(k, group > kBlock ? group : kBlock); }
  static LOWBIT_INLINE constexpr int64_t code_bytes(int64_t kp) { return kp / kBlock * kBlockBytes; }
  static LOWBIT_INLINE constexpr int64_t minima_at(int64_t kp, int64_t group) { return code_bytes(kp) + kp / group * kPanel * (int64_t)sizeof(Scale); }
  static LOWBIT_INLINE constexpr int64_t outer_at(int64_t kp, int64_t group) { return minima_at(kp, group) + kp / group * kPanel * (int64_t)sizeof(Minimum); }
  static LOWBIT_INLINE constexpr int64_t sums_at(int64_t kp, int64_t group) { return outer_at(kp, group) + kPanel * 4; }
  static LOWBIT_INLINE constexpr int64_t bytes(int64_t kp, int64_t group) { return sums_at(kp, group) + (kNested ? kPanel * 4 : 0); }
  static LOWBIT_INLINE const Scale* scales(const int8_t* panel, int64_t kp) { return (const Scale*)(panel + code_bytes(kp)); }
  static LOWBIT_INLINE const Minimum* minima(const int8_t* panel, int64_t kp, int64_t group) { return (const Minimum*)(panel + minima_at(kp, group)); }
  static LOWBIT_INLINE const float* outer(const int8_t* panel, int64_t kp, int64_t group) { return (const float*)(panel + outer_at(kp, group)); }

  // Where the plane above `below` bits begins in a block; where a plane of a width has the codes of a quad: a line in it, and a shift of its words.
  static LOWBIT_INLINE constexpr int64_t plane_at(int below) { return below * 2 * kLine; }
  static LOWBIT_INLINE constexpr int64_t line_of(int width, int quad) { return quad * width / 8 * kLine; }
  static LOWBIT_INLINE constexpr int shift_of(int width, int quad) { return width * (quad % (8 / width)); }

  static LOWBIT_INLINE int32_t code(const int8_t* panel, int64_t k, int64_t row) {
    const int quad = (int)(k % kBlock / 4), byte = (int)(k % 4);
    const uint8_t* block = (const uint8_t*)panel + k / kBlock * kBlockBytes + row * 4 + byte;
    int32_t made = 0;
    for (int width = 8, below = 0; width > 0; below += kBits & width, width /= 2) {
      if (kBits & width) made |= (block[plane_at(below) + line_of(width, quad)] >> shift_of(width, quad) & ((1 << width) - 1)) << below;
    }
    return made;
  }
  // Into codes that are zero so far.
  static LOWBIT_INLINE void set_code(int8_t* panel, int64_t k, int64_t row, int32_t code) {
    const int quad = (int)(k % kBlock / 4), byte = (int)(k % 4);
    uint8_t* block = (uint8_t*)panel + k / kBlock * kBlockBytes + row * 4 + byte;
    for (int width = 8, below = 0; width > 0; below += kBits & width, width /= 2) {
      if (kBits & width) block[plane_at(below) + line_of(width, quad)] |= (uint8_t)((code >> below & ((1 << width) - 1)) << shift_of(width, quad));
    }
  }
};

}  // namespace lowbit
