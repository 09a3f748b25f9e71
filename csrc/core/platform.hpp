// What lets one header serve both the host compiler and nvcc.
#pragma once

#if defined(__CUDACC__)
#define MF_HOST_DEVICE __host__ __device__ __forceinline__
#else
// Always, so that it becomes part of a function that is compiled for several processors (cpu/simd.hpp).
#define MF_HOST_DEVICE inline __attribute__((always_inline))
#endif

#define MF_ALWAYS_INLINE inline __attribute__((always_inline))
