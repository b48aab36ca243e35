#include "vec/scalar.h"
#include "rows/loop.h"

namespace lowbit {

extern const RowKernels rows_scalar;
const RowKernels rows_scalar = kRowKernels;

}  // namespace lowbit
