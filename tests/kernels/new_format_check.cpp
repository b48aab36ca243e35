// Every kernel for the format of new_format.h that this machine runs, on small integers and powers of two: products are exact. A thread at most.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <vector>

#include "common/convert.h"
#include "common/kernels.h"
#include "linear/linear.h"
#include "linear/parallel.h"

namespace lowbit {

int64_t thread_count() { return 1; }
void run_tasks(int64_t tasks, void (*task)(int64_t, void*), void* context) {
  for (int64_t i = 0; i < tasks; ++i) task(i, context);
}

}  // namespace lowbit

using namespace lowbit;

struct Case {
  int64_t m, n, k, group;
  int64_t groups() const { return (k + group - 1) / group; }
};

static uint32_t state = 1;
static int next(int least, int most) {
  state = state * 1664525u + 1013904223u;
  return least + (int)(state >> 8) % (most - least + 1);
}

static int differences(const Case& c, const std::vector<int8_t>& q, const std::vector<float>& scale, const std::vector<float>& x,
                       const std::vector<float>& y) {
  int found = 0;
  for (int64_t i = 0; i < c.m; ++i) {
    for (int64_t j = 0; j < c.n; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < c.k; ++k) sum += (double)x[i * c.k + k] * q[j * c.k + k] * scale[j * c.groups() + k / c.group];
      found += y[i * c.n + j] != (float)sum;
    }
  }
  return found;
}

static int check(const Case& c, int* products) {
  std::vector<int8_t> q(c.n * c.k);
  std::vector<float> scale(c.n * c.groups()), x(c.m * c.k), y(c.m * c.n);
  std::vector<uint16_t> half(c.m * c.k);
  for (auto& code : q) code = (int8_t)next(T2::kLeast, T2::kMost);
  for (auto& s : scale) s = ldexpf(1, next(-2, 2));
  for (size_t i = 0; i < x.size(); ++i) half[i] = float_to_bf16(x[i] = (float)next(-16, 16));
  const int64_t bytes = (c.n + 15) / 16 * T2::bytes(T2::padded(c.k, c.group), c.group);
  int8_t* w = (int8_t*)aligned_alloc(64, (size_t)round_up(bytes, 64));
  pack<T2>(q.data(), scale.data(), c.n, c.k, c.group, w);
  int wrong = !rows_end<T2>(w, c.n, c.k, c.group) + !columns_end<T2>(w, c.k, c.group);
  for (int64_t i = 0; i < kernel_count(); ++i) {
    const Kernel& kernel = kernel_at(i);
    if (kernel.family != fgemm_t2 || !(kernel.isa & detect_isa())) continue;
    force_kernel(kernel.name);
    const bool narrow = kernel.needs == kBF16Only;
    const Matrix rows = {narrow ? (const void*)half.data() : (const void*)x.data(), c.k, c.m, c.k, narrow ? kBF16 : kF32, {}, 0};
    linear_float<T2>({rows, w, c.n, nullptr, kF32, y.data(), kF32}, c.group);
    const int found = differences(c, q, scale, x, y);
    if (found) printf("%s: %d results differ at m %d n %d k %d group %d\n", kernel.name, found, (int)c.m, (int)c.n, (int)c.k, (int)c.group);
    wrong += found;
    ++*products;
  }
  free(w);
  return wrong;
}

int main() {
  int products = 0, wrong = 0;
  for (int64_t m : {1, 3, 9, 33}) {
    for (int64_t n : {1, 40}) {
      for (int64_t k : {1, 65, 300}) {
        for (int64_t group : {32, 128}) wrong += check({m, n, k, group}, &products);
      }
    }
  }
  printf("%d products, %d differences\n", products, wrong);
  return wrong != 0 || products == 0;
}
