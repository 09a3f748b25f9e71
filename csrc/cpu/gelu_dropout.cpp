#include "cpu/gelu_dropout.hpp"

#include <algorithm>
#include <type_traits>

#include "core/bits.hpp"
#include "core/gelu.hpp"
#include "core/random.hpp"
#include "cpu/clones.hpp"
#include "cpu/parallel.hpp"

namespace margformer::cpu {
namespace {

// Elements are dealt with in chunks of 128, for which 16 counters give 64 words, two elements a word: element i
// of a chunk takes counter i % 16, word i / 32, and its lower or upper half by i / 16 % 2. Sixteen neighbours so
// take the same half of the same word of sixteen counters, which is one vector.
constexpr int kCounters = 16;
constexpr int kChunk = 8 * kCounters;
constexpr std::int64_t kElementsPerThread = 1 << 15;  // below this, starting a thread costs more than it saves

MF_ALWAYS_INLINE float widen(float value) { return value; }

MF_ALWAYS_INLINE float widen(std::uint16_t bits) {
    return bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

template <typename T>
MF_ALWAYS_INLINE T narrow(float value) {
    if constexpr (std::is_same_v<T, float>) {
        return value;
    } else {
        // To the nearest, ties to even; a NaN stays one.
        const auto bits = bit_cast<std::uint32_t>(value);
        const std::uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
        return static_cast<T>(value == value ? rounded : 0x7fc0u);
    }
}

// What each element of a chunk is multiplied by: scale, or zero.
MF_ALWAYS_INLINE void draw_factors(Dropout dropout, std::int64_t chunk, float* factor) {
    const float scale = 65536.0f / static_cast<float>(65536u - dropout.threshold);
    std::uint32_t words[4][kCounters];
    const auto first = static_cast<std::uint64_t>(chunk) * kCounters;  // a multiple of 16: no carry in a chunk
    for (int i = 0; i < kCounters; ++i) {
        words[0][i] = static_cast<std::uint32_t>(first) + static_cast<std::uint32_t>(i);
        words[1][i] = static_cast<std::uint32_t>(first >> 32);
        words[2][i] = words[3][i] = 0;
    }
    philox(words, {{static_cast<std::uint32_t>(dropout.key), static_cast<std::uint32_t>(dropout.key >> 32)}});
    for (int word = 0; word < 4; ++word) {
        for (int half = 0; half < 2; ++half) {
            for (int i = 0; i < kCounters; ++i) {
                const std::uint32_t drawn = words[word][i] >> (16 * half) & 0xffffu;
                factor[(2 * word + half) * kCounters + i] = drawn >= dropout.threshold ? scale : 0.0f;
            }
        }
    }
}

// Call body(element, factor) for the elements of chunks begin .. end.
template <typename Body>
MF_ALWAYS_INLINE void for_chunks(std::int64_t begin, std::int64_t end, std::int64_t count, Dropout dropout,
                                 const Body& body) {
    float factor[kChunk];
    std::fill_n(factor, kChunk, 1.0f);
    for (std::int64_t chunk = begin; chunk < end; ++chunk) {
        if (dropout.threshold != 0) draw_factors(dropout, chunk, factor);
        const std::int64_t first = chunk * kChunk;
        if (first + kChunk <= count) {
            for (int i = 0; i < kChunk; ++i) body(first + i, factor[i]);
        } else {
            for (int i = 0; first + i < count; ++i) body(first + i, factor[i]);
        }
    }
}

template <typename T>
MF_ALWAYS_INLINE void forward(const T* x, std::int64_t begin, std::int64_t end, std::int64_t count,
                              Dropout dropout, T* __restrict out) {
    for_chunks(begin, end, count, dropout, [=](std::int64_t i, float factor) __attribute__((always_inline)) {
        out[i] = narrow<T>(factor * gelu(widen(x[i])));
    });
}

template <typename T>
MF_ALWAYS_INLINE void backward(const T* grad, const T* x, std::int64_t begin, std::int64_t end,
                               std::int64_t count, Dropout dropout, T* __restrict out) {
    for_chunks(begin, end, count, dropout, [=](std::int64_t i, float factor) __attribute__((always_inline)) {
        out[i] = narrow<T>(widen(grad[i]) * (factor * gelu_slope(widen(x[i]))));
    });
}

// Not templates: the loader picks among clones by name.
MF_CLONES_FLAT void forward_range(const float* x, std::int64_t begin, std::int64_t end, std::int64_t count,
                                  Dropout dropout, float* out) {
    forward(x, begin, end, count, dropout, out);
}
MF_CLONES_FLAT void forward_range_bf16(const std::uint16_t* x, std::int64_t begin, std::int64_t end,
                                       std::int64_t count, Dropout dropout, std::uint16_t* out) {
    forward(x, begin, end, count, dropout, out);
}
MF_CLONES_FLAT void backward_range(const float* grad, const float* x, std::int64_t begin, std::int64_t end,
                                   std::int64_t count, Dropout dropout, float* out) {
    backward(grad, x, begin, end, count, dropout, out);
}
MF_CLONES_FLAT void backward_range_bf16(const std::uint16_t* grad, const std::uint16_t* x, std::int64_t begin,
                                        std::int64_t end, std::int64_t count, Dropout dropout,
                                        std::uint16_t* out) {
    backward(grad, x, begin, end, count, dropout, out);
}

}  // namespace

template <typename T>
void gelu_dropout(const T* x, std::int64_t count, Dropout dropout, T* out, int threads) {
    parallel_for((count + kChunk - 1) / kChunk, threads, kElementsPerThread / kChunk,
                 [=](std::int64_t begin, std::int64_t end) noexcept {
                     if constexpr (std::is_same_v<T, float>) {
                         forward_range(x, begin, end, count, dropout, out);
                     } else {
                         forward_range_bf16(x, begin, end, count, dropout, out);
                     }
                 });
}

template <typename T>
void gelu_dropout_backward(const T* grad, const T* x, std::int64_t count, Dropout dropout, T* out,
                           int threads) {
    parallel_for((count + kChunk - 1) / kChunk, threads, kElementsPerThread / kChunk,
                 [=](std::int64_t begin, std::int64_t end) noexcept {
                     if constexpr (std::is_same_v<T, float>) {
                         backward_range(grad, x, begin, end, count, dropout, out);
                     } else {
                         backward_range_bf16(grad, x, begin, end, count, dropout, out);
                     }
                 });
}

template void gelu_dropout(const float*, std::int64_t, Dropout, float*, int);
template void gelu_dropout(const std::uint16_t*, std::int64_t, Dropout, std::uint16_t*, int);
template void gelu_dropout_backward(const float*, const float*, std::int64_t, Dropout, float*, int);
template void gelu_dropout_backward(const std::uint16_t*, const std::uint16_t*, std::int64_t, Dropout,
                                    std::uint16_t*, int);

}  // namespace margformer::cpu
