// The operations on plain pointers: blocking, threads and the order of work, for every ISA.
#pragma once
#include "common/types.h"

namespace lowbit {

enum Treatment { kNone, kRotation, kColumns, kRows };

struct Matrix {
  const void* data;
  int64_t stride;  // elements between rows
  int64_t rows, columns;
  Dtype dtype;
  Prologue prologue;     // what a row goes through when it is read
  int64_t times_stride;  // elements between rows of prologue.times; 0: one row for all
};

inline bool is_plain(const Matrix& x) {
  return x.prologue.function == kIdentity && x.prologue.times.data == nullptr && x.prologue.plus.data == nullptr;
}
inline const char* row_of(const Matrix& x, int64_t row) { return (const char*)x.data + row * x.stride * element_size(x.dtype); }
inline Dtype dtype_read(const Matrix& x) { return is_plain(x) ? x.dtype : kF32; }

struct Linear {
  Matrix x;
  const int8_t* w;
  int64_t n;
  const void* bias;  // [n] or null
  Dtype bias_dtype;
  void* out;         // [rows, n]
  Dtype out_dtype;
};

void linear_s8s8(const Linear& op, Treatment treatment, float threshold);

void quantize_s8(const Matrix& x, int8_t* q, float* scale);
void quantize_s4(const Matrix& x, int64_t group, int8_t* q, float* scale);
void rotate(const Matrix& x, float* out);

// F is a packed format; `group` counts where it has groups.
template <class F>
void linear_float(const Linear& op, int64_t group);
// Codes [n, k] and their scales ([n], or [n, groups]) to panels.
template <class F>
void pack(const int8_t* q, const float* scale, int64_t n, int64_t k, int64_t group, int8_t* out);
// Of codes on lines, or of a codebook.
struct LineParts {
  const uint8_t* q;     // [n, k]
  const void *scale, *minimum;  // [n, groups], in the dtypes of the format; a codebook has no minima
  const float* outer;   // [n]
};
template <class A>
void pack_lines(const LineParts& parts, int64_t n, int64_t k, int64_t group, int8_t* out);
template <class A>
void quantize_lines(const Matrix& x, int64_t group, uint8_t* q, void* scale, void* minimum, float* outer);
// linear_s8s8 of the int8 codes that U4Nested stands for; treatment: kNone or kRotation.
void linear_s8u4_nested(const Linear& op, Treatment treatment, int64_t group);
// linear_s8s8 of the codes of D8 in `width` bits; treatment: kNone or kRotation.
void linear_s8d8(const Linear& op, Treatment treatment, int width);
void linear_s8ternary(const Linear& op);  // of those of Ternary
// Whether panels hold zeros where a weight [n, k], n > 0, is padded: the scales of the last panel, the codes of the first. A weight of more
// rows or columns does not, unless those are zero themselves.
template <class F>
bool rows_end(const int8_t* w, int64_t n, int64_t k, int64_t group);
template <class F>
bool columns_end(const int8_t* w, int64_t k, int64_t group);

// A bias of n numbers in float32, padded to whole panels: itself, or in `memory` for as many; null stays null.
const float* widened(const void* bias, Dtype dtype, int64_t n, float* memory);
const float* widened_bias(const Linear& op);  // the same in scratch of the calling thread

}  // namespace lowbit
