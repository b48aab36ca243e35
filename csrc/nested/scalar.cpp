#include "vec/scalar.h"
#include "nested/loop.h"

namespace lowbit {

extern const NestedKernels qgemm_u4_scalar;
const NestedKernels qgemm_u4_scalar = kNestedKernels;

}  // namespace lowbit
