// All packed formats.
#pragma once
#include "formats/d8.h"
#include "formats/lines.h"
#include "formats/s4.h"
#include "formats/s8.h"

// X(name, type) for each. From it come linear_f<name>, pack_<name>, the family of kernels fgemm_<name> and, in every file of csrc/fgemm, one
// of each of its kernels; those that may be chosen are listed in csrc/common/kernels.inc.
#define LOWBIT_FORMATS(X) \
  X(s8, S8)               \
  X(s4, S4)

namespace lowbit {

typedef Affine<3, HalfLines> U3;
typedef Affine<4, HalfLines> U4;
typedef Affine<5, HalfLines> U5;
typedef Affine<6, HalfLines> U6;
typedef Affine<8, HalfLines> U8;
typedef Affine<4, IntegerLines> U4Nested;

}  // namespace lowbit

// The same for codes on lines, whose kernels are in csrc/lines; they are for the CPU alone.
#define LOWBIT_LINES(X) \
  X(u3, U3)             \
  X(u4, U4)             \
  X(u5, U5)             \
  X(u6, U6)             \
  X(u8, U8)             \
  X(u4_nested, U4Nested)
