// The table built from kernels.inc, and the choice.
#include <string.h>

#include "attention/attention.h"
#include "common/kernels.h"
#include "softmax/softmax.h"

namespace lowbit {

#define LOWBIT_KERNEL(family, name, isa, min_m, needs) extern TypeOf<family>::type name;
#include "common/kernels.inc"
#undef LOWBIT_KERNEL

static const Kernel kTable[] = {
#define LOWBIT_KERNEL(family, name, isa, min_m, needs) {family, #name, isa, min_m, needs, (const void*)&name},
#include "common/kernels.inc"
#undef LOWBIT_KERNEL
};

static uint32_t active = 0;                    // 0: not set yet
static const Kernel* forced[kFamilies] = {};

uint32_t active_isa() {
  if (active == 0) active = detect_isa();
  return active;
}

void set_active_isa(uint32_t mask) { active = mask; }

int64_t kernel_count() { return (int64_t)(sizeof(kTable) / sizeof(kTable[0])); }
const Kernel& kernel_at(int64_t index) { return kTable[index]; }

bool force_kernel(const char* name) {
  if (name == nullptr) {
    memset(forced, 0, sizeof(forced));
    return true;
  }
  for (const Kernel& kernel : kTable) {
    if (strcmp(kernel.name, name) == 0) {
      forced[kernel.family] = &kernel;
      return true;
    }
  }
  return false;
}

static bool fits(const Kernel& kernel, Dtype dtype) { return kernel.needs != kBF16Only || dtype == kBF16; }

const Kernel& select_kernel(Family family, uint32_t mask, int64_t m, Dtype dtype) {
  const Kernel* found = nullptr;
  for (const Kernel& kernel : kTable) {
    if (kernel.family == family && (kernel.isa & (mask | kScalar)) && m >= kernel.min_m && fits(kernel, dtype)) found = &kernel;
  }
  return *found;  // the scalar kernel of every family fits always
}

const Kernel& choose(Family family, int64_t m, Dtype dtype) {
  const Kernel* kernel = forced[family];
  return kernel && fits(*kernel, dtype) ? *kernel : select_kernel(family, active_isa(), m, dtype);
}

}  // namespace lowbit
