#include "vec/scalar.h"
#include "nested/loop.h"
#include "nested/ternary.h"

namespace lowbit {

extern const NestedKernels qgemm_u4_scalar;
const NestedKernels qgemm_u4_scalar = kNestedKernels;
extern const NestedKernels qgemm_ternary_scalar;
const NestedKernels qgemm_ternary_scalar = kTernaryKernels;

}  // namespace lowbit
