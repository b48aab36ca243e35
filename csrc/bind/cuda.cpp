// The ops on CUDA: the current stream of the tensors' device, and memory from torch's allocator, so that CUDA graphs record all of it. The
// library loads without a GPU, and on a torch without CUDA.
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include "bind/ops.h"
#include "bind/softmax.h"
#include "common/export.h"
#include "cuda/kernels.h"

namespace lowbit {
namespace {

// Looked up by name: a torch without CUDA does not have it, and this library shall load there too.
cuda::Stream current_stream(int32_t device) {
  typedef AOTITorchError (*Current)(int32_t, void**);
  static const Current current = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library ? (Current)dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr;
  }();
  STD_TORCH_CHECK(current, "lowbit: this torch has no CUDA");
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(current(device, &stream));
  return stream;
}

class Gpu {
 public:
  static constexpr int64_t kMostOuter = cuda::kMostOuter;
  static constexpr bool kPrologue = false;  // Inductor fuses it with its neighbours there

  explicit Gpu(const Tensor& x) : index_(x.get_device_index()), guard_(index_), stream_(current_stream(index_)) {}

  static int32_t type() { return aoti_torch_device_type_cuda(); }
  // Values would have to be waited for.
  template <class F>
  void check_padding(const char*, const int8_t*, int64_t, int64_t, int64_t, bool) const {}
  void check_codes(const char*, const int8_t*, int64_t, int, int) const {}
  // Kernels read 16 bytes at a time; a part of a larger tensor may start anywhere.
  Tensor aligned(const Tensor& weight) const {
    return (uintptr_t)weight.const_data_ptr() % 16 ? torch::stable::clone(weight) : weight;
  }
  Tensor empty(const int64_t* sizes, const int64_t* strides, int64_t dims, ScalarType type) const {
    AtenTensorHandle handle;
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_empty_strided(dims, sizes, strides, shim_dtype(type), aoti_torch_device_type_cuda(), index_, &handle));
    return Tensor(handle);
  }
  Tensor allocate(const Tensor& x, int64_t last, ScalarType type) const {
    int64_t sizes[kMostSoftmaxDims];
    const int64_t dims = x.dim();
    for (int64_t d = 0; d < dims; ++d) sizes[d] = d == dims - 1 ? last : x.size(d);
    return empty(sizes, contiguous_strides(sizes, dims).of, dims, type);
  }
  Tensor expanded(const Tensor& mask, const int64_t* sizes, const Strides&, int64_t dims, const Strides& contiguous) const {
    Tensor made = empty(sizes, contiguous.of, dims, mask.scalar_type());
    torch::stable::copy_(made, mask);
    return made;
  }

  void linear_s8s8(const Linear& op, Treatment treatment, float threshold) const {
    const Tensor workspace = bytes(cuda::s8s8_workspace(op.x.rows, op.x.columns, treatment));
    cuda::linear_s8s8(op, treatment, threshold, workspace.mutable_data_ptr(), stream_);
    check("linear_s8s8");
  }
  void linear_s8u4_nested(const Linear& op, Treatment treatment, int64_t group) const {
    const Tensor workspace = bytes(cuda::nested_workspace(op.x.rows, op.x.columns, group, treatment));
    cuda::linear_s8u4_nested(op, treatment, group, workspace.mutable_data_ptr(), stream_);
    check("linear_s8u4_nested");
  }
  template <class F>
  void linear_float(const Linear& op, int64_t group) const {
    const Tensor workspace = bytes(cuda::float_workspace(op.x));
    cuda::linear_float<F>(op, group, workspace.mutable_data_ptr(), stream_);
    check("linear");
  }
  void quantize_s8(const Matrix& x, int8_t* q, float* scale) const {
    cuda::quantize_s8(x, q, scale, stream_);
    check("quantize_s8");
  }
  void quantize_s4(const Matrix& x, int64_t group, int8_t* q, float* scale) const {
    cuda::quantize_s4(x, group, q, scale, stream_);
    check("quantize_s4");
  }
  void rotate(const Matrix& x, float* out) const {
    cuda::rotate(x, out, stream_);
    check("rotate");
  }
  template <class F>
  void pack(const int8_t* q, const float* scale, int64_t n, int64_t k, int64_t group, int8_t* out) const {
    cuda::pack<F>(q, scale, n, k, group, out, stream_);
    check("pack");
  }
  void softmax(Softmax& op) const {
    cuda::softmax(op, stream_);
    check("softmax");
  }

 private:
  // Given back when the op returns: later work on the same stream may have it, and comes later.
  Tensor bytes(int64_t count) const {
    const int64_t stride = 1;
    return empty(&count, &stride, 1, ScalarType::Char);
  }
  static void check(const char* op) {
    const char* error = cuda::launch_error();
    STD_TORCH_CHECK(error == nullptr, "lowbit::", op, ": ", error);
  }

  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
  cuda::Stream stream_;
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lowbit, CUDA, m) {
  Ops<Gpu>::register_all(m);
  m.impl("softmax", TORCH_BOX(&op_softmax<Gpu>));
}

}  // namespace lowbit

// For runtime/cuda_library.py (ctypes): the kernel that m rows of an op with n outputs get, or null.
LOWBIT_EXPORT const char* lowbit_cuda_kernel(const char* op, int64_t m, int64_t n) {
  const std::string name = op;
  if (name.rfind("linear_s8", 0) == 0) return lowbit::cuda::s8s8_kernel(m, n);
  if (name.rfind("linear_f", 0) == 0) return lowbit::cuda::float_kernel(m);
  return name == "softmax" ? "softmax_rows" : "rows";
}
