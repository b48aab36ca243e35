// What a tile product of int8 codes costs on each core, in ns: operands in registers, loads between the products, loads first. Where the
// other hardware thread of a core computes on tiles too, loads make them four times as slow; loads first, a little less.
//
// g++ -O3 -std=c++17 -march=sapphirerapids -Icsrc -pthread bench/kernels/tiles.cpp -o tiles && ./tiles
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "common/amx.h"

namespace {

constexpr int kSteps = 4000, kRounds = 9;
alignas(4096) char memory[4 * 8 * 1024];  // two halves of A and of B, 8 tiles each: all in L1

void pin(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

void registers(int) { lowbit::Codes::multiply<2, 2>(); }

void loads_between(int k) {
  _tile_loadd(4, memory + k * 1024, 64);
  _tile_loadd(6, memory + (16 + k) * 1024, 64);
  _tile_dpbssd(0, 4, 6);
  _tile_loadd(7, memory + (24 + k) * 1024, 64);
  _tile_dpbssd(1, 4, 7);
  _tile_loadd(5, memory + (8 + k) * 1024, 64);
  _tile_dpbssd(2, 5, 6);
  _tile_dpbssd(3, 5, 7);
}

void loads_first(int k) {
  _tile_loadd(4, memory + k * 1024, 64);
  _tile_loadd(6, memory + (16 + k) * 1024, 64);
  _tile_loadd(7, memory + (24 + k) * 1024, 64);
  _tile_loadd(5, memory + (8 + k) * 1024, 64);
  registers(k);
}

template <class F>
double nanoseconds(F step) {
  double best = 1e9;
  for (int round = 0; round < kRounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kSteps; ++i) step(i % 8);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best / kSteps / 4 * 1e9;
}

}  // namespace

int main() {
  syscall(SYS_arch_prctl, 0x1023, 18);
  puts("core  registers  loads between  loads first");
  for (int round = 0; round < 5; ++round) {
    for (int core = 0; core < (int)std::thread::hardware_concurrency(); ++core) {
      pin(core);
      lowbit::configure_tiles(16);
      printf("%4d  %9.1f  %13.1f  %11.1f\n", core, nanoseconds([](int k) { registers(k); }), nanoseconds([](int k) { loads_between(k); }),
             nanoseconds([](int k) { loads_first(k); }));
      _tile_release();
    }
  }
}
