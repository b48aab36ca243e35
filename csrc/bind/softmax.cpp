// lowbit::softmax on the CPU.
#include "bind/softmax.h"

namespace lowbit {
namespace {

void copy_strided(const char* from, const int64_t* sizes, const int64_t* strides, int64_t dims, int64_t size, char** to) {
  if (dims == 0) {
    memcpy(*to, from, (size_t)size);
    *to += size;
    return;
  }
  for (int64_t i = 0; i < sizes[0]; ++i) copy_strided(from + i * strides[0] * size, sizes + 1, strides + 1, dims - 1, size, to);
}

struct Cpu {
  static constexpr int64_t kMostOuter = kMostSoftmaxDims;
  static int32_t type() { return aoti_torch_device_type_cpu(); }
  explicit Cpu(const Tensor&) {}
  Tensor empty(const int64_t* sizes, const int64_t* strides, int64_t dims, ScalarType type) const {
    return lowbit::empty(sizes, strides, dims, shim_dtype(type));
  }
  Tensor expanded(const Tensor& mask, const int64_t* sizes, const Strides& strides, int64_t dims, const Strides& contiguous) const {
    Tensor made = empty(sizes, contiguous.of, dims, mask.scalar_type());
    char* to = (char*)made.mutable_data_ptr();
    copy_strided((const char*)mask.const_data_ptr(), sizes, strides.of, dims, size_of(mask.scalar_type()), &to);
    return made;
  }
  void softmax(Softmax& op) const { softmax_of(op); }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(lowbit, CPU, m) { m.impl("softmax", TORCH_BOX(&op_softmax<Cpu>)); }

}  // namespace lowbit
