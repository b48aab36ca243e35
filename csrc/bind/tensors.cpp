#include "bind/checks.h"

#include <sys/mman.h>

#include "linear/parallel.h"

namespace lowbit {

int32_t shim_dtype(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return aoti_torch_dtype_float32();
    case ScalarType::BFloat16: return aoti_torch_dtype_bfloat16();
    case ScalarType::Half: return aoti_torch_dtype_float16();
    case ScalarType::Bool: return aoti_torch_dtype_bool();
    case ScalarType::Byte: return aoti_torch_dtype_uint8();
    case ScalarType::Int: return aoti_torch_dtype_int32();
    default: return aoti_torch_dtype_int8();
  }
}

std::string shape(const int64_t* sizes, int64_t dims) {
  std::string text = "(";
  for (int64_t d = 0; d < dims; ++d) text += (d ? ", " : "") + std::to_string(sizes[d]);
  return text + (dims == 1 ? ",)" : ")");
}

std::string name(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return "torch.float32";
    case ScalarType::Double: return "torch.float64";
    case ScalarType::Half: return "torch.float16";
    case ScalarType::BFloat16: return "torch.bfloat16";
    case ScalarType::Char: return "torch.int8";
    case ScalarType::Byte: return "torch.uint8";
    case ScalarType::Short: return "torch.int16";
    case ScalarType::Int: return "torch.int32";
    case ScalarType::Long: return "torch.int64";
    case ScalarType::Bool: return "torch.bool";
    case ScalarType::ComplexFloat: return "torch.complex64";
    default: return torch::headeronly::toString(type);
  }
}

// Memory fresh from the system arrives a page at a time, which costs as much as a long softmax or a vocabulary's logits: 2 MB pages
// where they may be had. Only a request; where it is refused, nothing changes. Smaller tensors may lie on the allocator's heap, where
// the request would outlive them; from 32 MB on, malloc maps fresh memory, unless its heap has that much to spare.
static void ask_for_large_pages(void* data, uintptr_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kMapped = 32 << 20, kPage = 2 << 20;
  const uintptr_t begin = ((uintptr_t)data + kPage - 1) / kPage * kPage, end = ((uintptr_t)data + bytes) / kPage * kPage;
  if (bytes >= kMapped) madvise((void*)begin, end - begin, MADV_HUGEPAGE);
#endif
}

Tensor empty(const int64_t* sizes, const int64_t* strides, int64_t dims, int32_t type) {
  AtenTensorHandle handle;
  const AOTITorchError error = aoti_torch_empty_strided(dims, sizes, strides, type, aoti_torch_device_type_cpu(), 0, &handle);
  STD_TORCH_CHECK(error == AOTI_TORCH_SUCCESS, "lowbit: not enough memory for a tensor of shape ", shape(sizes, dims));
  Tensor tensor(handle);
  uintptr_t bytes = aoti_torch_dtype_element_size(type);
  for (int64_t d = 0; d < dims; ++d) bytes *= (uintptr_t)sizes[d];
  ask_for_large_pages(tensor.mutable_data_ptr(), bytes);
  return tensor;
}

Tensor allocate(const Tensor& x, int64_t last, ScalarType type) {
  int64_t sizes[kMostDims], strides[kMostDims];
  const int64_t dims = x.dim();
  int64_t step = 1;
  for (int64_t d = dims - 1; d >= 0; --d) {
    sizes[d] = d == dims - 1 ? last : x.size(d);
    strides[d] = step;
    step *= sizes[d] > 1 ? sizes[d] : 1;
  }
  return empty(sizes, strides, dims, shim_dtype(type));
}

Tensor allocate_heads(int64_t batch, int64_t rows, int64_t heads, int64_t columns, ScalarType type) {
  const int64_t sizes[4] = {batch, heads, rows, columns};
  const int64_t strides[4] = {rows * heads * columns, columns, heads * columns, 1};
  return empty(sizes, strides, 4, shim_dtype(type));
}

Tensor made_contiguous(const Tensor& t) {
  try {
    return torch::stable::contiguous(t);
  } catch (const std::exception&) {  // the C interface of torch 2.11 does not say why
    STD_TORCH_CHECK(false, "lowbit: not enough memory for a tensor of shape ", shape(t));
  }
}

bool is_misaligned(const Tensor& t) { return (uintptr_t)t.const_data_ptr() % t.element_size() != 0; }

Tensor dense(const Tensor& t) {
  const Tensor made = t.is_contiguous() ? t : made_contiguous(t);
  return is_misaligned(made) ? torch::stable::clone(made) : made;
}

Rows rows_of(const Tensor& x) {
  if (is_misaligned(x)) return rows_of(torch::stable::clone(x));
  const int64_t dims = x.dim(), k = x.size(dims - 1);
  const auto sizes = x.sizes(), strides = x.strides();
  int64_t rows = 1, stride = k, expected = -1;
  bool regular = k <= 1 || strides[dims - 1] == 1;
  for (int64_t d = dims - 2; d >= 0; --d) {
    rows *= sizes[d];
    if (sizes[d] == 1) continue;
    if (expected < 0) stride = strides[d];
    else regular = regular && strides[d] == expected;
    expected = strides[d] * sizes[d];
  }
  Tensor owner = regular || rows == 0 ? x : made_contiguous(x);
  return {owner, {owner.const_data_ptr(), regular ? stride : k, rows, k, dtype_of(x.scalar_type()), {}, 0}};
}

int64_t thread_count() { return torch::stable::get_num_threads(); }

void run_tasks(int64_t tasks, void (*task)(int64_t index, void* context), void* context) {
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) task(index, context);
  });
}

}  // namespace lowbit
