#include <algorithm>
#include <cstdint>
#include <limits>

#include "core/error.hpp"
#include "cuda/check.cuh"
#include "cuda/launch.hpp"

namespace margformer::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kMaxGridY = 65535;

// Blocks along y take rows, threads along x the pixels of a row: neighbours write, and mostly read,
// neighbours.
template <typename Decoder>
__global__ void __launch_bounds__(kThreads)
    decode_kernel(const unsigned char* __restrict__ first, PixelLayout layout, Decoder decoder,
                  const std::int64_t* __restrict__ rows, std::int64_t num_rows, float* __restrict__ out) {
    // 32-bit divisions are several times cheaper; the launcher has seen to it that they suffice.
    const auto pixels = static_cast<std::uint32_t>(layout.pixels_per_row());
    const auto length = static_cast<std::uint32_t>(layout.shape[3]);
    const auto lines = static_cast<std::uint32_t>(layout.shape[2]);
    for (std::int64_t n = blockIdx.y; n < num_rows; n += gridDim.y) {
        const std::int64_t row = rows[n];
        const bool is_inside = row >= 0 && row < layout.shape[0];
        const unsigned char* base = first + (is_inside ? row * layout.strides[0] : 0);
        for (std::uint32_t p = blockIdx.x * kThreads + threadIdx.x; p < pixels; p += gridDim.x * kThreads) {
            const std::uint32_t line = p / length;
            const std::uint32_t x = p % length;
            const unsigned char* address = base +
                                           static_cast<std::int64_t>(line / lines) * layout.strides[1] +
                                           static_cast<std::int64_t>(line % lines) * layout.strides[2] +
                                           static_cast<std::int64_t>(x) * layout.strides[3];
            out[n * pixels + p] = is_inside ? decoder(address) : quiet_nan();
        }
    }
}

}  // namespace

void decode(const unsigned char* first, const PixelLayout& layout, const Scaling& scaling,
            const std::int64_t* rows, std::int64_t num_rows, float* out, const Queue& queue) {
    const std::int64_t pixels = layout.pixels_per_row();
    if (pixels == 0 || num_rows == 0) return;
    if (pixels > std::numeric_limits<std::int32_t>::max()) {
        throw DataError("a row has " + std::to_string(pixels) + " pixels", "", "less than 2^31 on a device");
    }
    const DeviceScope scope(queue.device);
    const auto stream = reinterpret_cast<cudaStream_t>(queue.stream);
    const PixelLayout merged = merge_axes(layout);
    const dim3 grid(static_cast<unsigned>((pixels + kThreads - 1) / kThreads),
                    static_cast<unsigned>(std::min(num_rows, kMaxGridY)));
    with_decoder(merged, scaling, [&](const auto& decoder) {
        decode_kernel<<<grid, kThreads, 0, stream>>>(first, merged, decoder, rows, num_rows, out);
    });
    check(cudaGetLastError(), "launching decode");
}

}  // namespace margformer::cuda
