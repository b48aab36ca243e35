// C functions around the emulated kernels, for ctypes. Each returns null or what went wrong.
#include "cuda/kernels.h"
#include "fibers.h"

using namespace lowbit;
using cuda::emulator::state;

#define ENTRY extern "C" __attribute__((visibility("default")))

// Memory that wide accesses and copies may touch from now on; and the order in which warps advance.
ENTRY void emulate(uint64_t seed) {
  state.range_count = 0;
  state.seed = seed;
  state.error[0] = 0;
}
ENTRY void announce(const void* begin, int64_t bytes) { state.ranges[state.range_count++] = {(const char*)begin, bytes}; }

static Matrix matrix(const void* x, int64_t stride, int64_t rows, int64_t columns, int dtype) { return {x, stride, rows, columns, (Dtype)dtype}; }

ENTRY const char* quantize_s8(const void* x, int64_t stride, int64_t rows, int64_t columns, int dtype, int8_t* q, float* scale) {
  cuda::quantize_s8(matrix(x, stride, rows, columns, dtype), q, scale, nullptr);
  return cuda::launch_error();
}
ENTRY const char* quantize_s4(const void* x, int64_t stride, int64_t rows, int64_t columns, int dtype, int64_t group, int8_t* q, float* scale) {
  cuda::quantize_s4(matrix(x, stride, rows, columns, dtype), group, q, scale, nullptr);
  return cuda::launch_error();
}
ENTRY const char* rotate(const void* x, int64_t stride, int64_t rows, int64_t columns, int dtype, float* out) {
  cuda::rotate(matrix(x, stride, rows, columns, dtype), out, nullptr);
  return cuda::launch_error();
}
ENTRY int64_t s8s8_workspace(int64_t m, int64_t k, int treatment) { return cuda::s8s8_workspace(m, k, (Treatment)treatment); }
ENTRY const char* linear_s8s8(const void* x, int64_t stride, int64_t rows, int64_t columns, int dtype, const int8_t* w, int64_t n, const void* bias,
                              int bias_dtype, void* out, int out_dtype, int treatment, float threshold, void* workspace) {
  const Linear op = {matrix(x, stride, rows, columns, dtype), w, n, bias, (Dtype)bias_dtype, out, (Dtype)out_dtype};
  cuda::linear_s8s8(op, (Treatment)treatment, threshold, workspace, nullptr);
  return cuda::launch_error();
}
ENTRY int64_t nested_workspace(int64_t m, int64_t k, int64_t group, int treatment) { return cuda::nested_workspace(m, k, group, (Treatment)treatment); }
ENTRY const char* linear_s8u4_nested(const void* x, int64_t stride, int64_t rows, int64_t columns, int dtype, const int8_t* w, int64_t n,
                                     const void* bias, int bias_dtype, void* out, int out_dtype, int64_t group, int treatment, void* workspace) {
  const Linear op = {matrix(x, stride, rows, columns, dtype), w, n, bias, (Dtype)bias_dtype, out, (Dtype)out_dtype};
  cuda::linear_s8u4_nested(op, (Treatment)treatment, group, workspace, nullptr);
  return cuda::launch_error();
}
ENTRY int64_t float_workspace(const void* x, int64_t stride, int64_t rows, int64_t columns, int dtype) {
  return cuda::float_workspace(matrix(x, stride, rows, columns, dtype));
}
// linear_f<name> of every packed format, and pack_<name> of those that the GPU packs.
#define PRODUCT(name, Format)                                                                                                              \
  ENTRY const char* linear_f##name(const void* x, int64_t stride, int64_t rows, int64_t columns, int dtype, const int8_t* w, int64_t n,    \
                                   const void* bias, int bias_dtype, void* out, int out_dtype, int64_t group, void* workspace) {           \
    const Linear op = {matrix(x, stride, rows, columns, dtype), w, n, bias, (Dtype)bias_dtype, out, (Dtype)out_dtype};                     \
    cuda::linear_float<Format>(op, group, workspace, nullptr);                                                                             \
    return cuda::launch_error();                                                                                                           \
  }
#define PACK(name, Format)                                                                                                                 \
  ENTRY const char* pack_##name(const int8_t* q, const float* scale, int64_t n, int64_t k, int64_t group, int8_t* out) {                   \
    cuda::pack<Format>(q, scale, n, k, group, out, nullptr);                                                                               \
    return cuda::launch_error();                                                                                                           \
  }
LOWBIT_FORMATS(PRODUCT)
LOWBIT_LINES(PRODUCT)
LOWBIT_FORMATS(PACK)
// Strides are lists for x, mask and out: of each outer dimension, then of the summed one. All are in elements, those of a mask 0 where it
// broadcasts; `splat`: also along adjacent elements. With more than one column the last dimension has stride 1.
ENTRY const char* softmax(const void* x, int64_t n, int64_t columns, int64_t dims, const int64_t* sizes, const int64_t* x_strides,
                          const int64_t* mask_strides, const int64_t* out_strides, int dtype, double scale, const void* mask, int kind,
                          int mask_dtype, int splat, int log, void* out, int out_dtype) {
  Softmax op = {};
  op.spec = {(Dtype)dtype, (Dtype)out_dtype, scale, (MaskKind)kind, (Dtype)mask_dtype, splat != 0, log != 0, false};
  op.x = x;
  op.mask = mask;
  op.out = out;
  op.n = n;
  op.columns = columns;
  op.x_step = x_strides[dims];
  op.mask_step = mask_strides[dims];
  op.out_step = out_strides[dims];
  op.outer.dims = dims;
  op.outer.count = 1;
  for (int64_t d = 0; d < dims; ++d) {
    op.outer.count *= sizes[d];
    op.outer.size[d] = sizes[d];
    op.outer.x[d] = x_strides[d] * element_size(op.spec.dtype);
    op.outer.mask[d] = mask_strides[d] * mask_size(op.spec.mask, op.spec.mask_dtype);
    op.outer.out[d] = out_strides[d] * element_size(op.spec.out_dtype);
  }
  cuda::softmax(op, nullptr);
  return cuda::launch_error();
}
