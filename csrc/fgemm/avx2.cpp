#include "vec/avx2.h"
#include "fgemm/fixed.h"

namespace lowbit {

#define DEFINE(name, Format) \
  void fgemm_f32##name##_6x16_avx2(const FgemmArgs* args) { product<6, 2, 1>(args, Format::bytes(args->kp, args->group), unpack<Format>); }
LOWBIT_FORMATS(DEFINE)

#define LINES(name, Format)                                                                                                              \
  void fgemm_s16##name##_4x16_avx2(const FgemmArgs* args) { fixed_product<Format>(args); }                                               \
  void fgemm_f32##name##_6x16_avx2(const FgemmArgs* args) { product<6, 2, 1>(args, Format::bytes(args->kp, args->group), unpack_lines<Format>); }
LOWBIT_LINES(LINES)

}  // namespace lowbit
