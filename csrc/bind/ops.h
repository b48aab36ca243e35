// The ops that runtime/ops.py defines, for any device. Checks and their words are those of runtime/checks.py.
//
// Device is made from a tensor, whose device it is on while it lives; it allocates there, and has the operations of linear/linear.h.
#pragma once
#include <tuple>

#include "bind/checks.h"
#include "bind/prologue.h"

namespace lowbit {

using OptionalType = std::optional<ScalarType>;
using OptionalTensor = std::optional<Tensor>;

inline bool is_group(int64_t group) { return group == 32 || group == 64 || group == 128; }

template <class Device>
struct Ops {
  static void floats(Device& device, const Linear& call, int64_t group, float) { device.linear_float(call, group); }

  static Tensor linear_with(const char* op, const Tensor& x, const Tensor& w, const OptionalTensor& bias, int64_t n, OptionalType dtype,
                     int64_t group, void (*run)(Device&, const Linear&, int64_t, float), float threshold, const PrologueArguments* prologue) {
    const OptionalTensor none;
    const Arguments arguments = {
        {"x", x}, {"w", w}, {"bias", bias}, {"times", prologue ? prologue->times : none}, {"plus", prologue ? prologue->plus : none}};
    check_tensors(op, Device::type(), arguments);
    const ScalarType type = x.scalar_type();
    EXPECT(op, is_float(type), "x in float32, bfloat16 or float16, got ", name(type));
    EXPECT(op, x.dim() >= 1, "x with at least one dimension, got ", x.dim(), " dimensions");
    EXPECT(op, group == 0 || is_group(group), "group in (32, 64, 128), got ", group);
    const int64_t k = x.size(x.dim() - 1), kp = round_up(k, group > kBlock ? group : kBlock);
    const bool integer = run != floats;
    EXPECT(op, k >= 1 && (!integer || k <= kMaxK), "K from 1 to ", integer ? std::to_string(kMaxK) : "any", ", got ", k);
    EXPECT(op, n >= 0, "n of at least 0, got ", n);
    const int64_t panels = n / kPanel + (n % kPanel != 0), bytes = panel_bytes(kp, group);
    EXPECT(op, w.scalar_type() == ScalarType::Char && w.dim() == 2, "w packed as int8 [panels, bytes], got ", name(w.scalar_type()), " of ",
           w.dim(), " dimensions");
    EXPECT(op, w.size(0) == panels, panels, " panels for n = ", n, ", got ", w.size(0));
    EXPECT(op, w.size(1) == bytes, "panels of ", bytes, " bytes for K = ", k, ", got ", w.size(1));
    if (bias) {
      EXPECT(op, bias->dim() == 1 && bias->size(0) == n, "bias of shape (", n, ",), got ", shape(*bias));
      EXPECT(op, is_float(bias->scalar_type()), "bias in float32, bfloat16 or float16, got ", name(bias->scalar_type()));
    }
    const ScalarType out_type = dtype ? *dtype : type;
    EXPECT(op, is_float(out_type), "dtype float32, bfloat16 or float16, got ", name(out_type));
    EXPECT(op, threshold >= 0, "threshold of at least 0, got ", threshold);
    check_memory(op, arguments);
    check_result(op, x.numel() / k, n);
    Device device(x);
    if (x.numel() == 0 || n == 0) return device.allocate(x, n, out_type);
    Rows rows = rows_of(x);
    const PrologueOwner owner = prologue ? set_prologue(op, x, *prologue, rows.matrix) : PrologueOwner{};
    EXPECT(op, Device::kPrologue || is_plain(rows.matrix), "no prologue on this device, got one");
    const Tensor weight = device.aligned(w.is_contiguous() ? w : made_contiguous(w));
    device.check_padding(op, (const int8_t*)weight.const_data_ptr(), n, k, group, run == &integers<kRotation>);
    std::optional<Tensor> flat_bias;
    if (bias) flat_bias = dense(*bias);
    Tensor out = device.allocate(x, n, out_type);
    const Linear call = {rows.matrix, (const int8_t*)weight.const_data_ptr(), n, flat_bias ? flat_bias->const_data_ptr() : nullptr,
                         flat_bias ? dtype_of(flat_bias->scalar_type()) : kF32, out.mutable_data_ptr(), dtype_of(out_type)};
    run(device, call, group, threshold);
    return out;
  }

