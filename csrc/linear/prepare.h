// A block of rows made ready for the integer product.
#pragma once
#include "linear/linear.h"

namespace lowbit {

// How a kernel wants its codes: xor with `flip`; in rows, or in tiles of 16 rows by 64.
struct Layout {
  uint8_t flip;
  bool tiled;
};

struct Prepared {
  int64_t m, kp, ldq;
  Layout layout;
  int8_t* q;
  float* scale;          // [m]
  uint8_t* special;      // [m]: computed as a float row
  ExactRows exact;
  int32_t* columns;      // storage behind `exact`
  int32_t* count;
  int32_t* position;
  float* value;

  int8_t* row(int64_t i) const { return q + (layout.tiled ? i / 16 * 16 * kp + i % 16 * kBlock : i * ldq); }
  int64_t step() const { return layout.tiled ? 16 * kBlock : kBlock; }  // from 64 codes of a row to the next
};

// What a row with maximum bits `a` is multiplied by, and its scale: 0 where it counts as zeros, 0 and NaN where it is not finite.
struct Fit {
  float inverse, scale;
};
Fit fit_of(uint32_t a, float largest);
void clear_codes(int64_t kp, uint8_t flip, int8_t* q, int64_t step);
// Codes of one row whose kept elements are `v` with maximum bits `a`; returns the scale.
float encode(const RowKernels& kernels, const float* v, int64_t kp, uint32_t a, float largest, uint8_t flip, int8_t* q, int64_t step = kBlock);

// The exact columns of LLM.int8(); none for the other treatments.
struct Columns {
  const int32_t* index;
  int64_t count;
};

// Row `row` of x into v [kp], widened, and through the prologue of x; returns its maximum (see RowKernels).
uint32_t load_row(const RowKernels& kernels, const Matrix& x, int64_t row, int64_t kp, float* v);
const RowKernels& row_kernels();  // those of this machine

// Columns of x in which a row without NaN and Inf reaches the threshold, into scratch of the calling thread.
Columns find_columns(const Matrix& x, float threshold, int64_t kp);

// Bytes that the codes of m rows take, with their scales; and m rows there, aligned to 64, without exact elements.
int64_t room_of(int64_t m, int64_t kp, Layout layout);
Prepared placed(int64_t m, int64_t kp, Layout layout, char* memory);
// Storage for m rows in scratch of the calling thread.
Prepared reserve(int64_t m, int64_t kp, Layout layout, Treatment treatment, const Columns& columns);
// Quantizes rows begin..end of the block that starts at row `first` of x.
void prepare_rows(const Prepared& block, const Matrix& x, int64_t first, int64_t begin, int64_t end, Treatment treatment,
                  const Columns& columns);
// After all rows: the union of the rows' exact columns.
void join_exact(Prepared& block, Treatment treatment, const Columns& columns);
// bfloat16 numbers whose sum is any number of the dtype: 8 bits of its significand each.
inline int64_t parts_of(Dtype dtype) { return dtype == kBF16 ? 1 : dtype == kF16 ? 2 : 3; }
// The exact elements as tiles of bfloat16, in scratch of the calling thread; without the scratch for weights.
ExactTiles tile_exact(const Prepared& block, Dtype dtype);

}  // namespace lowbit
