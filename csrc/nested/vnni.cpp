#include "vec/avx512.h"
#include "nested/loop.h"
#include "nested/ternary.h"

namespace lowbit {

extern const NestedKernels qgemm_u4_vnni;
const NestedKernels qgemm_u4_vnni = kNestedKernels;
extern const NestedKernels qgemm_ternary_vnni;
const NestedKernels qgemm_ternary_vnni = kTernaryKernels;

}  // namespace lowbit
