// int8 weights with one scale a row.
#pragma once
#include "formats/panel.h"

namespace lowbit {

struct S8 : Panel<4, false, true> {
  static constexpr int kLeast = -127, kMost = 127;  // what every int8 kernel multiplies right

  static LOWBIT_INLINE int32_t code(uint32_t word, int i) { return (int8_t)(word >> 8 * i); }
  static LOWBIT_INLINE uint32_t word(const int8_t* codes) {
    uint32_t made;
    memcpy(&made, codes, 4);
    return made;
  }
};

}  // namespace lowbit
