#include <string.h>

#include "common/types.h"

namespace lowbit {

void narrow_s8_scalar(const int8_t* panel, int64_t kp, int drop, int8_t* to) {
  const int half = 1 << (drop - 1), most = 128 - (1 << drop);
  int32_t sums[kPanel] = {};
  for (int64_t i = 0; i < kp * kPanel; ++i) {
    const int code = panel[i], rounded = (code + half - 1 + (code >> drop & 1)) & -(1 << drop);
    to[i] = (int8_t)(rounded < most ? rounded : most);
    sums[i / 4 % kPanel] += to[i];
  }
  memcpy((void*)S8::sums(to, kp), sums, sizeof(sums));
  memcpy((void*)S8::scales(to, kp), S8::scales(panel, kp), kPanel * 4);
}

}  // namespace lowbit
