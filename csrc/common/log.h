// log() of whichever libm there is: the name that glibc 2.29 gave it anew differs in errno alone, and would ask for that version.
#pragma once
#include <math.h>

#if defined(__GLIBC__) && defined(__x86_64__)
__asm__(".symver log, log@GLIBC_2.2.5");
#elif defined(__GLIBC__) && defined(__aarch64__)
__asm__(".symver log, log@GLIBC_2.17");
#endif
