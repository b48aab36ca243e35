// Two bits a ternary weight against five weights a byte (1.6 bits): one row of int8 codes times weights from memory and from L3, AVX-512 VNNI.
//
//     g++ -O3 -march=native -o /tmp/trits bench/kernels/trits.cpp && /tmp/trits
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <chrono>
static inline __m512i dots(__m512i s, __m512i a, __m512i b) { asm("vpdpbusd %2, %1, %0" : "+v"(s) : "v"(a), "v"(b)); return s; }
static inline __m512i four(const int8_t* q) { int v; memcpy(&v, q, 4); return _mm512_set1_epi32(v); }
// lines: 64 bytes = 16 rows x 4 bytes; 2 bits: 16 k a line; trits: 20 k a line
__attribute__((noinline)) int two(const int8_t* w, int64_t lines, const int8_t* q, int64_t per) {
  __m512i out = _mm512_setzero_si512();
  for (int64_t l = 0; l < lines; l += per) {
    __m512i a[4] = {};
    for (int64_t i = 0; i < per; ++i) {
      _mm_prefetch((const char*)w + (l + i) * 64 + 4096, _MM_HINT_T1);
      __m512i x = _mm512_loadu_si512(w + (l + i) * 64);
      for (int p = 0; p < 4; ++p) a[p] = dots(a[p], _mm512_and_si512(x, _mm512_set1_epi32(0x03030303u << 2 * p)), four(q + i * 16 + 4 * p));
    }
    out = _mm512_xor_si512(out, _mm512_add_epi32(_mm512_add_epi32(a[0], _mm512_srai_epi32(a[1], 2)), _mm512_add_epi32(_mm512_srai_epi32(a[2], 4), _mm512_srai_epi32(a[3], 6))));
  }
  return _mm512_reduce_add_epi32(out);
}
__attribute__((noinline)) int five(const int8_t* w, int64_t lines, const int8_t* q, int64_t per) {
  __m512i out = _mm512_setzero_si512();
  const __m512i one = _mm512_set1_epi8(1), t1 = _mm512_set1_epi8(86), t2 = _mm512_set1_epi8((char)171);
  for (int64_t l = 0; l < lines; l += per) {
    __m512i a[5] = {};
    for (int64_t i = 0; i < per; ++i) {
      _mm_prefetch((const char*)w + (l + i) * 64 + 4096, _MM_HINT_T1);
      __m512i x = _mm512_loadu_si512(w + (l + i) * 64);
      for (int p = 0; p < 5; ++p) {
        // digit = (x * 3) >> 8 = (x >= 86) + (x >= 171); then x = x * 3 mod 256
        __m512i d = _mm512_mask_add_epi8(_mm512_maskz_mov_epi8(_mm512_cmpge_epu8_mask(x, t1), one), _mm512_cmpge_epu8_mask(x, t2), _mm512_maskz_mov_epi8(_mm512_cmpge_epu8_mask(x, t1), one), one);
        a[p] = dots(a[p], d, four(q + i * 20 + 4 * p));
        x = _mm512_add_epi8(x, _mm512_add_epi8(x, x));
      }
    }
    out = _mm512_xor_si512(out, _mm512_add_epi32(_mm512_add_epi32(_mm512_add_epi32(a[0], a[1]), _mm512_add_epi32(a[2], a[3])), a[4]));
  }
  return _mm512_reduce_add_epi32(out);
}
int main() {
  const int64_t K = 3840, N = 4096, copies = 24;  // K a multiple of 16 and of 20
  const int64_t size2 = K / 16 * 64 * (N / 16), size5 = K / 20 * 64 * (N / 16);
  int8_t* w = (int8_t*)aligned_alloc(1 << 21, (size_t)(size2 * copies + (1 << 21)) >> 21 << 21);
  for (int64_t i = 0; i < size2 * copies; ++i) w[i] = (int8_t)(i * 2654435761u >> 13);
  int8_t* q = (int8_t*)malloc(K);
  for (int64_t k = 0; k < K; ++k) q[k] = (int8_t)(k * 37 % 255 - 127);
  typedef int Fn(const int8_t*, int64_t, const int8_t*, int64_t);
  struct { const char* name; Fn* fn; int64_t size, per; } all[] = {{"2 bits", two, size2, K / 16}, {"5 trits a byte", five, size5, K / 20}};
  for (int near = 0; near < 2; ++near)
    for (auto& each : all) {
      double best = 1e9; volatile int sink = 0;
      for (int r = 0; r < 60; ++r) {
        const int8_t* at = w + (near ? 0 : r % copies) * each.size;
        auto a = std::chrono::steady_clock::now();
        sink += each.fn(at, each.size / 64, q, each.per);
        double t = std::chrono::duration<double>(std::chrono::steady_clock::now() - a).count();
        if (t < best) best = t;
      }
      printf("%s %-16s %7.1f us  %6.1f weights/ns  %5.1f GB/s\n", near ? "L3    " : "memory", each.name, best * 1e6, K * N / best / 1e9, each.size / best / 1e9);
    }
}
