// C functions for runtime/kernels.py (ctypes).
#include <string.h>

#include "common/export.h"
#include "common/kernels.h"

using namespace lowbit;

static const char* const kFamilyNames[kFamilies] = {
#define LOWBIT_FAMILY(name, what) #name,
#include "common/families.inc"
#undef LOWBIT_FAMILY
};

LOWBIT_EXPORT uint32_t lowbit_detected_isa() { return detect_isa(); }
LOWBIT_EXPORT uint32_t lowbit_active_isa() { return active_isa(); }
LOWBIT_EXPORT void lowbit_set_isa(uint32_t mask) { set_active_isa(mask); }
LOWBIT_EXPORT int lowbit_force_kernel(const char* name) { return force_kernel(name); }

// The name of a family of kernels; null past the last.
LOWBIT_EXPORT const char* lowbit_family_at(int64_t index) { return index < kFamilies ? kFamilyNames[index] : nullptr; }

LOWBIT_EXPORT int64_t lowbit_kernel_count() { return kernel_count(); }

struct lowbit_kernel {
  const char* family;
  const char* name;
  int64_t min_m;
  uint32_t isa, bf16_only;
};

LOWBIT_EXPORT lowbit_kernel lowbit_kernel_at(int64_t index) {
  const Kernel& kernel = kernel_at(index);
  return {kFamilyNames[kernel.family], kernel.name, kernel.min_m, kernel.isa, kernel.needs == kBF16Only};
}

// The name of the kernel of a family that an ISA mask, M and x's dtype (0 float32, 1 bfloat16, 2 float16) choose; null: no such family.
LOWBIT_EXPORT const char* lowbit_select(const char* family, uint32_t mask, int64_t m, int dtype) {
  for (int f = 0; f < kFamilies; ++f) {
    if (strcmp(kFamilyNames[f], family) == 0) return select_kernel((Family)f, mask, m, (Dtype)dtype).name;
  }
  return nullptr;
}
