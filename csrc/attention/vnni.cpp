#include "vec/avx512.h"

namespace lowbit {
namespace {

constexpr int kMicroRows = 6, kMicroVecs = 4;

}  // namespace
}  // namespace lowbit

#include "attention/direct.h"

namespace lowbit {

extern const AttentionKernels attention_direct_vnni, attention_panels_vnni, attention_codes_direct_vnni;
const AttentionKernels attention_direct_vnni = kDirect;
const AttentionKernels attention_panels_vnni = kPanels;
const AttentionKernels attention_codes_direct_vnni = kDirectCodes;

}  // namespace lowbit
