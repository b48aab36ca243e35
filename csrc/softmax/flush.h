// Results below 2^-126 become zero while this lives: otherwise each costs the processor a hundred cycles.
#pragma once
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace lowbit {
namespace {

class FlushToZero {
#if defined(__SSE__)
 public:
  FlushToZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8000); }
  ~FlushToZero() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#endif
};

}  // namespace
}  // namespace lowbit
