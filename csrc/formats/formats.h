// All packed formats.
#pragma once
#include "formats/s4.h"
#include "formats/s8.h"

// X(name, type) for each. From it come linear_f<name>, pack_<name>, the family of kernels fgemm_<name> and, in every file of csrc/fgemm, one
// of each of its kernels; those that may be chosen are listed in csrc/common/kernels.inc.
#define LOWBIT_FORMATS(X) \
  X(s8, S8)               \
  X(s4, S4)
