// The operations on plain pointers of a GPU's memory. All of them only start work on `stream`: no memory is allocated, nothing is waited
// for, and no size depends on data, so a CUDA graph can record them. launch_error() says what the last ones failed with.
#pragma once
#include "cuda/common.h"
#include "linear/linear.h"
#include "softmax/softmax.h"

namespace lowbit::cuda {

void quantize_s8(const Matrix& x, int8_t* q, float* scale, Stream stream);
void quantize_s4(const Matrix& x, int64_t group, int8_t* q, float* scale, Stream stream);
void rotate(const Matrix& x, float* out, Stream stream);
template <class F>  // a packed format
void pack(const int8_t* q, const float* scale, int64_t n, int64_t k, int64_t group, int8_t* out, Stream stream);

// `workspace`: as many bytes as the function above it says, aligned to 16. Weights are aligned to 16 as well.
int64_t s8s8_workspace(int64_t m, int64_t k, Treatment treatment);
void linear_s8s8(const Linear& op, Treatment treatment, float threshold, void* workspace, Stream stream);
int64_t nested_workspace(int64_t m, int64_t k, int64_t group, Treatment treatment);
void linear_s8u4_nested(const Linear& op, Treatment treatment, int64_t group, void* workspace, Stream stream);
int64_t float_workspace(const Matrix& x);
template <class F>
void linear_float(const Linear& op, int64_t group, void* workspace, Stream stream);

constexpr int kMostOuter = 6;  // dimensions around the one of a softmax
void softmax(const Softmax& op, Stream stream);

// Names of the kernels that m rows and n outputs get.
const char* s8s8_kernel(int64_t m, int64_t n);
const char* float_kernel(int64_t m);

const char* launch_error();  // or null

}  // namespace lowbit::cuda
