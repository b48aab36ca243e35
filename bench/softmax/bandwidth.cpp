// What the memory allows: reading n floats, and copying them with stores past the caches. rows.py compiles this with -march=native.
#include <immintrin.h>
#include <stdint.h>

extern "C" float read_floats(const float* x, int64_t n) {
  float sums[64] = {};
  for (int64_t i = 0; i + 64 <= n; i += 64) {
    for (int j = 0; j < 64; ++j) sums[j] += x[i + j];
  }
  float sum = 0;
  for (float part : sums) sum += part;
  return sum;
}

// `to` must be aligned to 32 bytes.
extern "C" void stream_copy(const float* from, float* to, int64_t n) {
  for (int64_t i = 0; i + 16 <= n; i += 16) {
    _mm256_stream_ps(to + i, _mm256_loadu_ps(from + i));
    _mm256_stream_ps(to + i + 8, _mm256_loadu_ps(from + i + 8));
  }
  _mm_sfence();
}
