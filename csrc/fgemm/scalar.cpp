#include "vec/scalar.h"
#include "fgemm/loop.h"

namespace lowbit {

#define DEFINE(name, Format) \
  void fgemm_f32##name##_4x16_scalar(const FgemmArgs* args) { product<Format, 4, 1>(args); }
LOWBIT_FORMATS(DEFINE)

}  // namespace lowbit
