// Raw pixels of any FITS type, byte order and layout to float32: the maths, the same on host and device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "core/bits.hpp"
#include "core/error.hpp"
#include "core/platform.hpp"

namespace margformer {

enum class PixelType { uint8, int16, int32, int64, float32, float64 };

// The type that NumPy calls by this kind and size. Throws DataError if it is none of FITS.
inline PixelType pixel_type(char kind, std::size_t size) {
    if (kind == 'u' && size == 1) return PixelType::uint8;
    if (kind == 'i' && size == 2) return PixelType::int16;
    if (kind == 'i' && size == 4) return PixelType::int32;
    if (kind == 'i' && size == 8) return PixelType::int64;
    if (kind == 'f' && size == 4) return PixelType::float32;
    if (kind == 'f' && size == 8) return PixelType::float64;
    throw DataError("pixels of type " + std::string(1, kind) + std::to_string(size) + " cannot be decoded",
                    "", "one of u1, i2, i4, i8, f4, f8");
}

// value = zero + scale * stored (BZERO, BSCALE); a stored integer equal to blank is NaN.
struct Scaling {
    double scale = 1.0;
    double zero = 0.0;
    std::int64_t blank = 0;
    bool has_blank = false;

    MF_HOST_DEVICE bool is_identity() const { return scale == 1.0 && zero == 0.0; }
};

constexpr int kAxes = 4;

// Where pixels lie relative to the first one: rows first, strides in bytes, of any sign.
struct PixelLayout {
    PixelType type = PixelType::float32;
    bool swapped = false;  // stored in the byte order that this machine does not use
    std::int64_t shape[kAxes] = {1, 1, 1, 1};
    std::int64_t strides[kAxes] = {0, 0, 0, 0};

    // Pixels in one row of the first axis.
    MF_HOST_DEVICE std::int64_t pixels_per_row() const { return shape[1] * shape[2] * shape[3]; }
};

// The same pixels with axes 1 to 3 merged where one continues the other: what is left of a dense stamp is one
// long line (axis 3), and loops over the other axes run once.
inline PixelLayout merge_axes(const PixelLayout& layout) {
    PixelLayout merged = layout;
    int line = kAxes - 1;  // the axis that grows
    for (int axis = kAxes - 2; axis >= 1; --axis) {
        if (merged.shape[line] == 1) merged.strides[line] = layout.strides[axis];
        if (layout.shape[axis] == 1 || layout.strides[axis] == merged.strides[line] * merged.shape[line]) {
            merged.shape[line] *= layout.shape[axis];
        } else {
            --line;
            merged.shape[line] = layout.shape[axis];
            merged.strides[line] = layout.strides[axis];
        }
    }
    while (--line >= 1) merged.shape[line] = 1;
    return merged;
}

// The unsigned integer with the size of T.
template <typename T>
using BitsOf =
    std::conditional_t<sizeof(T) == 1, std::uint8_t,
                       std::conditional_t<sizeof(T) == 2, std::uint16_t,
                                          std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>>>;

// Written with shifts: compilers know this as their byte-swap instruction, and vectorise it.
template <typename Bits>
MF_HOST_DEVICE Bits swap_bytes(Bits x) {
    if constexpr (sizeof(Bits) == 1) {
        return x;
    } else if constexpr (sizeof(Bits) == 2) {
        return static_cast<Bits>((x << 8) | (x >> 8));
    } else if constexpr (sizeof(Bits) == 4) {
        return (x << 24) | ((x & 0xff00u) << 8) | ((x >> 8) & 0xff00u) | (x >> 24);
    } else {
        const auto low = swap_bytes(static_cast<std::uint32_t>(x));
        const auto high = swap_bytes(static_cast<std::uint32_t>(x >> 32));
        return (static_cast<std::uint64_t>(low) << 32) | high;
    }
}

// Read a pixel at any address, aligned or not.
template <typename T, bool Swapped>
MF_HOST_DEVICE T load_pixel(const unsigned char* address) {
    BitsOf<T> bits;
#if defined(__CUDA_ARCH__)
    // A copy of bytes stays one on the device; all lanes of a warp take the same side.
    if (reinterpret_cast<std::uintptr_t>(address) % sizeof(bits) == 0) {
        bits = *reinterpret_cast<const BitsOf<T>*>(address);
    } else {
        std::memcpy(&bits, address, sizeof(bits));
    }
#else
    std::memcpy(&bits, address, sizeof(bits));
#endif
    return bit_cast<T>(Swapped ? swap_bytes(bits) : bits);
}

// The physical value, computed in float64 and rounded once. Compile without contraction of a * b + c.
template <typename T>
MF_HOST_DEVICE float physical_value(T stored, const Scaling& scaling) {
    const double scaled = scaling.scale * static_cast<double>(stored);
    const float value = static_cast<float>(scaling.zero + scaled);
    bool is_nan = value != value;
    if constexpr (std::is_integral_v<T>) {
        is_nan = is_nan | (scaling.has_blank & (static_cast<std::int64_t>(stored) == scaling.blank));
    }
    return is_nan ? quiet_nan() : value;
}

// What happens to one pixel. Identity: float32 pixels that need no scaling keep their bits.
template <typename T, bool Swapped, bool Identity>
struct PixelDecoder {
    using Stored = T;
    static_assert(!Identity || std::is_same_v<T, float>, "only float32 pixels can be kept as they are");

    Scaling scaling;

    MF_HOST_DEVICE float operator()(const unsigned char* address) const {
        const T stored = load_pixel<T, Swapped>(address);
        if constexpr (Identity) {
            return stored;
        } else {
            return physical_value(stored, scaling);
        }
    }
};

namespace detail {

template <typename T, typename Visit>
MF_ALWAYS_INLINE void with_decoder_of(bool swapped, const Scaling& scaling, const Visit& visit) {
    if constexpr (std::is_same_v<T, float>) {
        if (scaling.is_identity()) {
            return swapped ? visit(PixelDecoder<float, true, true>{scaling})
                           : visit(PixelDecoder<float, false, true>{scaling});
        }
    }
    if (swapped && sizeof(T) > 1) return visit(PixelDecoder<T, (sizeof(T) > 1), false>{scaling});
    return visit(PixelDecoder<T, false, false>{scaling});
}

}  // namespace detail

// Call visit(decoder) with the decoder of this type, byte order and scaling.
template <typename Visit>
MF_ALWAYS_INLINE void with_decoder(const PixelLayout& layout, const Scaling& scaling, const Visit& visit) {
    switch (layout.type) {
        case PixelType::uint8:
            return detail::with_decoder_of<std::uint8_t>(layout.swapped, scaling, visit);
        case PixelType::int16:
            return detail::with_decoder_of<std::int16_t>(layout.swapped, scaling, visit);
        case PixelType::int32:
            return detail::with_decoder_of<std::int32_t>(layout.swapped, scaling, visit);
        case PixelType::int64:
            return detail::with_decoder_of<std::int64_t>(layout.swapped, scaling, visit);
        case PixelType::float32:
            return detail::with_decoder_of<float>(layout.swapped, scaling, visit);
        case PixelType::float64:
            return detail::with_decoder_of<double>(layout.swapped, scaling, visit);
    }
}

}  // namespace margformer
