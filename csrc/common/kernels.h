// The kernel table and the choice from it.
#pragma once
#include "common/types.h"

namespace lowbit {

enum Isa : uint32_t { kScalar = 1, kAvx2 = 2, kVnni = 4, kAmx = 8, kNeon = 16 };
enum Needs : int { kAny, kBF16Only };  // dtypes of x
enum Family : int {
#define LOWBIT_FAMILY(name, type) name,
#include "common/families.inc"
#undef LOWBIT_FAMILY
  kFamilies
};

struct Kernel {
  Family family;
  const char* name;
  Isa isa;
  int64_t min_m;
  Needs needs;
  const void* function;
};

uint32_t detect_isa();                       // every level this machine has
uint32_t active_isa();                       // detected, or what was set
void set_active_isa(uint32_t mask);
bool force_kernel(const char* name);         // choose this kernel for its family whatever M is; null undoes all

int64_t kernel_count();
const Kernel& kernel_at(int64_t index);
// The last kernel of the family that `mask`, m and x's dtype allow.
const Kernel& select_kernel(Family family, uint32_t mask, int64_t m, Dtype dtype);
const Kernel& choose(Family family, int64_t m, Dtype dtype);  // with the active mask and forced kernels

}  // namespace lowbit
