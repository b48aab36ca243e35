#include "vec/avx2.h"
#include "softmax/columns.h"

namespace lowbit {

extern const SoftmaxKernels softmax_avx2;
const SoftmaxKernels softmax_avx2 = {softmax_rows, softmax_first, softmax_second, softmax_columns};

}  // namespace lowbit
