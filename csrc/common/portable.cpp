// What the headers of later compilers and libraries ask of libraries that are newer than manylinux_2_28's: defined here, so that one wheel runs
// everywhere (`make wheel` checks it). exports.map keeps all of it inside the library.
#include <cmath>
#include <new>
#include <sstream>

#ifdef __GLIBCXX__
// glibc 2.32: whether atomic operations may be left out. They may not: torch has threads.
extern "C" {
extern char __libc_single_threaded;
char __libc_single_threaded = 0;
}

namespace std {
void __throw_bad_array_new_length() { throw bad_array_new_length(); }  // GCC 11: `new T[n]` of too large an n
template class basic_stringstream<char>;                                // GCC 9: constructors without arguments
template class basic_ostringstream<char>;
}  // namespace std
#endif
