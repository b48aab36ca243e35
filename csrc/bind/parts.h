// Checks of the parts of weights whose codes are unsigned. Their words are those of runtime/format_checks.py.
#pragma once
#include "bind/checks.h"

namespace lowbit {

// A number for each group, or for each row.
inline void check_part(const char* op, const char* part, const Tensor& t, ScalarType type, int64_t n, int64_t columns) {
  const int64_t sizes[2] = {n, columns};
  const bool fits = t.scalar_type() == type && t.dim() == 2 && t.size(0) == n && t.size(1) == columns;
  EXPECT(op, fits, part, " in ", name(type).substr(sizeof("torch.") - 1), " of shape ", shape(sizes, 2), ", got ", name(t.scalar_type()), " of ", shape(t));
}

inline void check_codes(const char* op, const uint8_t* q, int64_t count, int most) {
  int largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = q[i] > largest ? q[i] : largest;
  EXPECT(op, largest <= most, "codes from 0 to ", most, ", got ", largest);
}

}  // namespace lowbit
