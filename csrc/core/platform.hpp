// What lets one header serve both the host compiler and nvcc, and what differs between machines.
#pragma once

#if defined(__CUDACC__)
#define MF_HOST_DEVICE __host__ __device__ __forceinline__
#else
// Always, so that it becomes part of a function that is compiled for several processors (cpu/clones.hpp).
#define MF_HOST_DEVICE inline __attribute__((always_inline))
#endif

#define MF_ALWAYS_INLINE inline __attribute__((always_inline))

// Before a short loop of fixed length: GCC unrolls those before it vectorises, and then no longer can.
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define MF_KEEP_LOOP _Pragma("GCC unroll 1")
#else
#define MF_KEEP_LOOP
#endif

namespace margformer {

// FITS stores the most significant byte first.
constexpr bool kFitsIsSwapped = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;

}  // namespace margformer
