#include "vec/avx2.h"
#include "fgemm/loop.h"

namespace lowbit {

#define DEFINE(name, Format) \
  void fgemm_f32##name##_6x16_avx2(const FgemmArgs* args) { product<Format, 6, 2, 1>(args); }
LOWBIT_FORMATS(DEFINE)

}  // namespace lowbit
