#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>

#include "core/error.hpp"
#include "core/view_block.hpp"
#include "cuda/check.cuh"
#include "cuda/launch.hpp"

namespace margformer::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr std::int64_t kMaxBlocks = std::numeric_limits<std::int32_t>::max();

// The block that core/view_block.hpp asks for. Host bodies are empty: nvcc compiles them, nobody calls them.
class DeviceBlock {
  public:
    __device__ explicit DeviceBlock(double* partial) : partial_(partial) {}

    template <typename Body>
    __host__ __device__ __forceinline__ void for_each(std::uint32_t count, const Body& body) {
#if defined(__CUDA_ARCH__)
        for (std::uint32_t i = threadIdx.x; i < count; i += kThreads) body(i);
        __syncthreads();
#endif
    }

    // In a fixed order: threads, then warps by a tree, then the block.
    template <typename Term>
    __host__ __device__ __forceinline__ double sum(std::uint32_t count, const Term& term) {
        double total = 0.0;
#if defined(__CUDA_ARCH__)
        for (std::uint32_t i = threadIdx.x; i < count; i += kThreads) total += term(i);
        for (int offset = 16; offset > 0; offset /= 2) total += __shfl_down_sync(0xffffffffu, total, offset);
        if (threadIdx.x % 32 == 0) partial_[threadIdx.x / 32] = total;
        __syncthreads();
        total = 0.0;
        for (int warp = 0; warp < kWarps; ++warp) total += partial_[warp];
        __syncthreads();  // before anybody writes the next partial sums
#endif
        return total;
    }

  private:
    double* partial_;
};

template <bool kStaged, typename Decoder>
__global__ void __launch_bounds__(kThreads)
    views_kernel(BlockProblem problem, Decoder decoder, float* __restrict__ out) {
    extern __shared__ __align__(16) unsigned char shared[];
    __shared__ double partial[kWarps];
    DeviceBlock block(partial);
    BlockViews<kStaged, DeviceBlock, Decoder> views(block, problem, decoder, shared);
    for (std::int64_t n = blockIdx.x; n < problem.num_rows; n += gridDim.x) views.write(n, out);
}

template <bool kStaged, typename Decoder>
void launch(const BlockProblem& problem, const Decoder& decoder, float* out, cudaStream_t stream) {
    const std::size_t bytes = shared_bytes(problem, kStaged);
    const auto kernel = views_kernel<kStaged, Decoder>;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
          "asking for shared memory");
    const auto blocks = static_cast<unsigned>(std::min(problem.num_rows, kMaxBlocks));
    kernel<<<blocks, kThreads, bytes, stream>>>(problem, decoder, out);
}

}  // namespace

void views(const BlockProblem& problem, const Scaling& scaling, float* out, const Queue& queue) {
    if (problem.num_rows == 0 || problem.num_views == 0) return;
    const double values = static_cast<double>(problem.size) * problem.size * problem.bands;
    if (values > std::numeric_limits<std::int32_t>::max()) {
        throw DataError("a stamp has " + std::to_string(values) + " pixels", "", "less than 2^31 on a device");
    }
    const DeviceScope scope(queue.device);
    const auto stream = reinterpret_cast<cudaStream_t>(queue.stream);
    int limit = 0;
    check(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, queue.device),
          "asking for the size of shared memory");
    const bool staged =
        shared_bytes(problem, true) + kWarps * sizeof(double) <= static_cast<std::size_t>(limit);
    with_decoder(problem.layout, scaling, [&](const auto& decoder) {
        if (staged) {
            launch<true>(problem, decoder, out, stream);
        } else {
            launch<false>(problem, decoder, out, stream);
        }
    });
    check(cudaGetLastError(), "launching views");
}

}  // namespace margformer::cuda
