#include "vec/avx512.h"
#include "nested/loop.h"

namespace lowbit {

extern const NestedKernels qgemm_u4_vnni;
const NestedKernels qgemm_u4_vnni = kNestedKernels;

}  // namespace lowbit
