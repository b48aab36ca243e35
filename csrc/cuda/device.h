// Everything that only a GPU has, behind one set of names. tests/cuda/emulator.h is the second implementation: with it the kernels
// compile as host C++ and run on threads made of fibers, which is how they are tested where there is no GPU.
//
// Fragments of mma.m16n8k32 (PTX ISA, "Matrix Fragments"); g = lane / 4, t = lane % 4, a register holds 4 bytes of adjacent k:
//   a[0], a[1]: rows g and g + 8, k = 4t;  a[2], a[3]: the same rows, k = 4t + 16;  b[0], b[1]: column g, k = 4t and 4t + 16
//   c[0], c[1]: row g, columns 2t and 2t + 1;  c[2], c[3]: row g + 8
// Those of mma.m16n8k16 are the same with two 16-bit numbers in a register: k = 2t in the place of 4t, 8 in that of 16.
// The products do not care which k a register holds as long as a and b agree; the kernels use that freedom.
#pragma once
#include <stdint.h>

#include "cuda/common.h"

#ifdef LOWBIT_EMULATED
#include "emulator.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define LOWBIT_DEVICE __device__ __forceinline__
#define LOWBIT_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)

namespace lowbit::cuda {

LOWBIT_DEVICE int thread_index() { return (int)threadIdx.x; }
LOWBIT_DEVICE int block_threads() { return (int)blockDim.x; }
LOWBIT_DEVICE int64_t block_index() { return blockIdx.x; }
LOWBIT_DEVICE void barrier() { __syncthreads(); }
// A barrier that tells all threads whether any of them says so.
LOWBIT_DEVICE bool barrier_any(bool own) { return __syncthreads_or(own); }

// Memory of the block; as many bytes as the launch asked for.
LOWBIT_DEVICE char* shared_memory() {
  extern __shared__ __align__(128) char memory[];
  return memory;
}

// Aligned, wide accesses to either memory.
template <class T>
LOWBIT_DEVICE T load_wide(const void* from) { return *(const T*)from; }
template <class T>
LOWBIT_DEVICE void store_wide(void* to, T value) { *(T*)to = value; }

LOWBIT_DEVICE uint32_t float_bits(float x) { return __float_as_uint(x); }
LOWBIT_DEVICE float bits_float(uint32_t u) { return __uint_as_float(u); }
LOWBIT_DEVICE double bits_double(uint64_t u) { return __longlong_as_double((long long)u); }
LOWBIT_DEVICE int32_t round_even(float x) { return __float2int_rn(x); }
LOWBIT_DEVICE float bf16_to_float(uint16_t h) { return __uint_as_float((uint32_t)h << 16); }
LOWBIT_DEVICE float f16_to_float(uint16_t h) { return __half2float(__ushort_as_half(h)); }
LOWBIT_DEVICE uint16_t float_to_bf16(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
LOWBIT_DEVICE uint16_t float_to_f16(float x) { return __half_as_ushort(__float2half_rn(x)); }
// 2^23 plus byte `i` of a word: exact, and one instruction.
LOWBIT_DEVICE float biased_byte(uint32_t word, int i) { return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440 + i)); }

// Byte i of the result is byte `selector >> 4 i & 7` of the 8 bytes of low and high.
LOWBIT_DEVICE uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) { return __byte_perm(low, high, selector); }
// Both numbers of a word less those of another.
LOWBIT_DEVICE uint32_t subtract_f16(uint32_t a, uint32_t b) {
  const __half2 both = __hsub2(*(const __half2*)&a, *(const __half2*)&b);
  return *(const uint32_t*)&both;
}
LOWBIT_DEVICE uint32_t subtract_bf16(uint32_t a, uint32_t b) {
  const __nv_bfloat162 both = __hsub2(*(const __nv_bfloat162*)&a, *(const __nv_bfloat162*)&b);
  return *(const uint32_t*)&both;
}

// All 32 threads of a warp take part in what follows.
LOWBIT_DEVICE uint32_t shuffle_xor(uint32_t x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
LOWBIT_DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
LOWBIT_DEVICE double shuffle_xor(double x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }

// Four 8 x 16-byte matrices; lane l names row l % 8 of matrix l / 8 and gets word l % 4 of row l / 4 of each.
LOWBIT_DEVICE void load_matrices(uint32_t r[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"((uint32_t)__cvta_generic_to_shared(shared_row)));
}

LOWBIT_DEVICE void mma_s8(int32_t c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
LOWBIT_DEVICE void mma_bf16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
LOWBIT_DEVICE void mma_f16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 16 bytes to shared memory behind the threads' back, or 16 zero bytes (`from` is not read then, but must be a valid address).
LOWBIT_DEVICE void copy_async(void* shared, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"((uint32_t)__cvta_generic_to_shared(shared)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
LOWBIT_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Until all but the last `left` groups of this thread have arrived; other threads see them after a barrier.
template <int left>
LOWBIT_DEVICE void copy_wait() { asm volatile("cp.async.wait_group %0;\n" ::"n"(left) : "memory"); }

// Errors stay with the runtime and are asked for once, by launch_error().
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int shared, Stream stream, const Arguments&... arguments) {
  if (blocks == 0 || refuse(blocks)) return;
  if (shared > 48 << 10) cudaFuncSetAttribute((const void*)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  kernel<<<(unsigned)blocks, (unsigned)threads, (size_t)shared, (cudaStream_t)stream>>>(arguments...);
}
inline void zero_memory(void* memory, int64_t bytes, Stream stream) { cudaMemsetAsync(memory, 0, (size_t)bytes, (cudaStream_t)stream); }
// What the last launches of this thread failed with, or null.
inline const char* last_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? take_refusal() : cudaGetErrorString(error);
}

}  // namespace lowbit::cuda
#endif
