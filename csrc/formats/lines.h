// Unsigned codes of a few bits on a line for each group: w = outer * (scale * q + minimum).
#pragma once
#include "formats/planes.h"

namespace lowbit {

// Scales and minima in float16 under a power of two.
struct HalfLines {
  typedef uint16_t Scale, Minimum;
  static constexpr bool kNested = false;
};

// The same in float32, for groups from 16 on: zero points and scales of scales, as files of other libraries have them.
struct FloatLines {
  typedef float Scale, Minimum;
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
struct Affine : Planes<kBitsOfCode> {
  typedef Planes<kBitsOfCode> Codes;
  typedef LinesOfGroups Lines;
  typedef typename Lines::Scale Scale;
  typedef typename Lines::Minimum Minimum;
  static constexpr int kLeast = 0, kMost = (1 << kBitsOfCode) - 1;
  static constexpr bool kNested = Lines::kNested, kGrouped = true, kMinima = true;

  static LOWBIT_INLINE constexpr int64_t padded(int64_t k, int64_t group) { return round_up(k, group > kBlock ? group : kBlock); }
  static LOWBIT_INLINE constexpr int64_t minima_at(int64_t kp, int64_t group) { return Codes::code_bytes(kp) + kp / group * kPanel * (int64_t)sizeof(Scale); }
  static LOWBIT_INLINE constexpr int64_t outer_at(int64_t kp, int64_t group) { return minima_at(kp, group) + kp / group * kPanel * (int64_t)sizeof(Minimum); }
  static LOWBIT_INLINE constexpr int64_t sums_at(int64_t kp, int64_t group) { return outer_at(kp, group) + kPanel * 4; }
  static LOWBIT_INLINE constexpr int64_t bytes(int64_t kp, int64_t group) { return sums_at(kp, group) + (kNested ? kPanel * 4 : 0); }
  static LOWBIT_INLINE const Scale* scales(const int8_t* panel, int64_t kp) { return (const Scale*)(panel + Codes::code_bytes(kp)); }
  static LOWBIT_INLINE const Minimum* minima(const int8_t* panel, int64_t kp, int64_t group) { return (const Minimum*)(panel + minima_at(kp, group)); }
  static LOWBIT_INLINE const float* outer(const int8_t* panel, int64_t kp, int64_t group) { return (const float*)(panel + outer_at(kp, group)); }
};

template <int kBits>
constexpr int64_t kLeastGroup<Affine<kBits, FloatLines>> = 16;

}  // namespace lowbit
