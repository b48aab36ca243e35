// int4 weights with a scale for each group: a byte of a word has k = i in its low nibble and i + 4 in its high one, both plus 8.
#pragma once
#include "formats/panel.h"

namespace lowbit {

struct S4 : Panel<8, true, false> {
  static constexpr int kLeast = -8, kMost = 7;

  static LOWBIT_INLINE int shift(int i) { return 8 * (i % 4) + 4 * (i / 4); }
  static LOWBIT_INLINE int32_t code(uint32_t word, int i) { return (int32_t)(word >> shift(i) & 15) - 8; }
  // A code plus 8 is its low nibble with the sign bit turned over.
  static LOWBIT_INLINE uint32_t word(const int8_t* codes) {
    uint32_t low, high;
    memcpy(&low, codes, 4);
    memcpy(&high, codes + 4, 4);
    return ((low & 0x0f0f0f0fu) | (high & 0x0f0f0f0fu) << 4) ^ 0x88888888u;
  }
};

}  // namespace lowbit
