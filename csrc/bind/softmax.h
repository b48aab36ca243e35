// lowbit::softmax for any device: tensors with any strides to rows, or to rows side by side. Checks and their words are those of
// runtime/checks.py. Device: see ops.h; kMostOuter is how many dimensions around the one of a softmax it takes.
#pragma once
#include "softmax/softmax.h"

#include <string.h>

#include <string>

#include "bind/ops.h"

namespace lowbit {

inline int64_t size_of(ScalarType type) { return type == ScalarType::Bool ? 1 : type == ScalarType::Float ? 4 : 2; }

struct Strides {
  int64_t of[kMostSoftmaxDims];
};

inline Strides contiguous_strides(const int64_t* sizes, int64_t dims) {
  Strides made;
  int64_t step = 1;
  for (int64_t d = dims - 1; d >= 0; --d) {
    made.of[d] = step;
    step *= sizes[d] > 1 ? sizes[d] : 1;
  }
  return made;
}

// The strides of a mask that broadcasts to x.
inline Strides broadcast_strides(const Tensor& mask, int64_t dims) {
  Strides made;
  const int64_t own = mask.dim();
  for (int64_t d = 0; d < dims - own; ++d) made.of[d] = 0;
  const auto sizes = mask.sizes(), strides = mask.strides();
  for (int64_t d = 0; d < own; ++d) made.of[dims - own + d] = sizes[d] == 1 ? 0 : strides[d];
  return made;
}

// The dimensions after `dim` as one: their common stride, -1 if they have none. `count` is the product of their sizes.
inline int64_t inner_stride(const int64_t* sizes, const Strides& strides, int64_t dims, int64_t dim, int64_t* count) {
  int64_t stride = 0, expected = 0;
  bool regular = true;
  *count = 1;
  for (int64_t d = dims - 1; d > dim; --d) {
    *count *= sizes[d];
    if (sizes[d] == 1) continue;
    if (expected == 0) stride = strides.of[d];
    else regular = regular && strides.of[d] == expected;
    expected = strides.of[d] * sizes[d];
    if (stride == 0) regular = regular && strides.of[d] == 0, expected = -1;
  }
  return regular ? stride : -1;
}

// A mask as the kernels read it: one element for a row (or for rows side by side), or adjacent ones; `owner` keeps a copy alive.
struct Operand {
  std::optional<Tensor> owner;
  const void* data = nullptr;
  bool splat = false;
  Strides strides;
};

// Whether the kernels can read `mask` as it lies.
inline bool reads(Operand* made, const Tensor& mask, const int64_t* sizes, int64_t dims, int64_t dim, bool rows) {
  made->owner = mask;
  made->data = mask.const_data_ptr();
  made->strides = broadcast_strides(mask, dims);
  int64_t count;
  const int64_t across = rows ? (sizes[dim] == 1 ? 0 : made->strides.of[dim]) : inner_stride(sizes, made->strides, dims, dim, &count);
  made->splat = across == 0;
  return across == 0 || across == 1;
}

template <class Device>
Operand mask_operand(Device& device, const Tensor& mask, const int64_t* sizes, int64_t dims, int64_t dim, bool rows, const Strides& contiguous) {
  Operand made;
  if (reads(&made, mask, sizes, dims, dim, rows)) return made;
  // Adjacent in its own sizes first, which are often those of a fraction of x; all of x only where that is not enough.
  const Tensor own = made_contiguous(mask);
  if (reads(&made, own, sizes, dims, dim, rows)) return made;
  made.owner = device.expanded(own, sizes, made.strides, dims, contiguous);
  made.data = made.owner->const_data_ptr();
  made.strides = contiguous;
  return made;
}

// Outer dimensions, neighbours joined where all three strides allow it.
inline void set_outer(SoftmaxOuter* outer, const int64_t* sizes, int64_t dim, const Strides& x, const Strides& mask, const Strides& out,
               const SoftmaxSpec& spec) {
  const int64_t sx = element_size(spec.dtype), so = element_size(spec.out_dtype), sm = mask_size(spec.mask, spec.mask_dtype);
  outer->dims = 0;
  outer->count = 1;
  for (int64_t d = 0; d < dim; ++d) {
    outer->count *= sizes[d];
    if (sizes[d] == 1) continue;
    const int64_t bytes[3] = {x.of[d] * sx, mask.of[d] * sm, out.of[d] * so}, last = outer->dims - 1;
    const bool joins = last >= 0 && outer->x[last] == bytes[0] * sizes[d] && outer->mask[last] == bytes[1] * sizes[d] &&
                       outer->out[last] == bytes[2] * sizes[d];
    const int64_t at = joins ? last : outer->dims++;
    outer->size[at] = joins ? outer->size[at] * sizes[d] : sizes[d];
    outer->x[at] = bytes[0];
    outer->mask[at] = bytes[1];
    outer->out[at] = bytes[2];
  }
}

// x as the kernels read it: rows if nothing but ones follows dim; otherwise rows side by side, which must be adjacent.
struct Source {
  Tensor owner;
  Strides strides;
  int64_t columns;  // rows side by side
};

inline Source source_of(const Tensor& x, const int64_t* sizes, int64_t dim, const Strides& contiguous) {
  Source made = {x, {}, 0};
  const auto strides = x.strides();
  made.strides.of[0] = 1;
  for (int64_t d = 0; d < x.dim(); ++d) made.strides.of[d] = strides[d];
  const int64_t inner = inner_stride(sizes, made.strides, x.dim(), dim, &made.columns);
  const bool adjacent = made.columns == 1 ? sizes[dim] == 1 || made.strides.of[dim] == 1 : inner == 1;
  if (adjacent) return made;
  made.owner = made_contiguous(x);
  made.strides = contiguous;
  return made;
}

// Writes the sizes of x; a number has one.
template <class Device>
void check_softmax(const Tensor& x, int64_t dim, const std::optional<Tensor>& mask, ScalarType out_type, int64_t* sizes) {
  const Arguments arguments = {{"x", x}, {"mask", mask}};
  check_tensors("softmax", Device::type(), arguments);
  EXPECT("softmax", is_float(x.scalar_type()), "x in float32, bfloat16 or float16, got ", name(x.scalar_type()));
  const int64_t named = x.dim() ? x.dim() : 1;  // a number has a dimension to name, as in torch
  EXPECT("softmax", -named <= dim && dim < named, "dim from ", -named, " to ", named - 1, ", got ", dim);
  EXPECT("softmax", is_float(out_type), "dtype float32, bfloat16 or float16, got ", name(out_type));
  const auto x_sizes = x.sizes();
  sizes[0] = 1;
  for (int64_t d = 0; d < x.dim(); ++d) sizes[d] = x_sizes[d];
  if (mask) check_mask("softmax", *mask, sizes, x.dim());
  check_memory("softmax", arguments);
}

template <class Device>
Tensor op_softmax(const Tensor& x, int64_t dim, double scale, const std::optional<Tensor>& mask, bool log, std::optional<ScalarType> dtype) {
  const ScalarType out_type = dtype ? *dtype : x.scalar_type();
  const int64_t dims = x.dim();
  int64_t sizes[kMostSoftmaxDims];
  check_softmax<Device>(x, dim, mask, out_type, sizes);
  if (dim < 0) dim += dims ? dims : 1;
  if (is_misaligned(x)) return op_softmax<Device>(torch::stable::clone(x), dim, scale, mask, log, dtype);
  if (mask && is_misaligned(*mask)) return op_softmax<Device>(x, dim, scale, torch::stable::clone(*mask), log, dtype);

  Device device(x);
  const Strides out_strides = contiguous_strides(sizes, dims);
  Tensor out = device.empty(sizes, out_strides.of, dims, out_type);
  const Source source = source_of(x, sizes, dim, out_strides);
  Softmax op;
  op.spec = {dtype_of(x.scalar_type()), dtype_of(out_type), scale, kNoMask, kF32, false, log, false};
  op.x = source.owner.const_data_ptr();
  op.out = out.mutable_data_ptr();
  op.n = sizes[dim];
  op.columns = source.columns;

  Operand m;
  if (mask) {
    m = mask_operand(device, *mask, sizes, dims, dim, source.columns == 1, out_strides);
    op.spec.mask = mask->scalar_type() == ScalarType::Bool ? kBoolMask : kFloatMask;
    op.spec.mask_dtype = dtype_of(mask->scalar_type());
    op.spec.mask_splat = m.splat;
  } else {
    for (int64_t d = 0; d <= dim; ++d) m.strides.of[d] = 0;
  }
  op.mask = m.data;
  op.x_step = source.strides.of[dim];
  op.mask_step = m.strides.of[dim];
  op.out_step = out_strides.of[dim];
  set_outer(&op.outer, sizes, dim, source.strides, m.strides, out_strides, op.spec);
  if (op.outer.dims > Device::kMostOuter) {  // whole copies have one
    if (mask) m.owner = device.expanded(*m.owner, sizes, m.strides, dims, out_strides);
    return op_softmax<Device>(made_contiguous(x), dim, scale, m.owner, log, dtype);
  }
  device.softmax(op);
  return out;
}

}  // namespace lowbit
