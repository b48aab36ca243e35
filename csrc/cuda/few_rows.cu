// Up to 4 float rows times integer weights, at the speed of memory: a block for each panel, whose warps read 512 adjacent bytes at a time.
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

// 16 bytes of a panel: 4 outputs of a k-group (pair), for int4 with their scales.
struct Chunk {
  Words codes;
  Four<float> scale;
};

template <int kRows, bool kNibbles>
LOWBIT_DEVICE void multiply_chunk(const Floats& job, const Chunk& chunk, int64_t index, bool regular, float (*sum)[4]) {
  float x[kRows][4], v[4][4];
  if (!kNibbles) {
    for (int j = 0; j < 4; ++j) widen_s8(chunk.codes.w[j], v[j]);
    load_rows<kRows>(job, index / 4 * 4, regular, x);
    return multiply_four<kRows>(sum, x, v);
  }
  float part[kRows][4] = {};
#pragma unroll
  for (int high = 0; high < 2; ++high) {
    for (int j = 0; j < 4; ++j) widen_s4(chunk.codes.w[j], high, v[j]);
    load_rows<kRows>(job, index / 4 * 8 + 4 * high, regular, x);
    multiply_four<kRows>(part, x, v);
  }
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sum[m][j] = fmaf(chunk.scale.of[j], part[m][j], sum[m][j]);
  }
}

template <int kRows, bool kNibbles>
LOWBIT_KERNEL(kThreads, 2) few(Floats job, bool regular) {
  const int warp = thread_index() / 32, lane = thread_index() % 32;
  const int64_t panel = block_index(), chunks = job.kp / (kNibbles ? 8 : 4) * 4;
  const int8_t* codes = job.w.first + panel * job.w.stride;
  const float* scales = scales_of(job, panel) + 4 * (thread_index() % 4);
  float sum[kRows][4] = {};
  for (int64_t first = thread_index(); first < chunks; first += kAtOnce * kThreads) {
    Chunk taken[kAtOnce] = {};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t chunk = first + i * kThreads;
      if (chunk >= chunks) break;
      taken[i].codes = load_wide<Words>(codes + chunk * 16);
      if (kNibbles) taken[i].scale = load_wide<Four<float>>(scales + (chunk / 4 * 8 >> job.group_bits) * kPanel);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t chunk = first + i * kThreads;
      if (chunk < chunks) multiply_chunk<kRows, kNibbles>(job, taken[i], chunk, regular, sum);
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
  finish_four(job, m, panel * kPanel + 4 * quad, total);
}

template <int kRows>
void start(const Floats& job, Stream stream) {
  const int shared = kWarps * kRows * kPanel * 4;
  if (job.group) launch(few<kRows, true>, job.w.count, kThreads, shared, stream, job, is_regular(job.x));
  else launch(few<kRows, false>, job.w.count, kThreads, shared, stream, job, is_regular(job.x));
}

}  // namespace

void few_rows(const Floats& job, Stream stream) {
  if (job.x.rows == 1) return start<1>(job, stream);
  if (job.x.rows == 2) return start<2>(job, stream);
  start<4>(job, stream);
}

}  // namespace lowbit::cuda
