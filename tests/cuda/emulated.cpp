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
