// int8 weights that products may read in fewer bits: panels of S8, and behind them a row whose first byte is the width in force.
#pragma once
#include "formats/s8.h"

namespace lowbit {

struct D8 : S8 {
  static LOWBIT_INLINE int width(const int8_t* w, int64_t panels, int64_t kp) { return w[panels * bytes(kp)]; }
};

template <>
constexpr int64_t kBehind<D8> = 1;

}  // namespace lowbit
