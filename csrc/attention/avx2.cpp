#include "vec/avx2.h"

namespace lowbit {
namespace {

constexpr int kMicroRows = 6, kMicroVecs = 2;

}  // namespace
}  // namespace lowbit

#include "attention/direct.h"

namespace lowbit {

extern const AttentionKernels attention_direct_avx2, attention_panels_avx2, attention_codes_direct_avx2;
const AttentionKernels attention_direct_avx2 = kDirect;
const AttentionKernels attention_panels_avx2 = kPanels;
const AttentionKernels attention_codes_direct_avx2 = kDirectCodes;

}  // namespace lowbit
