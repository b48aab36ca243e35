// Codes -1, 0 and 1 with a scale for each row or group, as two bits of code + 1: a word has 16 of K, four of adjacent k in each byte's place, which
// is a plane of two bits. Five in a byte (1.6 bits) would cost more operations to take apart than one core waits for memory.
#pragma once
#include "formats/planes.h"

namespace lowbit {

template <bool kHasGroups>
struct Ternaries : Panel<16, kHasGroups, !kHasGroups>, Planes<2> {
  using Panel<16, kHasGroups, !kHasGroups>::code_bytes;
  static constexpr int kLeast = -1, kMost = 1;
  static constexpr bool kMinima = false;

  static LOWBIT_INLINE constexpr int shift(int i) { return 8 * (i % 4) + 2 * (i / 4); }
  static LOWBIT_INLINE int32_t code(uint32_t word, int i) { return (int32_t)(word >> shift(i) & 3) - 1; }
  static LOWBIT_INLINE uint32_t word(const int8_t* codes) {
    uint32_t made = 0;
    for (int i = 0; i < 16; ++i) made |= (uint32_t)(codes[i] + 1) << shift(i);
    return made;
  }
};

}  // namespace lowbit
