#include "cpu/decode.hpp"

#include <algorithm>
#include <string>

#include "core/error.hpp"
#include "cpu/clones.hpp"
#include "cpu/parallel.hpp"

namespace margformer::cpu {
namespace {

constexpr std::int64_t kPixelsPerThread = 1 << 16;  // below this, starting a thread costs more than it saves

// One line of pixels, `stride` bytes apart.
template <typename Decoder>
void decode_line(const unsigned char* first, std::int64_t stride, std::int64_t length, const Decoder& decoder,
                 float* __restrict out) {
    constexpr std::int64_t size = sizeof(typename Decoder::Stored);
    if (stride == size) {
        // The same loop with a step that the compiler knows, so that it loads and swaps whole vectors.
        for (std::int64_t x = 0; x < length; ++x) out[x] = decoder(first + x * size);
    } else {
        for (std::int64_t x = 0; x < length; ++x) out[x] = decoder(first + x * stride);
    }
}

template <typename Decoder>
void decode_row(const unsigned char* first, const PixelLayout& layout, const Decoder& decoder, float* out) {
    for (std::int64_t i = 0; i < layout.shape[1]; ++i) {
        for (std::int64_t j = 0; j < layout.shape[2]; ++j) {
            const unsigned char* line = first + i * layout.strides[1] + j * layout.strides[2];
            decode_line(line, layout.strides[3], layout.shape[3], decoder, out);
            out += layout.shape[3];
        }
    }
}

// Rows begin to end of the output. One plain function, into which everything is inlined, so that the clones
// are clones of all of it.
MF_CLONES_FLAT void decode_rows(const unsigned char* first, const PixelLayout& layout, const Scaling& scaling,
                                const std::int64_t* rows, std::int64_t begin, std::int64_t end, float* out) {
    const std::int64_t pixels = layout.pixels_per_row();
    with_decoder(layout, scaling, [&](const auto& decoder) {
        for (std::int64_t n = begin; n < end; ++n) {
            decode_row(first + rows[n] * layout.strides[0], layout, decoder, out + n * pixels);
        }
    });
}

}  // namespace

void decode(const unsigned char* first, const PixelLayout& layout, const Scaling& scaling,
            const std::int64_t* rows, std::int64_t num_rows, float* out, int threads) {
    for (std::int64_t n = 0; n < num_rows; ++n) {
        if (rows[n] < 0 || rows[n] >= layout.shape[0]) {
            throw DataError("row " + std::to_string(rows[n]) + " is outside", "place " + std::to_string(n),
                            "0 to " + std::to_string(layout.shape[0] - 1));
        }
    }
    const std::int64_t pixels = layout.pixels_per_row();
    if (pixels == 0) return;
    const PixelLayout merged = merge_axes(layout);
    const std::int64_t grain = std::max<std::int64_t>(1, kPixelsPerThread / pixels);
    parallel_for(num_rows, threads, grain, [&](std::int64_t begin, std::int64_t end) noexcept {
        decode_rows(first, merged, scaling, rows, begin, end, out);
    });
}

}  // namespace margformer::cpu
