// A packed format of tests/kernels/test_new_format.py: ternary codes, 16 to a word, two bits each.
#pragma once
#include "formats/panel.h"

namespace lowbit {

struct T2 : Panel<16, true, false> {
  static constexpr int kLeast = -1, kMost = 1;

  static LOWBIT_INLINE int32_t code(uint32_t word, int i) { return (int32_t)(word >> 2 * i & 3) - 1; }
  static LOWBIT_INLINE uint32_t word(const int8_t* codes) {
    uint32_t made = 0;
    for (int i = 0; i < kCodes; ++i) made |= (uint32_t)(codes[i] + 1) << 2 * i;
    return made;
  }
};

}  // namespace lowbit
