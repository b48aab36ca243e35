#include "vec/scalar.h"
#include "fgemm/loop.h"

namespace lowbit {

#define DEFINE(name, Format) \
  void fgemm_f32##name##_4x16_scalar(const FgemmArgs* args) { product<4, 1>(args, Format::bytes(args->kp, args->group), unpack<Format>); }
LOWBIT_FORMATS(DEFINE)

#define LINES(name, Format) \
  void fgemm_f32##name##_4x16_scalar(const FgemmArgs* args) { product<4, 1>(args, Format::bytes(args->kp, args->group), unpack_lines<Format>); }
LOWBIT_PLANES(LINES)

}  // namespace lowbit
