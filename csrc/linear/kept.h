// What training keeps of the operands of a linear, and its products: runtime/training/integers.py.
#pragma once
#include "linear/linear.h"

namespace lowbit {

// Rows of integers with one scale each: codes of 8 bits, or of 4, two in a byte.
struct Kept {
  uint8_t* q;
  float* scale;
  int64_t rows, columns;
  int bits;

  float largest() const { return (float)((1 << (bits - 1)) - 1); }
  int64_t row_bytes() const { return bits == 4 ? (columns + 1) / 2 : columns; }
  // `count` codes of a row from `column` on, which is even, and zeros up to `size`.
  void read(int64_t row, int64_t column, int64_t count, int64_t size, int8_t* to) const;
  void write(int64_t row, const int8_t* codes) const;
};

// The training rotation's sign of each of `size` columns, a multiple of 64, in scratch of the calling thread.
const float* rotation_signs(int64_t size);

// Rows of x, rotated with fixed signs or as they are, as `to`, whose columns are those of x or, rotated, whole blocks of 64.
void quantize_kept(const Matrix& x, bool rotated, const Kept& to);

// out [x.rows, w.rows] = x w^T + bias.
void multiply_kept(const Kept& x, const Kept& w, const void* bias, Dtype bias_dtype, void* out, Dtype out_dtype);

// A gradient meets what is kept: its rows, or with `columns` its columns, are multiplied by the scales of `kept`, one for each number, and drawn
// with the noise of `key`; out [rows or columns of dy, k] is their product with the codes, rotated back where they are rotated.
struct Folded {
  Matrix dy;
  bool columns;
  uint32_t key;
  Kept kept;
  bool rotated;
  void* out;
  int64_t k;
  Dtype out_dtype;
};
void multiply_folded(const Folded& op);

// Panels of S8 in scratch of the calling thread, of rows with their scales, or of columns with scales of 1.
const int8_t* pack_rows(const Kept& w);
const int8_t* pack_columns(const Kept& s);

}  // namespace lowbit
