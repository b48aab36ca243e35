// All packed formats.
#pragma once
#include "formats/codebook.h"
#include "formats/d8.h"
#include "formats/lines.h"
#include "formats/s4.h"
#include "formats/s8.h"
#include "formats/ternary.h"

// X(name, type) for each. From it come linear_f<name>, pack_<name>, the family of kernels fgemm_<name> and, in every file of csrc/fgemm, one
// of each of its kernels; those that may be chosen are listed in csrc/common/kernels.inc.
#define LOWBIT_FORMATS(X) \
  X(s8, S8)               \
  X(s4, S4)               \
  LOWBIT_TERNARY(X)

#define LOWBIT_TERNARY(X) \
  X(ternary, Ternary)     \
  X(ternary_grouped, TernaryGroups)

namespace lowbit {

typedef Affine<3, HalfLines> U3;
typedef Affine<4, HalfLines> U4;
typedef Affine<5, HalfLines> U5;
typedef Affine<6, HalfLines> U6;
typedef Affine<8, HalfLines> U8;
typedef Affine<4, IntegerLines> U4Nested;
typedef Affine<4, FloatLines> Z4;
typedef Affine<6, FloatLines> Z6;
typedef Coded<NormalFloat> NF4;
typedef Coded<IQ4Integers> IQ4;
typedef Ternaries<false> Ternary;
typedef Ternaries<true> TernaryGroups;

}  // namespace lowbit

// The same for codes on lines; they are quantized and packed by kernels on the CPU alone.
#define LOWBIT_LINES(X) \
  X(u3, U3)             \
  X(u4, U4)             \
  X(u5, U5)             \
  X(u6, U6)             \
  X(u8, U8)             \
  X(u4_nested, U4Nested)

// Those that come from files: nothing quantizes to them; for the CPU alone.
#define LOWBIT_FILE_LINES(X) \
  X(z4, Z4)                 \
  X(z6, Z6)

// Codes for chosen numbers; for the CPU alone too.
#define LOWBIT_CODEBOOKS(X) \
  X(nf4, NF4)               \
  X(iq4, IQ4)

// Those whose panels are planes of bits, then scales, then a number for each row. A new one comes last: programs of chains count them.
#define LOWBIT_PLANES(X) LOWBIT_LINES(X) LOWBIT_CODEBOOKS(X) LOWBIT_FILE_LINES(X)

// All in planes of bits, which a few rows in fixed point meet.
#define LOWBIT_FIXED(X) LOWBIT_PLANES(X) LOWBIT_TERNARY(X)
