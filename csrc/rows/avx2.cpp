#include "vec/avx2.h"
#include "rows/loop.h"

namespace lowbit {

extern const RowKernels rows_avx2;
const RowKernels rows_avx2 = kRowKernels;

}  // namespace lowbit
