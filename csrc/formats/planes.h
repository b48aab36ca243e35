// Unsigned codes of any number of bits, in planes of 8, 4, 2 and 1 bits, the widest of which has their lowest bits; for each 64 of K the lines of
// one plane follow those of the one before (docs/arithmetic.md).
#pragma once
#include "formats/panel.h"

namespace lowbit {

constexpr int kQuads = kBlock / 4;  // of adjacent k in a block of 64: one code of each is a byte of a word

template <int kBitsOfCode>
struct Planes {
  static constexpr int kBits = kBitsOfCode;
  static constexpr int64_t kBlockBytes = kBits * 2 * kLine;  // of the codes of 64 of K

  static LOWBIT_INLINE constexpr int64_t code_bytes(int64_t kp) { return kp / kBlock * kBlockBytes; }

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
