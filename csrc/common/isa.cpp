// What this machine can run: CPUID says what the processor has, XCR0 and arch_prctl what the system lets us use.
#include "common/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace lowbit {

#if defined(__x86_64__)

static bool bit(uint32_t word, int index) { return word >> index & 1; }

static uint64_t xcr0() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t)high << 32 | low;
}

// Tile data is off for a process until it asks: ARCH_REQ_XCOMP_PERM for XFEATURE_XTILEDATA.
static bool tiles_permitted() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

uint32_t detect_isa() {
  uint32_t isa = kScalar, a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !bit(c, 27)) return isa;  // no OSXSAVE: no vector state
  const bool fma = bit(c, 12), f16c = bit(c, 29);
  const uint64_t state = xcr0();
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return isa;
  if ((state & 0x6) != 0x6 || !bit(b, 5) || !fma || !f16c) return isa;
  isa |= kAvx2;
  const bool avx512 = bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31);  // F, DQ, BW, VL
  if ((state & 0xe6) != 0xe6 || !avx512 || !bit(c, 11)) return isa;
  isa |= kVnni;
  const bool amx = bit(d, 22) && bit(d, 24) && bit(d, 25);  // BF16, TILE, INT8
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !bit(a, 5)) return isa;  // AVX512_BF16
  isa |= kBf16;
  if ((state & 0x60000) != 0x60000 || !amx) return isa;
  return tiles_permitted() ? isa | kAmx : isa;
}

#elif defined(__aarch64__) && defined(__linux__)

uint32_t detect_isa() { return kScalar | (getauxval(AT_HWCAP) >> 20 & 1 ? kNeon : 0); }  // HWCAP_ASIMDDP

#else

uint32_t detect_isa() { return kScalar; }

#endif

}  // namespace lowbit