  template <Treatment treatment>
  static void integers(Device& device, const Linear& call, int64_t, float threshold) { device.linear_s8s8(call, treatment, threshold); }

  static Tensor op_s8s8(const Tensor& x, const Tensor& w, const OptionalTensor& bias, int64_t n, OptionalType dtype,
                        const std::string& prologue, const OptionalTensor& times, const OptionalTensor& plus, double eps) {
    const PrologueArguments arguments = {prologue, times, plus, eps};
    return linear_with("linear_s8s8", x, w, bias, n, dtype, 0, integers<kNone>, 0, &arguments);
  }
  static Tensor op_rotated(const Tensor& x, const Tensor& w, const OptionalTensor& bias, int64_t n, OptionalType dtype,
                           const std::string& prologue, const OptionalTensor& times, const OptionalTensor& plus, double eps) {
    const PrologueArguments arguments = {prologue, times, plus, eps};
    return linear_with("linear_s8s8_rotated", x, w, bias, n, dtype, 0, integers<kRotation>, 0, &arguments);
  }
  static Tensor op_columns(const Tensor& x, const Tensor& w, const OptionalTensor& bias, int64_t n, double threshold, OptionalType dtype,
                           const std::string& prologue, const OptionalTensor& times, const OptionalTensor& plus, double eps) {
    const PrologueArguments arguments = {prologue, times, plus, eps};
    return linear_with("linear_s8s8_columns", x, w, bias, n, dtype, 0, integers<kColumns>, (float)threshold, &arguments);
  }
  static Tensor op_rows(const Tensor& x, const Tensor& w, const OptionalTensor& bias, int64_t n, OptionalType dtype,
                        const std::string& prologue, const OptionalTensor& times, const OptionalTensor& plus, double eps) {
    const PrologueArguments arguments = {prologue, times, plus, eps};
    return linear_with("linear_s8s8_rows", x, w, bias, n, dtype, 0, integers<kRows>, 0, &arguments);
  }
  static Tensor op_fs8(const Tensor& x, const Tensor& w, const OptionalTensor& bias, int64_t n, OptionalType dtype) {
    return linear_with("linear_fs8", x, w, bias, n, dtype, 0, floats, 0, nullptr);
  }
  static Tensor op_fs4(const Tensor& x, const Tensor& w, const OptionalTensor& bias, int64_t n, int64_t group, OptionalType dtype) {
    EXPECT("linear_fs4", group != 0, "group in (32, 64, 128), got 0");
    return linear_with("linear_fs4", x, w, bias, n, dtype, group, floats, 0, nullptr);
  }

  static Rows checked_rows(const char* op, const Tensor& x) {
    check_tensors(op, Device::type(), {{"x", x}});
    EXPECT(op, is_float(x.scalar_type()), "x in float32, bfloat16 or float16, got ", name(x.scalar_type()));
    EXPECT(op, x.dim() >= 1, "x with at least one dimension, got ", x.dim(), " dimensions");
    EXPECT(op, x.size(x.dim() - 1) >= 1, "K of at least 1, got 0");
    check_memory(op, {{"x", x}});
    return rows_of(x);
  }

  static std::tuple<Tensor, Tensor> op_quantize_s8(const Tensor& x) {
    const Rows rows = checked_rows("quantize_s8", x);
    Device device(x);
    Tensor q = device.allocate(x, rows.matrix.columns, ScalarType::Char), scale = device.allocate(x, 1, ScalarType::Float);
    device.quantize_s8(rows.matrix, (int8_t*)q.mutable_data_ptr(), (float*)scale.mutable_data_ptr());
    return {q, scale};
  }

  static std::tuple<Tensor, Tensor> op_quantize_s4(const Tensor& w, int64_t group) {
    check_tensors("quantize_s4", Device::type(), {{"w", w}});
    EXPECT("quantize_s4", is_float(w.scalar_type()), "w in float32, bfloat16 or float16, got ", name(w.scalar_type()));
    EXPECT("quantize_s4", w.dim() == 2, "w of shape [N, K], got ", w.dim(), " dimensions");
    EXPECT("quantize_s4", w.size(1) >= 1, "K of at least 1, got 0");
    EXPECT("quantize_s4", is_group(group), "group in (32, 64, 128), got ", group);
    check_memory("quantize_s4", {{"w", w}});
    Device device(w);
    const Rows rows = rows_of(w);
    const int64_t groups = (rows.matrix.columns + group - 1) / group;
    Tensor q = device.allocate(w, rows.matrix.columns, ScalarType::Char), scale = device.allocate(w, groups, ScalarType::Float);
    device.quantize_s4(rows.matrix, group, (int8_t*)q.mutable_data_ptr(), (float*)scale.mutable_data_ptr());
    return {q, scale};
  }

