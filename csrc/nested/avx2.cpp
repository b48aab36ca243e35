#include "vec/avx2.h"
#include "nested/loop.h"
#include "nested/ternary.h"

namespace lowbit {

extern const NestedKernels qgemm_u4_avx2;
const NestedKernels qgemm_u4_avx2 = kNestedKernels;
extern const NestedKernels qgemm_ternary_avx2;
const NestedKernels qgemm_ternary_avx2 = kTernaryKernels;

}  // namespace lowbit
