// 4-bit codes for 16 numbers (runtime/formats/codebook.py) with a signed float16 scale for each group, under a power of two for the row:
// w = outer * scale * number(q).
#pragma once
#include "formats/planes.h"

namespace lowbit {

struct Numbers {
  float of[16];
};
struct Bytes {
  uint8_t of[16];
};

// One byte of each of 16 unsigned integers.
static constexpr Bytes byte_of(const uint16_t (&numbers)[16], int shift) {
  Bytes made = {};
  for (int i = 0; i < 16; ++i) made.of[i] = (uint8_t)(numbers[i] >> shift);
  return made;
}

// A book has its numbers, and the same as unsigned integers for products in fixed point: number = unit * integer + least, where the integer is
// `high` or, where those are too coarse, 256 * high + low.

// NormalFloat. Integers of 16 bits, so that a number is off by at most kUnit / 2.
struct NormalFloat {
  static constexpr Numbers kNumbers = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
                                       -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
                                       0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f,
                                       0.7229568362236023f, 1.0f};
  static constexpr uint16_t kIntegers[16] = {1, 9956, 15563, 19828, 23448, 26714, 29785, 32768, 35376, 38041, 40832, 43840, 47209, 51203, 56457, 65535};
  static constexpr bool kFine = true;
  static constexpr Bytes kHigh = byte_of(kIntegers, 8), kLow = byte_of(kIntegers, 0);
  static constexpr float kUnit = 1.0f / 32767, kLeast = -32768.0f / 32767;
};

// The integers of ggml's IQ4_NL, plus 128.
struct IQ4Integers {
  static constexpr Numbers kNumbers = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  static constexpr bool kFine = false;
  static constexpr Bytes kHigh = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241}, kLow = {};
  static constexpr float kUnit = 1.0f, kLeast = -128.0f;
};

template <class BookOfNumbers>
struct Lookup {};  // how codes become numbers

// What is behind the codes of a panel: float16 [groups][16] scales, float[16] outer.
template <class BookOfNumbers>
struct Coded : Planes<4> {
  typedef BookOfNumbers Book;
  typedef Lookup<Book> Lines;
  typedef uint16_t Scale;
  static constexpr int kLeast = 0, kMost = 15;
  static constexpr bool kNested = false, kGrouped = true, kMinima = false;

  static LOWBIT_INLINE constexpr int64_t padded(int64_t k, int64_t group) { return round_up(k, group > kBlock ? group : kBlock); }
  static LOWBIT_INLINE constexpr int64_t outer_at(int64_t kp, int64_t group) { return code_bytes(kp) + kp / group * kPanel * (int64_t)sizeof(Scale); }
  static LOWBIT_INLINE constexpr int64_t bytes(int64_t kp, int64_t group) { return outer_at(kp, group) + kPanel * 4; }
  static LOWBIT_INLINE const Scale* scales(const int8_t* panel, int64_t kp) { return (const Scale*)(panel + code_bytes(kp)); }
  static LOWBIT_INLINE const float* outer(const int8_t* panel, int64_t kp, int64_t group) { return (const float*)(panel + outer_at(kp, group)); }
};

}  // namespace lowbit
