#include "bind/checks.h"

namespace lowbit {
namespace {

struct Place {
  int32_t type, index;
  bool operator==(const Place& other) const { return type == other.type && index == other.index; }
};

Place place_of(const Tensor& t) {
  Place place;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t.get(), &place.type));
  place.index = t.get_device_index();
  return place;
}

std::string name_of_type(int32_t type) {
  if (type == aoti_torch_device_type_cpu()) return "cpu";
  if (type == aoti_torch_device_type_cuda()) return "cuda";
  return type == aoti_torch_device_type_meta() ? "meta" : "device type " + std::to_string(type);
}

std::string name_of(const Place& place) {
  return name_of_type(place.type) + (place.type == aoti_torch_device_type_cuda() ? ":" + std::to_string(place.index) : "");
}

std::string layout_of(const Tensor& t) {
  constexpr const char* kNames[] = {"strided", "sparse_coo", "sparse_csr", "_mkldnn", "sparse_csc", "sparse_bsr", "sparse_bsc", "jagged"};
  const size_t layout = (size_t)t.layout();
  return layout < sizeof(kNames) / sizeof(kNames[0]) ? std::string("torch.") + kNames[layout] : "layout " + std::to_string(layout);
}

// Of the sizes that are not 0, because strides are made from them too.
bool countable(const Tensor& t) {
  int64_t count = 1;
  for (const int64_t size : t.sizes()) {
    if (size > kMostElements / count) return false;
    count *= size > 1 ? size : 1;
  }
  return true;
}

bool broadcasts(const Tensor& mask, const int64_t* sizes, int64_t dims) {
  const int64_t own = mask.dim();
  if (own > dims) return false;
  for (int64_t d = 0; d < own; ++d) {
    if (mask.size(d) != 1 && mask.size(d) != sizes[dims - own + d]) return false;
  }
  return true;
}

}  // namespace

void check_tensors(const char* op, int32_t device_type, Arguments arguments) {
  const char* first = nullptr;
  Place device{};
  for (const Argument& argument : arguments) {
    if (argument.tensor == nullptr) continue;
    const Tensor& t = *argument.tensor;
    EXPECT(op, t.layout() == torch::headeronly::Layout::Strided, argument.name, " to be a dense tensor, got ", layout_of(t));
    EXPECT(op, t.dim() <= kMostDims, argument.name, " of at most ", kMostDims, " dimensions, got ", t.dim());
    EXPECT(op, countable(t), argument.name, " of at most 2^47 elements, got ", shape(t));
    const Place place = place_of(t);
    if (first == nullptr) {
      EXPECT(op, place.type == device_type, argument.name, " on ", name_of_type(device_type), ", got ", name_of(place));
      first = argument.name;
      device = place;
    }
    EXPECT(op, place == device, argument.name, " on ", name_of(device), ", where ", first, " is, got ", name_of(place));
  }
}

void check_mask(const char* op, const Tensor& mask, const int64_t* sizes, int64_t dims) {
  const ScalarType type = mask.scalar_type();
  EXPECT(op, is_float(type) || type == ScalarType::Bool, "mask in bool, float32, bfloat16 or float16, got ", name(type));
  EXPECT(op, broadcasts(mask, sizes, dims), "mask that broadcasts to ", shape(sizes, dims), ", got ", shape(mask));
}

void check_memory(const char* op, Arguments arguments) {
  for (const Argument& argument : arguments) {
    if (argument.tensor == nullptr || argument.tensor->numel() == 0) continue;
    const Tensor& t = *argument.tensor;
    int64_t there = 0;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(t.get(), &there));
    const auto sizes = t.sizes(), strides = t.strides();
    __int128 last = t.storage_offset();
    for (int64_t d = 0; d < t.dim(); ++d) last += (__int128)(sizes[d] - 1) * strides[d];
    const __int128 needed = (last + 1) * (int64_t)t.element_size();
    if (t.const_data_ptr() == nullptr) there = 0;  // a tensor that only says it has memory
    EXPECT(op, needed <= there, argument.name, " with ", (int64_t)needed, " bytes of memory, got ", there);
  }
}

void check_result(const char* op, int64_t rows, int64_t columns) {
  EXPECT(op, columns == 0 || rows <= kMostElements / columns, "a result of at most 2^47 elements, got ", rows, " rows of ", columns);
}

}  // namespace lowbit