  static void check_scale(const char* op, const Tensor& scale, int64_t n, int64_t groups, bool four) {
    const bool fits = scale.dim() == 2 ? scale.size(0) == n && scale.size(1) == groups : !four && scale.dim() == 1 && scale.size(0) == n;
    const int64_t sizes[2] = {n, groups};
    EXPECT(op, scale.scalar_type() == ScalarType::Float && fits, "scale in float32 of shape ",
           four ? shape(sizes, 2) : shape(sizes, 1) + " or " + shape(sizes, 2), ", got ", name(scale.scalar_type()), " of ", shape(scale));
  }

  static Tensor packed(const char* op, const Tensor& q, const Tensor& scale, int64_t group) {
    const Arguments arguments = {{"q", q}, {"scale", scale}};
    check_tensors(op, Device::type(), arguments);
    EXPECT(op, q.scalar_type() == ScalarType::Char && q.dim() == 2, "q in int8 of 2 dimensions, got ", name(q.scalar_type()), " of ", q.dim(),
           " dimensions");
    const int64_t n = q.size(0), k = q.size(1), groups = group ? (k + group - 1) / group : 1;
    check_scale(op, scale, n, groups, group != 0);
    check_memory(op, arguments);
    Device device(q);
    const Tensor codes = dense(q), scales = dense(scale);
    device.check_codes(op, (const int8_t*)codes.const_data_ptr(), codes.numel(), group);
    const int64_t panels = round_up(n, kPanel) / kPanel, bytes = panel_bytes(round_up(k, group > kBlock ? group : kBlock), group);
    Tensor out = torch::stable::new_empty(q, {panels, bytes});
    device.pack((const int8_t*)codes.const_data_ptr(), (const float*)scales.const_data_ptr(), n, k, group, (int8_t*)out.mutable_data_ptr());
    return out;
  }

  static Tensor op_pack_s8(const Tensor& q, const Tensor& scale) { return packed("pack_s8", q, scale, 0); }
  static Tensor op_pack_s4(const Tensor& q, const Tensor& scale, int64_t group) {
    EXPECT("pack_s4", is_group(group), "group in (32, 64, 128), got ", group);
    return packed("pack_s4", q, scale, group);
  }

  static Tensor op_rotate(const Tensor& x) {
    const Rows rows = checked_rows("rotate", x);
    Device device(x);
    Tensor out = device.allocate(x, round_up(rows.matrix.columns, kBlock), ScalarType::Float);
    device.rotate(rows.matrix, (float*)out.mutable_data_ptr());
    return out;
  }
};

// In a STABLE_TORCH_LIBRARY_IMPL block, whose key is the device's.
#define LOWBIT_REGISTER_OPS(m, Device) \
  m.impl("linear_s8s8", TORCH_BOX(&Ops<Device>::op_s8s8)); \
  m.impl("linear_s8s8_rotated", TORCH_BOX(&Ops<Device>::op_rotated)); \
  m.impl("linear_s8s8_columns", TORCH_BOX(&Ops<Device>::op_columns)); \
  m.impl("linear_s8s8_rows", TORCH_BOX(&Ops<Device>::op_rows)); \
  m.impl("linear_fs8", TORCH_BOX(&Ops<Device>::op_fs8)); \
  m.impl("linear_fs4", TORCH_BOX(&Ops<Device>::op_fs4)); \
  m.impl("quantize_s8", TORCH_BOX(&Ops<Device>::op_quantize_s8)); \
  m.impl("quantize_s4", TORCH_BOX(&Ops<Device>::op_quantize_s4)); \
  m.impl("pack_s8", TORCH_BOX(&Ops<Device>::op_pack_s8)); \
  m.impl("pack_s4", TORCH_BOX(&Ops<Device>::op_pack_s4)); \
  m.impl("rotate", TORCH_BOX(&Ops<Device>::op_rotate));

}  // namespace lowbit
