// linear_fs8 and its like: the choice of a kernel, and rows that tensor cores cannot fetch as they lie.
#include "cuda/fgemm.h"

namespace lowbit::cuda {
namespace {

constexpr int kThreads = 256;

const char* row_start(const Matrix& x, int64_t row) { return (const char*)x.data + row * x.stride * element_size(x.dtype); }

// The stride of rows that tiles are made of fits in 32 bits (bytes).
bool is_tiled(const Matrix& x) { return x.rows > kFewFloatRows && x.columns <= kMostTiledK && x.stride < 1 << 30; }
bool needs_copy(const Matrix& x) { return is_tiled(x) && !is_regular(x); }

LOWBIT_KERNEL(kThreads, 4) copy_rows(Matrix x, int64_t stride, char* out) {
  const char* from = row_at(x, block_index());
  for (int64_t k = thread_index(); k < stride; k += kThreads) {
    if (x.dtype == kF32) ((float*)out)[block_index() * stride + k] = k < x.columns ? ((const float*)from)[k] : 0.0f;
    else ((uint16_t*)out)[block_index() * stride + k] = k < x.columns ? ((const uint16_t*)from)[k] : (uint16_t)0;
  }
}

}  // namespace

int64_t float_workspace(const Matrix& x) { return needs_copy(x) ? x.rows * round_up(x.columns, kChunk) * element_size(x.dtype) : 0; }

template <class F>
void linear_float(const Linear& op, int64_t group, void* workspace, Stream stream) {
  const int64_t kp = F::padded(op.x.columns, group), panels = round_up(op.n, kPanel) / kPanel;
  if (op.x.rows == 0 || op.n == 0) return;
  const int bits = F::kGrouped ? __builtin_ctzll((uint64_t)group) : 0;
  Floats job = {op.x, {op.w, F::bytes(kp, group), panels}, kp, op.n, op.bias, op.bias_dtype, op.out, op.out_dtype, bits};
  if (!is_tiled(op.x)) {
    for (int64_t row = 0; row < op.x.rows; row += kFewFloatRows) {
      job.x.data = row_start(op.x, row);
      job.x.rows = op.x.rows - row < kFewFloatRows ? op.x.rows - row : kFewFloatRows;
      job.out = (char*)op.out + row * op.n * element_size(op.out_dtype);
      few_rows<F>(job, stream);
    }
    return;
  }
  if (needs_copy(op.x)) {
    const int64_t stride = round_up(op.x.columns, kChunk);
    launch(copy_rows, op.x.rows, kThreads, 0, stream, op.x, stride, (char*)workspace);
    job.x = {workspace, stride, op.x.rows, stride, op.x.dtype};
  }
  many_rows<F>(job, stream);
}

#define INSTANCE(name, Format) template void linear_float<Format>(const Linear& op, int64_t group, void* workspace, Stream stream);
LOWBIT_FORMATS(INSTANCE)
LOWBIT_LINES(INSTANCE)

const char* float_kernel(int64_t m) { return m <= kFewFloatRows ? "mma_few_rows" : m <= kSomeFloatRows ? "mma_narrow" : "mma_64x128"; }

}  // namespace lowbit::cuda
