// Values seen as bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/platform.hpp"

namespace margformer {

template <typename To, typename From>
MF_HOST_DEVICE To bit_cast(const From& from) {
    static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
    To to;
    std::memcpy(&to, &from, sizeof(To));
    return to;
}

// One NaN for all: hardware differs in what it makes of a payload that goes through arithmetic.
MF_HOST_DEVICE float quiet_nan() { return bit_cast<float>(std::uint32_t{0x7fc00000u}); }

// The value, or zero if it is NaN or infinite.
MF_HOST_DEVICE float finite_or_zero(float value) {
    const auto bits = bit_cast<std::uint32_t>(value);
    return (bits & 0x7f800000u) == 0x7f800000u ? 0.0f : value;
}

}  // namespace margformer
