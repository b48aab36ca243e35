// Columns of a matrix in rows: their maxima, and codes in rows as panels.
#pragma once
#include <string.h>

#include "common/types.h"

namespace lowbit {
namespace {

// kWidth columns of a row from `column` on, times what the row is multiplied by; zeros beyond args.count.
template <Dtype dtype>
inline Vec column_part(const ColumnArgs& args, int64_t row, int64_t column) {
  const void* from = (const char*)args.x + row * args.stride * element_size(dtype);
  const Vec x = args.count == kPanel ? load_as<dtype>(from, column) : load_as<dtype>(from, column, args.count - column, 0.0f);
  return x * splat(args.times[row]);
}

template <Dtype dtype>
void column_maxima_of(const ColumnArgs& args, uint32_t* maxima) {
  Words a[kPanel / Vec::kWidth] = {};
  for (int64_t row = 0; row < args.m; ++row) {
    for (int64_t j = 0; j < kPanel / Vec::kWidth; ++j) a[j] = larger(a[j], magnitude(column_part<dtype>(args, row, j * Vec::kWidth)));
  }
  for (int64_t j = 0; j < kPanel / Vec::kWidth; ++j) store_words(maxima + j * Vec::kWidth, a[j]);
}

void column_maxima(const ColumnArgs& args, uint32_t* maxima) {
  if (args.dtype == kF32) return column_maxima_of<kF32>(args, maxima);
  return args.dtype == kBF16 ? column_maxima_of<kBF16>(args, maxima) : column_maxima_of<kF16>(args, maxima);
}

// Lane j of words[i], i below 16, to word i of row j.
inline void store_turned(const Words* words, int8_t* to, int64_t stride) {
  for (int64_t i = 0; i < 16; i += Vec::kWidth) {
    Vec turned[Vec::kWidth];
    memcpy(turned, words + i, sizeof(turned));
    transpose(turned);
    for (int64_t j = 0; j < Vec::kWidth; ++j) memcpy(to + j * stride + i * 4, turned + j, sizeof(Vec));
  }
}

// A panel's lines from 16 rows of codes, or of 16 columns; then their sums. Scales are not touched.
void panel_of_rows(const int8_t* q, int64_t stride, int64_t kp, int8_t* panel) {
  const uint32_t ones = 0x01010101u;
  for (int64_t j = 0; j < kPanel; j += Vec::kWidth) {
    Words sum = no_words();
    for (int64_t k = 0; k < kp; k += 4 * Vec::kWidth) {
      Vec turned[Vec::kWidth];
      for (int64_t r = 0; r < Vec::kWidth; ++r) memcpy(turned + r, q + (j + r) * stride + k, sizeof(Vec));
      transpose(turned);
      for (int64_t i = 0; i < Vec::kWidth; ++i) {
        const Words line = load_words(turned + i);
        store_words(panel + S8::code_bytes(k + 4 * i) + j * 4, line);
        sum = add_dots(sum, splat_word(&ones), line);
      }
    }
    store_words(panel + S8::code_bytes(kp) + j * 4, sum);
  }
}

// Words of a line from four rows of codes: lane j has those of column j.
inline Words line_of(const int8_t* q, int64_t stride, int64_t rows) {
  Words line = no_words();
  for (int i = 0; i < 4 && i < rows; ++i) line = joined(line, shifted(masked(signed_words(q + i * stride), 255), -8 * i));
  return line;
}

void panel_of_columns(const int8_t* q, int64_t stride, int64_t rows, int64_t kp, int8_t* panel) {
  const uint32_t ones = 0x01010101u;
  for (int64_t j = 0; j < kPanel; j += Vec::kWidth) {
    Words sum = no_words();
    for (int64_t i = 0; i < kp; i += 4) {
      const Words line = line_of(q + i * stride + j, stride, rows - i);
      store_words(panel + S8::code_bytes(i) + j * 4, line);
      sum = add_dots(sum, splat_word(&ones), line);
    }
    store_words(panel + S8::code_bytes(kp) + j * 4, sum);
  }
}

}  // namespace
}  // namespace lowbit
