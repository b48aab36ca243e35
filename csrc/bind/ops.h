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

// The ops of a packed format.
template <class F>
struct NamesOf;
#define LOWBIT_NAMES(name, Format) \
  template <>                      \
  struct NamesOf<Format> {         \
    static constexpr const char *linear = "linear_f" #name, *pack = "pack_" #name; \
  };
LOWBIT_FORMATS(LOWBIT_NAMES)
LOWBIT_PLANES(LOWBIT_NAMES)
#undef LOWBIT_NAMES

// Those of a product with a packed weight.
struct LinearArguments {
  const char* op;
  const Tensor &x, &w;
  const OptionalTensor& bias;
  int64_t n, group;  // group: of a format that has groups
  OptionalType dtype;
  float threshold;
  const PrologueArguments& prologue;

  ScalarType out_type() const { return dtype ? *dtype : x.scalar_type(); }
};

template <class Device>
struct Ops {
  typedef void Run(Device&, const Linear&, const LinearArguments&);
  template <class F>
  static void floats(Device& device, const Linear& call, const LinearArguments& a) { device.template linear_float<F>(call, a.group); }
  template <Treatment treatment>
  static void integers(Device& device, const Linear& call, const LinearArguments& a) { device.linear_s8s8(call, treatment, a.threshold); }

  // most: the largest K; 0: any.
  template <class F>
  static void check_linear(const LinearArguments& a, const Arguments& arguments, int64_t most) {
    const char* op = a.op;
    const Tensor &x = a.x, &w = a.w;
    check_tensors(op, Device::type(), arguments);
    EXPECT(op, is_float(x.scalar_type()), "x in float32, bfloat16 or float16, got ", name(x.scalar_type()));
    EXPECT(op, x.dim() >= 1, "x with at least one dimension, got ", x.dim(), " dimensions");
    check_group<F>(op, a.group);
    const int64_t k = x.size(x.dim() - 1);
    EXPECT(op, k >= 1 && (most == 0 || k <= most), "K from 1 to ", most ? std::to_string(most) : "any", ", got ", k);
    EXPECT(op, a.n >= 0, "n of at least 0, got ", a.n);
    const int64_t panels = a.n / kPanel + (a.n % kPanel != 0), bytes = F::bytes(F::padded(k, a.group), a.group);
    EXPECT(op, w.scalar_type() == ScalarType::Char && w.dim() == 2, "w packed as int8 [panels, bytes], got ", name(w.scalar_type()), " of ",
           w.dim(), " dimensions");
    EXPECT(op, w.size(0) - kBehind<F> == panels, panels, " panels for n = ", a.n, ", got ", w.size(0) - kBehind<F>);
    EXPECT(op, w.size(1) == bytes, "panels of ", bytes, " bytes for K = ", k, ", got ", w.size(1));
    if (const auto& bias = a.bias) {
      EXPECT(op, bias->dim() == 1 && bias->size(0) == a.n, "bias of shape (", a.n, ",), got ", shape(*bias));
      EXPECT(op, is_float(bias->scalar_type()), "bias in float32, bfloat16 or float16, got ", name(bias->scalar_type()));
    }
    EXPECT(op, is_float(a.out_type()), "dtype float32, bfloat16 or float16, got ", name(a.out_type()));
    EXPECT(op, a.threshold >= 0, "threshold of at least 0, got ", a.threshold);
    check_memory(op, arguments);
    check_result(op, x.numel() / k, a.n);
  }

  template <class F>
  static Tensor linear_with(const LinearArguments& a, Run* run, int64_t most, bool rotated) {
    check_linear<F>(a, {{"x", a.x}, {"w", a.w}, {"bias", a.bias}, {"times", a.prologue.times}, {"plus", a.prologue.plus}}, most);
    Device device(a.x);
    if (a.x.numel() == 0 || a.n == 0) return device.allocate(a.x, a.n, a.out_type());
    Rows rows = rows_of(a.x);
    const PrologueOwner owner = set_prologue(a.op, a.x, a.prologue, rows.matrix);
    EXPECT(a.op, Device::kPrologue || is_plain(rows.matrix), "no prologue on this device, got one");
    const Tensor weight = device.aligned(a.w.is_contiguous() ? a.w : made_contiguous(a.w));
    const int8_t* panels = (const int8_t*)weight.const_data_ptr();
    device.template check_padding<F>(a.op, panels, a.n, rows.matrix.columns, a.group, rotated);
    std::optional<Tensor> bias;
    if (a.bias) bias = dense(*a.bias);
    Tensor out = device.allocate(a.x, a.n, a.out_type());
    const Linear call = {rows.matrix, panels, a.n, bias ? bias->const_data_ptr() : nullptr, bias ? dtype_of(bias->scalar_type()) : kF32,
                         out.mutable_data_ptr(), dtype_of(a.out_type())};
    run(device, call, a);
    return out;
  }

