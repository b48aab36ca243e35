#include "vec/avx512.h"
#include "rows/loop.h"

namespace lowbit {

extern const RowKernels rows_vnni;
const RowKernels rows_vnni = kRowKernels;

}  // namespace lowbit
