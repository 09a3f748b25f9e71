// GELU followed by dropout, and the way back, on the host.
#pragma once

#include <cstdint>

namespace margformer::cpu {

// Which elements are dropped: a function of the key and of an element's place alone.
struct Dropout {
    std::uint64_t key = 0;
    std::uint32_t threshold = 0;  // an element is dropped with probability threshold / 65536
};

// out = keep * scale * gelu(x), with scale = 65536 / (65536 - threshold). A type is float, or std::uint16_t for
// the bits of a bfloat16. `out` overlaps no input.
template <typename T>
void gelu_dropout(const T* x, std::int64_t count, Dropout dropout, T* out, int threads);

// out = grad * keep * scale * gelu'(x).
template <typename T>
void gelu_dropout_backward(const T* grad, const T* x, std::int64_t count, Dropout dropout, T* out, int threads);

}  // namespace margformer::cpu
