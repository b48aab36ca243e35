// Four adjacent codes of an output as the bytes of a word: what all packed formats are to the kernels.
#pragma once
#include "cuda/device.h"
#include "formats/formats.h"

namespace lowbit::cuda {

// Codes 4 * quad ... of a word, plus 128, of any format; quick ways follow.
template <class F>
LOWBIT_DEVICE uint32_t bytes_of(F, uint32_t word, int quad) {
  uint32_t made = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) made |= (uint32_t)(F::code(word, 4 * quad + i) + 128) << 8 * i;
  return made;
}
LOWBIT_DEVICE uint32_t bytes_of(S8, uint32_t word, int) { return word ^ 0x80808080u; }
LOWBIT_DEVICE uint32_t bytes_of(S4, uint32_t word, int quad) { return word >> 4 * quad & 0x0f0f0f0fu; }

// Two adjacent quads of K (`quad`, which is even, and the next), of 16 in a slice of 64: the lines of the slice that they are in, and one of
// them as bytes. A byte is a code plus kOffset, and at most kMost.
template <class F>
struct Quads {
  static constexpr int kOfWord = F::kCodes / 4, kLines = kOfWord == 1 ? 2 : 1;
  static constexpr int kOffset = 128, kMost = 255;

  LOWBIT_DEVICE static int line(int i, int quad) { return quad / kOfWord + i; }
  LOWBIT_DEVICE static uint32_t bytes(const Words* lines, int quad, int half, int j) {
    return bytes_of(F{}, lines[kLines == 2 ? half : 0].w[j], (quad + half) % kOfWord);
  }
};

template <>
struct Quads<S4> {
  static constexpr int kLines = 1, kOffset = 8, kMost = 15;
  LOWBIT_DEVICE static int line(int, int quad) { return quad / 2; }
  LOWBIT_DEVICE static uint32_t bytes(const Words* lines, int, int half, int j) { return bytes_of(S4{}, lines[0].w[j], half); }
};

// Codes of at most 8 bits in planes of 8, 4, 2 and 1; those of 8 have no other.
template <int kBits, class Lines>
struct Quads<Affine<kBits, Lines>> {
  typedef Affine<kBits, Lines> A;
  static_assert(kBits <= 8, "a plane of 8 bits is alone");
  static constexpr int kLines = kBits == 8 ? 2 : (kBits >> 2 & 1) + (kBits >> 1 & 1) + (kBits & 1);
  static constexpr int kOffset = Lines::kNested ? 128 : 0, kMost = Lines::kNested ? 255 : A::kMost;  // nested: of the int8 codes (spans.h)

  // The width of plane i, and the bits below it.
  static LOWBIT_INLINE constexpr int width(int i) {
    for (int w = 8; w > 1; w /= 2) {
      if ((kBits & w) && i-- == 0) return w;
    }
    return 1;
  }
  static LOWBIT_INLINE constexpr int below(int i) { return kBits & -2 * width(i); }

  LOWBIT_DEVICE static int line(int i, int quad) {
    if (kBits == 8) return quad + i;
    return (int)((A::plane_at(below(i)) + A::line_of(width(i), quad)) / kLine);
  }
  LOWBIT_DEVICE static uint32_t bytes(const Words* lines, int quad, int half, int j) {
    if (kBits == 8) return lines[half].w[j];
    uint32_t made = 0;
#pragma unroll
    for (int i = 0; i < kLines; ++i) {
      const uint32_t mask = 0x01010101u * ((1u << width(i)) - 1);
      made |= (lines[i].w[j] >> A::shift_of(width(i), quad + half) & mask) << below(i);
    }
    return made;
  }
};

}  // namespace lowbit::cuda
