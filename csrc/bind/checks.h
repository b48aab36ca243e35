// What every op asks of its tensors, whatever they are for. Checks and their words are those of runtime/checks.py and runtime/values.py.
#pragma once
#include "bind/tensors.h"

namespace lowbit {

constexpr int64_t kMostDims = 64;                    // arrays of sizes and strides have this length
constexpr int64_t kMostElements = (int64_t)1 << 47;  // more than an address space holds: counts and sizes in bytes stay far from 2^63

struct Argument {
  const char* name;
  const Tensor* tensor;  // null: not given

  Argument(const char* name, const Tensor& tensor) : name(name), tensor(&tensor) {}
  Argument(const char* name, const std::optional<Tensor>& tensor) : name(name), tensor(tensor ? &*tensor : nullptr) {}
};
using Arguments = std::initializer_list<Argument>;

// Dense tensors of sizes that can be counted, all on one device of this type.
void check_tensors(const char* op, int32_t device_type, Arguments arguments);
void check_mask(const char* op, const Tensor& mask, const int64_t* sizes, int64_t dims);
// All of every tensor lies in its storage; that of a freed weight is gone.
void check_memory(const char* op, Arguments arguments);
void check_result(const char* op, int64_t rows, int64_t columns);

// The sizes of a group, where `least` is the smallest: in order and words those of runtime/formats.
inline bool is_group(int64_t group, int64_t least) { return group == least || group == 32 || group == 64 || group == 128; }
inline const char* groups_from(int64_t least) { return least == 16 ? "(32, 16, 64, 128)" : "(32, 64, 128)"; }
template <class F>
void check_group(const char* op, int64_t group) {
  EXPECT(op, !F::kGrouped || is_group(group, kLeastGroup<F>), "group in ", groups_from(kLeastGroup<F>), ", got ", group);
}

}  // namespace lowbit
