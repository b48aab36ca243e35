#include "vec/scalar.h"

namespace lowbit {
namespace {

constexpr int kMicroRows = 2, kMicroVecs = 2;

}  // namespace
}  // namespace lowbit

#include "attention/direct.h"

namespace lowbit {

extern const AttentionKernels attention_direct_scalar, attention_panels_scalar, attention_codes_direct_scalar;
const AttentionKernels attention_direct_scalar = kDirect;
const AttentionKernels attention_panels_scalar = kPanels;
const AttentionKernels attention_codes_direct_scalar = kDirectCodes;

}  // namespace lowbit