  template <Treatment treatment>
  static Tensor op_s8s8(const Tensor& x, const Tensor& w, const OptionalTensor& bias, int64_t n, OptionalType dtype,
                        const std::string& prologue, const OptionalTensor& times, const OptionalTensor& plus, double eps) {
    return op_split<treatment>(x, w, bias, n, 0, dtype, prologue, times, plus, eps);
  }
  template <Treatment treatment>
  static Tensor op_split(const Tensor& x, const Tensor& w, const OptionalTensor& bias, int64_t n, double threshold, OptionalType dtype,
                         const std::string& prologue, const OptionalTensor& times, const OptionalTensor& plus, double eps) {
    constexpr const char* kNames[] = {"linear_s8s8", "linear_s8s8_rotated", "linear_s8s8_columns", "linear_s8s8_rows"};
    const PrologueArguments before = {prologue, times, plus, eps};
    return linear_with<S8>({kNames[treatment], x, w, bias, n, 0, dtype, (float)threshold, before}, integers<treatment>, kMaxK,
                           treatment == kRotation);
  }
  template <Treatment treatment>
  static void nested(Device& device, const Linear& call, const LinearArguments& a) { device.linear_s8u4_nested(call, treatment, a.group); }
  template <Treatment treatment>
  static Tensor op_nested(const Tensor& x, const Tensor& w, const OptionalTensor& bias, int64_t n, int64_t group, OptionalType dtype,
                          const std::string& prologue, const OptionalTensor& times, const OptionalTensor& plus, double eps) {
    const PrologueArguments before = {prologue, times, plus, eps};
    const char* op = treatment == kRotation ? "linear_s8u4_nested_rotated" : "linear_s8u4_nested";
    return linear_with<U4Nested>({op, x, w, bias, n, group, dtype, 0, before}, nested<treatment>, kMaxK, treatment == kRotation);
  }
  template <class F>
  static Tensor op_float(const Tensor& x, const Tensor& w, const OptionalTensor& bias, int64_t n, OptionalType dtype,
                         const std::string& prologue, const OptionalTensor& times, const OptionalTensor& plus, double eps) {
    return op_float_grouped<F>(x, w, bias, n, 0, dtype, prologue, times, plus, eps);
  }
  template <class F>
  static Tensor op_float_grouped(const Tensor& x, const Tensor& w, const OptionalTensor& bias, int64_t n, int64_t group, OptionalType dtype,
                                 const std::string& prologue, const OptionalTensor& times, const OptionalTensor& plus, double eps) {
    const PrologueArguments before = {prologue, times, plus, eps};
    return linear_with<F>({NamesOf<F>::linear, x, w, bias, n, group, dtype, 0, before}, floats<F>, 0, false);
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
    check_group<S4>("quantize_s4", group);
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

  template <class F>
  static Tensor op_pack(const Tensor& q, const Tensor& scale) { return op_pack_grouped<F>(q, scale, 0); }
  template <class F>
  static Tensor op_pack_grouped(const Tensor& q, const Tensor& scale, int64_t group) {
    const char* op = NamesOf<F>::pack;
    check_group<F>(op, group);
    const Arguments arguments = {{"q", q}, {"scale", scale}};
    check_tensors(op, Device::type(), arguments);
    EXPECT(op, q.scalar_type() == ScalarType::Char && q.dim() == 2, "q in int8 of 2 dimensions, got ", name(q.scalar_type()), " of ", q.dim(),
           " dimensions");
    const int64_t n = q.size(0), k = q.size(1);
    check_scale(op, scale, n, F::spans(k, group), F::kGrouped);
    check_memory(op, arguments);
    Device device(q);
    const Tensor codes = dense(q), scales = dense(scale);
    device.check_codes(op, (const int8_t*)codes.const_data_ptr(), codes.numel(), F::kLeast, F::kMost);
    Tensor out = torch::stable::new_empty(q, {round_up(n, kPanel) / kPanel, F::bytes(F::padded(k, group), group)});
    device.template pack<F>((const int8_t*)codes.const_data_ptr(), (const float*)scales.const_data_ptr(), n, k, group,
                            (int8_t*)out.mutable_data_ptr());
    return out;
  }

  static Tensor op_rotate(const Tensor& x) {
    const Rows rows = checked_rows("rotate", x);
    Device device(x);
    Tensor out = device.allocate(x, round_up(rows.matrix.columns, kBlock), ScalarType::Float);
    device.rotate(rows.matrix, (float*)out.mutable_data_ptr());
    return out;
  }

  template <class F, class Library>
  static void register_format(Library& m) {
    if constexpr (F::kGrouped) {
      m.impl(NamesOf<F>::linear, TORCH_BOX(&Ops::op_float_grouped<F>));
      m.impl(NamesOf<F>::pack, TORCH_BOX(&Ops::op_pack_grouped<F>));
    } else {
      m.impl(NamesOf<F>::linear, TORCH_BOX(&Ops::op_float<F>));
      m.impl(NamesOf<F>::pack, TORCH_BOX(&Ops::op_pack<F>));
    }
  }

  // In a STABLE_TORCH_LIBRARY_IMPL block, whose key is the device's.
  template <class Library>
  static void register_all(Library& m) {
    m.impl("linear_s8s8", TORCH_BOX(&Ops::op_s8s8<kNone>));
    m.impl("linear_s8s8_rotated", TORCH_BOX(&Ops::op_s8s8<kRotation>));
    m.impl("linear_s8s8_columns", TORCH_BOX(&Ops::op_split<kColumns>));
    m.impl("linear_s8s8_rows", TORCH_BOX(&Ops::op_s8s8<kRows>));
    m.impl("linear_s8u4_nested", TORCH_BOX(&Ops::op_nested<kNone>));
    m.impl("linear_s8u4_nested_rotated", TORCH_BOX(&Ops::op_nested<kRotation>));
    m.impl("quantize_s8", TORCH_BOX(&Ops::op_quantize_s8));
    m.impl("quantize_s4", TORCH_BOX(&Ops::op_quantize_s4));
    m.impl("rotate", TORCH_BOX(&Ops::op_rotate));
#define LOWBIT_REGISTER(name, Format) register_format<Format>(m);
    LOWBIT_FORMATS(LOWBIT_REGISTER)
#undef LOWBIT_REGISTER
#define LOWBIT_REGISTER(name, Format) m.impl(NamesOf<Format>::linear, TORCH_BOX(&Ops::op_float_grouped<Format>));
    LOWBIT_LINES(LOWBIT_REGISTER)
#undef LOWBIT_REGISTER
  }
};

}  // namespace lowbit
