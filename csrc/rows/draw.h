// Codes that are drawn: stochastic rounding with the noise of common/noise.h, along rows and along columns.
#pragma once
#include "common/noise.h"
#include "rows/columns.h"

namespace lowbit {
namespace {

inline Words splat_of(uint32_t word) { return splat_word(&word); }

inline Words mixed(Words h) {
  h = (h ^ shifted(h, 16)) * splat_of(kMixers[0]);
  h = (h ^ shifted(h, 15)) * splat_of(kMixers[1]);
  return h ^ shifted(h, 16);
}

// Lane j: word `first` + j of a row.
inline Words words_of_row(uint32_t row, uint32_t first) {
  static const uint32_t kCount[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return mixed(splat_of(row) + (splat_of(first) + load_words(kCount)) * splat_of(kGolden));
}

// The integer below v, or above it where the noise in 16 bits of `half` is below what lies between.
inline Words drawn(Vec v, Words half) {
  const Vec below = floor_of(v), u = (as_floats(half) + splat(0.5f)) * splat(0x1p-16f);
  return rounded(select(above(v - below, u), below + splat(1.0f), below));
}

void draw(const float* v, int64_t kp, float inverse, uint32_t row, uint8_t flip, int8_t* q, int64_t step) {
  constexpr int64_t kWords = 16 / Vec::kWidth;  // vectors of hashes for 32 elements
  for (int64_t i = 0; i < kp; i += kBlock) {
    Words c[4 * kWords];
    for (int64_t j = 0; j < 2 * kWords; ++j) {
      const int64_t at = j / kWords * 2 * kWords + j % kWords;  // the vector of the low halves; those of the high ones are 16 elements behind
      const Words hash = words_of_row(row, (uint32_t)(i / 2 + j * Vec::kWidth));
      c[at] = drawn(load(v + i + at * Vec::kWidth) * splat(inverse), masked(hash, 0xffff));
      c[at + kWords] = drawn(load(v + i + at * Vec::kWidth + 16) * splat(inverse), shifted(hash, 16));
    }
    for (int64_t j = 0; j < kWords; ++j) store_bytes(q + i / kBlock * step + 4 * j * Vec::kWidth, c + 4 * j, flip);
  }
}

// 64 rows of x from `first` on, in kWidth columns from `column` on: lane j of words[i] has the codes of rows 4i ... 4i + 3 in its column.
template <Dtype dtype>
inline void draw_block(const ColumnArgs& args, int64_t first, int64_t column, Vec inverse, Words keys, Words* words) {
  for (int64_t i = 0; i < 16; ++i) words[i] = no_words();
  for (int64_t i = 0; i < 32 && first + i / 16 * 32 + i % 16 < args.m; ++i) {
    const int64_t low = i / 16 * 32 + i % 16;
    const Words hash = mixed(keys + splat_of((uint32_t)(first / 2 + i) * kGolden));
    for (int64_t half = 0; half < 2; ++half) {
      const int64_t row = low + 16 * half;
      if (first + row >= args.m) break;
      const Vec v = column_part<dtype>(args, first + row, column) * inverse;
      const Words code = masked(drawn(v, half ? shifted(hash, 16) : masked(hash, 0xffff)), 255);
      words[row / 4] = joined(words[row / 4], shifted(code, -8 * (int)(row % 4)));
    }
  }
}

template <Dtype dtype>
void draw_columns_of(const ColumnArgs& args, const float* inverse, const uint32_t* keys, uint8_t flip, int8_t* q, int64_t stride, int64_t step) {
  const Words flips = splat_of(flip * 0x01010101u);
  for (int64_t first = 0; first < args.m; first += kBlock, q += step) {
    for (int64_t column = 0; column < kPanel; column += Vec::kWidth) {
      Words words[16];
      draw_block<dtype>(args, first, column, load(inverse + column), load_words(keys + column), words);
      for (int64_t i = 0; i < 16; ++i) words[i] = words[i] ^ flips;
      store_turned(words, q + column * stride, stride);
    }
  }
}

void draw_columns(const ColumnArgs& args, const float* inverse, const uint32_t* keys, uint8_t flip, int8_t* q, int64_t stride, int64_t step) {
  if (args.dtype == kF32) return draw_columns_of<kF32>(args, inverse, keys, flip, q, stride, step);
  if (args.dtype == kBF16) return draw_columns_of<kBF16>(args, inverse, keys, flip, q, stride, step);
  return draw_columns_of<kF16>(args, inverse, keys, flip, q, stride, step);
}

}  // namespace
}  // namespace lowbit
