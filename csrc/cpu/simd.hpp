// Vectors of floats.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "core/platform.hpp"

namespace margformer::cpu {

// kCount floats at any address; arithmetic is element by element.
template <int kCount>
struct FloatLanes {
    typedef float Type __attribute__((vector_size(kCount * sizeof(float))));
    typedef int Index __attribute__((vector_size(kCount * sizeof(int))));
};

template <int kCount>
MF_ALWAYS_INLINE typename FloatLanes<kCount>::Type load(const float* address) {
    typename FloatLanes<kCount>::Type lanes;
    std::memcpy(&lanes, address, sizeof(lanes));
    return lanes;
}

template <typename Lanes>
MF_ALWAYS_INLINE void store(float* address, Lanes lanes) {
    std::memcpy(address, &lanes, sizeof(lanes));
}

// Write the first `count` lanes. Not inlined, and of a copy: lanes whose address is taken live in memory. (They
// are never passed by value, for which processors differ in where they lie.)
__attribute__((noinline)) inline void store_some(float* address, const void* lanes, std::int64_t count) {
    std::memcpy(address, lanes, static_cast<std::size_t>(count) * sizeof(float));
}

namespace detail {

// Lanes of a and b, counted on from a to b. Compilers differ in the name.
template <int kCount, int... kLane>
MF_ALWAYS_INLINE void pick(const typename FloatLanes<kCount>::Type& a, const typename FloatLanes<kCount>::Type& b,
                           typename FloatLanes<kCount>::Type& out) {
#if defined(__clang__) || __GNUC__ >= 12
    out = __builtin_shufflevector(a, b, kLane...);
#else
    out = __builtin_shuffle(a, b, typename FloatLanes<kCount>::Index{kLane...});
#endif
}

// Exchange lanes between rows that are kWidth apart.
template <int kCount, int kWidth, int... kLane>
MF_ALWAYS_INLINE void exchange(typename FloatLanes<kCount>::Type* rows, std::integer_sequence<int, kLane...>) {
    for (int i = 0; i < kCount; ++i) {
        if ((i & kWidth) != 0) continue;
        const auto a = rows[i];
        const auto b = rows[i + kWidth];
        pick<kCount, ((kLane & kWidth) == 0 ? kLane : kCount + kLane - kWidth)...>(a, b, rows[i]);
        pick<kCount, ((kLane & kWidth) == 0 ? kLane + kWidth : kCount + kLane)...>(a, b, rows[i + kWidth]);
    }
}

}  // namespace detail

// Turn kCount rows of kCount floats, `stride` apart, into columns: to[j * to_stride + i] = from[i * stride + j].
template <int kCount>
MF_ALWAYS_INLINE void transpose(const float* from, std::int64_t stride, float* to, std::int64_t to_stride) {
    constexpr auto lanes = std::make_integer_sequence<int, kCount>{};
    typename FloatLanes<kCount>::Type rows[kCount];
    for (int i = 0; i < kCount; ++i) rows[i] = load<kCount>(from + i * stride);
    detail::exchange<kCount, 1>(rows, lanes);
    detail::exchange<kCount, 2>(rows, lanes);
    if constexpr (kCount == 8) detail::exchange<kCount, 4>(rows, lanes);
    for (int j = 0; j < kCount; ++j) store(to + j * to_stride, rows[j]);
}

}  // namespace margformer::cpu
