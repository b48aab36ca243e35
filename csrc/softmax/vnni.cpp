#include "vec/avx512.h"
#include "softmax/columns.h"

namespace lowbit {

extern const SoftmaxKernels softmax_vnni;
const SoftmaxKernels softmax_vnni = {softmax_rows, softmax_first, softmax_second, softmax_columns};

}  // namespace lowbit
