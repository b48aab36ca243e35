// Between torch's tensors and the plain pointers of csrc/linear. Only csrc/bind includes torch.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <string>

#include "linear/linear.h"

#ifndef STABLE_TORCH_ERROR_CODE_CHECK  // torch 2.11 and 2.12
#define STABLE_TORCH_ERROR_CODE_CHECK(call) TORCH_ERROR_CODE_CHECK(call)
#endif

namespace lowbit {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline bool is_float(ScalarType type) { return type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half; }

inline Dtype dtype_of(ScalarType type) { return type == ScalarType::Float ? kF32 : type == ScalarType::BFloat16 ? kBF16 : kF16; }

// Checks and their words are those of runtime/checks.py.
#define EXPECT(op, condition, ...) STD_TORCH_CHECK(condition, "lowbit::", op, ": expected ", __VA_ARGS__)

std::string name(ScalarType type);  // as Python prints it
std::string shape(const int64_t* sizes, int64_t dims);
inline std::string shape(const Tensor& t) { return shape(t.sizes().data(), t.dim()); }
int32_t shim_dtype(ScalarType type);

// On the CPU; `type` as the shim numbers it. The C shim costs half of a call through the dispatcher.
Tensor empty(const int64_t* sizes, const int64_t* strides, int64_t dims, int32_t type);

// A tensor of x's leading sizes and `last` columns.
Tensor allocate(const Tensor& x, int64_t last, ScalarType type);

// [batch, heads, rows, columns] with the heads of a row side by side.
Tensor allocate_heads(int64_t batch, int64_t rows, int64_t heads, int64_t columns, ScalarType type);

// Contiguous; dense: and where its elements may lie: memory that torch was lent may start anywhere. Copied only where it is not.
Tensor made_contiguous(const Tensor& t);
bool is_misaligned(const Tensor& t);
Tensor dense(const Tensor& t);

// x [..., K] as rows of one stride, copied only where its strides do not allow that.
struct Rows {
  Tensor owner;
  Matrix matrix;
};
Rows rows_of(const Tensor& x);

}  // namespace lowbit
