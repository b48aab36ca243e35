// Codes on lines and of codebooks to the panels of docs/arithmetic.md.
#include <string.h>

#include "linear/linear.h"
#include "linear/parallel.h"

namespace lowbit {
namespace {

// Row r of a panel that is zero so far.
template <class A>
void pack_row(const LineParts& parts, int64_t row, int64_t k, int64_t group, int64_t r, int8_t* panel) {
  typedef typename A::Scale Scale;
  const int64_t kp = A::padded(k, group), groups = (k + group - 1) / group;
  const Scale* scale = (const Scale*)parts.scale + row * groups;
  for (int64_t i = 0; i < k; ++i) A::set_code(panel, i, r, parts.q[row * k + i]);
  for (int64_t g = 0; g < groups; ++g) ((Scale*)A::scales(panel, kp))[g * kPanel + r] = scale[g];
  ((float*)A::outer(panel, kp, group))[r] = parts.outer[row];
  if constexpr (A::kMinima) {
    typedef typename A::Minimum Minimum;
    for (int64_t g = 0; g < groups; ++g) ((Minimum*)A::minima(panel, kp, group))[g * kPanel + r] = ((const Minimum*)parts.minimum)[row * groups + g];
  }
  if constexpr (A::kNested) {
    const int8_t* minimum = (const int8_t*)parts.minimum + row * groups;
    int32_t sum = 0;
    for (int64_t g = 0; g < groups; ++g) sum += (int32_t)group * minimum[g];
    for (int64_t i = 0; i < k; ++i) sum += (int32_t)scale[i / group] * parts.q[row * k + i];
    ((int32_t*)(panel + A::sums_at(kp, group)))[r] = sum;
  }
}

template <class T>
bool is_zero(const T* row, int64_t count) {  // of every panel row's numbers, 16 apart; minus zero is not
  for (int64_t g = 0; g < count; ++g) {
    if (row[g * kPanel] != 0) return false;
  }
  return true;
}

}  // namespace

template <class A>
void pack_lines(const LineParts& parts, int64_t n, int64_t k, int64_t group, int8_t* out) {
  const int64_t bytes = A::bytes(A::padded(k, group), group), panels = round_up(n, kPanel) / kPanel, tasks = tasks_for(n * k * 8);
  parallel(tasks, [&](int64_t task) {
    const Range range = share(panels, tasks, task, 1);
    for (int64_t p = range.begin; p < range.end; ++p) {
      memset(out + p * bytes, 0, (size_t)bytes);
      for (int64_t r = 0; r < kPanel && p * kPanel + r < n; ++r) pack_row<A>(parts, p * kPanel + r, k, group, r, out + p * bytes);
    }
  });
}

template <class A>
bool lines_rows_end(const int8_t* w, int64_t n, int64_t k, int64_t group) {
  const int64_t kp = A::padded(k, group), last = (n - 1) / kPanel;
  const int8_t* panel = w + last * A::bytes(kp, group);
  for (int64_t r = n - last * kPanel; r < kPanel; ++r) {
    if (!is_zero(A::scales(panel, kp) + r, kp / group) || A::outer(panel, kp, group)[r] != 0) return false;
    if constexpr (A::kMinima) {
      if (!is_zero(A::minima(panel, kp, group) + r, kp / group)) return false;
    }
  }
  return true;
}

template <class A>
bool lines_columns_end(const int8_t* w, int64_t k, int64_t group) {
  for (int64_t i = k; i < A::padded(k, group); ++i) {
    for (int64_t r = 0; r < kPanel; ++r) {
      if (A::code(w, i, r) != 0) return false;
    }
  }
  return true;
}

#define INSTANCES(name, Format)                                                                                                   \
  template void pack_lines<Format>(const LineParts& parts, int64_t n, int64_t k, int64_t group, int8_t* out);                     \
  template <>                                                                                                                     \
  bool rows_end<Format>(const int8_t* w, int64_t n, int64_t k, int64_t group) { return lines_rows_end<Format>(w, n, k, group); }  \
  template <>                                                                                                                     \
  bool columns_end<Format>(const int8_t* w, int64_t k, int64_t group) { return lines_columns_end<Format>(w, k, group); }
LOWBIT_PLANES(INSTANCES)

}  // namespace lowbit
