#include "vec/avx2.h"
#include "nested/loop.h"

namespace lowbit {

extern const NestedKernels qgemm_u4_avx2;
const NestedKernels qgemm_u4_avx2 = kNestedKernels;

}  // namespace lowbit
