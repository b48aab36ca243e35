// The kernel table and the choice from it.
#pragma once
#include "common/types.h"

namespace lowbit {

struct SoftmaxKernels;
struct AttentionKernels;

enum Isa : uint32_t { kScalar = 1, kAvx2 = 2, kVnni = 4, kBf16 = 8, kAmx = 16, kNeon = 32 };
// Of x: any floats; bfloat16, in tiles; fixed-point numbers made of any floats, in pairs or in bytes (RowKernels::fixed).
enum Needs : int { kAny, kBF16Only, kPairs, kBytes };
enum Family : int {
#define LOWBIT_FAMILY(name, what) name,
#include "common/families.inc"
#undef LOWBIT_FAMILY
  kFamilies
};
template <Family family>
struct TypeOf;  // what the family's kernels are
#define LOWBIT_FAMILY(name, what) \
  template <>                     \
  struct TypeOf<name> {           \
    typedef what type;            \
  };
#include "common/families.inc"
#undef LOWBIT_FAMILY

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

template <Family family>
typename TypeOf<family>::type& function_of(const Kernel& kernel) { return *(typename TypeOf<family>::type*)kernel.function; }
template <Family family>
typename TypeOf<family>::type& chosen(int64_t m, Dtype dtype) { return function_of<family>(choose(family, m, dtype)); }

}  // namespace lowbit
