// Activations made ready for the integer product, all in the caller's workspace.
#pragma once
#include "cuda/kernels.h"

namespace lowbit::cuda {

struct Prepared {
  int8_t* q;          // [m, kp]
  float* scale;       // [m]; NaN: the row is computed in float
  uint8_t* flags;     // columns: [kp], 1 where a column is exact
  int32_t* columns;   // columns: the k of exact columns, ascending, room for kp; rows: [m, 16], ascending
  int32_t* count;     // columns: one number; rows: [m]
  float* value;       // rows: [m, 16]
};

// The parts of a workspace for m rows, and its size in bytes.
int64_t lay_out(Prepared* made, char* workspace, int64_t m, int64_t kp, Treatment treatment);
void prepare(const Prepared& to, const Matrix& x, int64_t kp, Treatment treatment, float threshold, Stream stream);

}  // namespace lowbit::cuda
