#include "vec/scalar.h"
#include "softmax/columns.h"

namespace lowbit {

extern const SoftmaxKernels softmax_scalar;
const SoftmaxKernels softmax_scalar = {softmax_rows, softmax_first, softmax_second, softmax_columns};

}  // namespace lowbit
