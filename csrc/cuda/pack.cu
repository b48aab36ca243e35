// Codes and scales to panels: docs/arithmetic.md ("Packed weights"). A thread makes one word of the result.
#include "cuda/floats.h"
#include "cuda/kernels.h"

namespace lowbit::cuda {
namespace {

constexpr int kThreads = 256;

struct Job {
  const int8_t* q;     // [n, k]
  const float* scale;  // [n], or [n, groups]
  int64_t n, k, kp, group, words;  // words of a panel
  uint32_t* out;
};

LOWBIT_DEVICE int32_t code_at(const Job& job, int64_t row, int64_t k) { return row < job.n && k < job.k ? job.q[row * job.k + k] : 0; }

template <class F>
LOWBIT_DEVICE uint32_t word_of(const Job& job, int64_t panel, int64_t word) {
  const int64_t row = panel * kPanel + word % kPanel, line = word / kPanel, lines = job.kp / F::kCodes;
  if (line < lines) {
    int8_t codes[F::kCodes];
#pragma unroll
    for (int i = 0; i < F::kCodes; ++i) codes[i] = (int8_t)code_at(job, row, line * F::kCodes + i);
    return F::word(codes);
  }
  if (F::kSums && line == lines) {
    uint32_t sum = 0;
    for (int64_t k = 0; k < job.k; ++k) sum += (uint32_t)code_at(job, row, k);
    return sum;
  }
  const int64_t span = line - lines - (F::kSums ? 1 : 0), spans = F::spans(job.k, job.group);
  return float_bits(row < job.n && span < spans ? job.scale[row * spans + span] : 0.0f);
}

template <class F>
LOWBIT_KERNEL(kThreads, 4) pack_words(Job job) {
  const int64_t index = block_index() * kThreads + thread_index(), panel = index / job.words, word = index % job.words;
  if (panel * kPanel < job.n) job.out[index] = word_of<F>(job, panel, word);
}

}  // namespace

template <class F>
void pack(const int8_t* q, const float* scale, int64_t n, int64_t k, int64_t group, int8_t* out, Stream stream) {
  const int64_t kp = F::padded(k, group), words = F::bytes(kp, group) / 4;
  const Job job = {q, scale, n, k, kp, group, words, (uint32_t*)out};
  launch(pack_words<F>, (round_up(n, kPanel) / kPanel * words + kThreads - 1) / kThreads, kThreads, 0, stream, job);
}

#define INSTANCE(name, Format) \
  template void pack<Format>(const int8_t* q, const float* scale, int64_t n, int64_t k, int64_t group, int8_t* out, Stream stream);
LOWBIT_FORMATS(INSTANCE)

}  // namespace lowbit::cuda
