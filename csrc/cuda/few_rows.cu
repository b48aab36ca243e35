// Up to 4 float rows times packed weights, at the speed of memory: a block for each panel, whose warps read 512 adjacent bytes at a time.
// What a thread reads next is asked for together, before any of it is used: a multiprocessor must have some 20 KB on the way.
#include "cuda/fgemm.h"
#include "cuda/widen.h"

namespace lowbit::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kAtOnce = 4;

// Adds x[k .. k + 3] times 4 outputs, whose codes are v[output].
template <int kRows>
LOWBIT_DEVICE void multiply_four(float (*sum)[4], const float (*x)[4], const float (*v)[4]) {
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[m][j] = fmaf(x[m][i], v[j][i], sum[m][j]);
    }
  }
}

template <int kRows>
LOWBIT_DEVICE void load_rows(const Floats& job, int64_t k, bool regular, float (*x)[4]) {
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
    const bool exists = m < job.x.rows;
    const char* row = row_at(job.x, exists ? m : 0);
    if (regular && k + 4 <= job.x.columns && job.x.dtype == kF32) {
      const Four<float> four = load_wide<Four<float>>(row + k * 4);
#pragma unroll
      for (int i = 0; i < 4; ++i) x[m][i] = four.of[i];
    } else if (regular && k + 4 <= job.x.columns) {
      const HalfWords four = load_wide<HalfWords>(row + k * 2);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint16_t h = (uint16_t)(four.w[i / 2] >> i % 2 * 16);
        x[m][i] = job.x.dtype == kBF16 ? bf16_to_float(h) : f16_to_float(h);
      }
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) x[m][i] = k + i < job.x.columns ? load_number(row, job.x.dtype, k + i) : 0.0f;
    }
  }
}

// 16 bytes of a panel: 4 outputs of a line, and their scales where there are groups.
struct Chunk {
  Words codes;
  Four<float> scale;
};

template <int kRows, class F>
LOWBIT_DEVICE void multiply_chunk(const Floats& job, const Chunk& chunk, int64_t index, bool regular, float (*sum)[4]) {
  float x[kRows][4], v[4][4], part[kRows][4] = {};
  float(*to)[4] = F::kGrouped ? part : sum;
#pragma unroll
  for (int quad = 0; quad < F::kCodes / 4; ++quad) {
    for (int j = 0; j < 4; ++j) widen(F{}, chunk.codes.w[j], quad, v[j]);
    load_rows<kRows>(job, index / 4 * F::kCodes + 4 * quad, regular, x);
    multiply_four<kRows>(to, x, v);
  }
  if (!F::kGrouped) return;
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sum[m][j] = fmaf(chunk.scale.of[j], part[m][j], sum[m][j]);
  }
}

template <int kRows, class F>
LOWBIT_KERNEL(kThreads, 2) few(Floats job, bool regular) {
  const int warp = thread_index() / 32, lane = thread_index() % 32;
  const int64_t panel = block_index(), chunks = job.kp / F::kCodes * 4;
  const int8_t* codes = job.w.first + panel * job.w.stride;
  const float* scales = scales_of<F>(job, panel) + 4 * (thread_index() % 4);
  float sum[kRows][4] = {};
  for (int64_t first = thread_index(); first < chunks; first += kAtOnce * kThreads) {
    Chunk taken[kAtOnce] = {};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t chunk = first + i * kThreads;
      if (chunk >= chunks) break;
      taken[i].codes = load_wide<Words>(codes + chunk * 16);
      if (F::kGrouped) taken[i].scale = load_wide<Four<float>>(scales + (chunk / 4 * F::kCodes >> job.group_bits) * kPanel);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t chunk = first + i * kThreads;
      if (chunk < chunks) multiply_chunk<kRows, F>(job, taken[i], chunk, regular, sum);
    }
  }
  // Threads 4 apart have other k of the same outputs.
  float(*shared)[kRows][kPanel] = (float(*)[kRows][kPanel])shared_memory();
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      for (int mask = 4; mask < 32; mask *= 2) sum[m][j] += shuffle_xor(sum[m][j], mask);
      if (lane < 4) shared[warp][m][4 * lane + j] = sum[m][j];
    }
  }
  barrier();
  const int m = thread_index() / 4, quad = thread_index() % 4;
  if (m >= job.x.rows || m >= kRows || panel * kPanel + 4 * quad >= job.n) return;
  float total[4] = {};
  for (int w = 0; w < kWarps; ++w) {
    for (int j = 0; j < 4; ++j) total[j] += shared[w][m][4 * quad + j];
  }
  finish_four<F>(job, m, panel * kPanel + 4 * quad, total);
}

template <int kRows, class F>
void start(const Floats& job, Stream stream) {
  launch(few<kRows, F>, job.w.count, kThreads, kWarps * kRows * kPanel * 4, stream, job, is_regular(job.x));
}

}  // namespace

template <class F>
void few_rows(const Floats& job, Stream stream) {
  if (job.x.rows == 1) return start<1, F>(job, stream);
  if (job.x.rows == 2) return start<2, F>(job, stream);
  start<4, F>(job, stream);
}

#define INSTANCE(name, Format) template void few_rows<Format>(const Floats& job, Stream stream);
LOWBIT_FORMATS(INSTANCE)

}  // namespace lowbit::cuda
