// Images in a FITS file: the pixel type, shape and scaling of an HDU, and where its pixels lie.
//
// What is accepted is what margformer_fast/reference/fits_image.py accepts, as far as images of two or three
// axes go. Nothing here says why something is refused: whoever needs to know asks the reference.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>

#include "core/fits_header.hpp"
#include "core/pixels.hpp"

namespace margformer::fits {

constexpr int kMaxImageAxes = 3;

// How the pixels of an image are stored.
struct ImageLayout {
    int bitpix = 0;
    int num_axes = 0;
    std::array<std::int64_t, kMaxImageAxes> shape{};  // slowest axis first; what is beyond num_axes is 0
    Scaling scaling;

    std::size_t pixel_size() const { return static_cast<std::size_t>(bitpix < 0 ? -bitpix : bitpix) / 8; }
    std::size_t num_pixels() const {
        std::size_t count = 1;
        for (int axis = 0; axis < num_axes; ++axis) {
            count *= static_cast<std::size_t>(shape[static_cast<std::size_t>(axis)]);
        }
        return count;
    }
    bool same_shape(const ImageLayout& other) const {
        return num_axes == other.num_axes && shape == other.shape;
    }
    bool same_pixels(const ImageLayout& other) const {
        return bitpix == other.bitpix && scaling.scale == other.scaling.scale &&
               scaling.zero == other.scaling.zero && scaling.has_blank == other.scaling.has_blank &&
               scaling.blank == other.scaling.blank;
    }
};

// One HDU: where the next one begins and, if it holds an image that can be used, that image.
struct Hdu {
    std::size_t next_offset = 0;
    bool is_image = false;
    ImageLayout layout;
    std::size_t data_offset = 0;
};

namespace detail {

// Eight characters as one number, which a switch can tell apart; compilers load it at once.
template <typename Char>
constexpr std::uint64_t pack(const Char* text) {
    std::uint64_t packed = 0;
    for (int i = 0; i < 8; ++i) {
        packed |= static_cast<std::uint64_t>(static_cast<unsigned char>(text[i])) << (8 * i);
    }
    return packed;
}

// is_text() of eight characters at once.
inline bool is_text(std::uint64_t packed) {
    constexpr std::uint64_t ones = 0x0101010101010101u;
    constexpr std::uint64_t high = 0x80 * ones;
    const auto has_less = [](std::uint64_t x, std::uint64_t limit) { return (x - limit * ones) & ~x & high; };
    return ((packed & high) | has_less(packed, 0x20) | has_less(packed ^ (0x7f * ones), 1)) == 0;
}

// The word that a card gives as its value; empty unless it is plainly "KEYWORD = word" or "... / comment".
inline std::string_view plain_word(const unsigned char* card) {
    if (card[8] != '=' || card[9] != ' ') return {};
    std::string_view field(reinterpret_cast<const char*>(card) + 10, kCardSize - 10);
    field = strip_left(field);
    const std::size_t length = std::min(field.find_first_of(" /"), field.size());
    const std::string_view rest = strip_left(field.substr(length));
    return rest.empty() || rest[0] == '/' ? field.substr(0, length) : std::string_view{};
}

// A keyword that may come once, with an integer or, where those are read, any number.
template <typename T>
struct Number {
    std::optional<T> value;

    // Take the value of a card; false if that is not as simple as it looks.
    bool take(const unsigned char* card) {
        const Value parsed = parse_word(plain_word(card));
        if (value.has_value()) return false;
        if (const auto* whole = std::get_if<std::int64_t>(&parsed)) {
            value = static_cast<T>(*whole);
        } else if constexpr (std::is_same_v<T, double>) {
            if (const auto* real = std::get_if<double>(&parsed)) value = *real;
        }
        return value.has_value();
    }
};

// What an image needs of the header at `offset`, straight from the bytes; nothing if there is anything
// unusual about it, wrong or not. Values are read by the same parse_word() as everywhere.
inline std::optional<Hdu> scan_hdu(const unsigned char* data, std::size_t size, std::size_t offset) {
    constexpr char kImage[] = "XTENSION= 'IMAGE   '";
    constexpr std::size_t kImageLength = sizeof(kImage) - 1;
    if (offset >= size || size - offset < kBlockSize) return std::nullopt;
    const unsigned char* card = data + offset;
    const bool is_extension = std::memcmp(card, kImage, kImageLength) == 0;
    if (is_extension) {
        const std::string_view rest = strip_left(
            {reinterpret_cast<const char*>(card) + kImageLength, kCardSize - kImageLength});
        if (!rest.empty() && rest[0] != '/') return std::nullopt;
    } else if (pack(card) != pack("SIMPLE  ") || plain_word(card) != "T") {
        return std::nullopt;
    }

    Number<std::int64_t> bitpix, num_axes, parameters, groups, blank;
    std::array<Number<std::int64_t>, kMaxImageAxes> axes;
    Number<double> scale, zero;
    std::size_t end = offset;
    for (bool more = true; more;) {
        end += kCardSize;
        if (size - end < kCardSize) return std::nullopt;
        card = data + end;
        const std::uint64_t keyword = pack(card);
        bool is_plain = true;
        switch (keyword) {
            case pack("END     "):
                more = false;
                break;
            case pack("BITPIX  "):
                is_plain = bitpix.take(card);
                break;
            case pack("NAXIS   "):
                is_plain = num_axes.take(card);
                break;
            case pack("NAXIS1  "):
                is_plain = axes[0].take(card);
                break;
            case pack("NAXIS2  "):
                is_plain = axes[1].take(card);
                break;
            case pack("NAXIS3  "):
                is_plain = axes[2].take(card);
                break;
            case pack("PCOUNT  "):
                is_plain = parameters.take(card);
                break;
            case pack("GCOUNT  "):
                is_plain = groups.take(card);
                break;
            case pack("BSCALE  "):
                is_plain = scale.take(card);
                break;
            case pack("BZERO   "):
                is_plain = zero.take(card);
                break;
            case pack("BLANK   "):
                is_plain = blank.take(card);
                break;
            case pack("XTENSION"):  // in a primary header it would name another kind of HDU
            case pack("HIERARCH"):  // may give any keyword under a second name
                return std::nullopt;
            default:
                is_plain = is_text(keyword);
        }
        if (!is_plain) return std::nullopt;
    }

    Hdu hdu;
    hdu.layout.bitpix = static_cast<int>(bitpix.value.value_or(0));
    switch (bitpix.value.value_or(0)) {
        case 8:
        case 16:
        case 32:
        case 64:
        case -32:
        case -64:
            break;
        default:
            return std::nullopt;
    }
    const std::int64_t count = num_axes.value.value_or(-1);
    if (count < 0 || count > kMaxImageAxes) return std::nullopt;
    if (is_extension && (parameters.value.value_or(0) != 0 || groups.value.value_or(1) != 1)) {
        return std::nullopt;
    }

    hdu.data_offset = offset + round_up_to_block(end + kCardSize - offset);
    if (hdu.data_offset > size) return std::nullopt;
    const std::size_t available = size - hdu.data_offset;
    std::size_t data_size = count > 0 ? hdu.layout.pixel_size() : 0;
    for (std::int64_t axis = 0; axis < count; ++axis) {
        const std::int64_t length = axes[static_cast<std::size_t>(axis)].value.value_or(0);
        // Divided, not multiplied: nothing can overflow, and what is cut short is seen. An axis of length 0
        // may announce random groups.
        if (length < 1 || static_cast<std::uint64_t>(length) > available / data_size) return std::nullopt;
        data_size *= static_cast<std::size_t>(length);
        hdu.layout.shape[static_cast<std::size_t>(count - 1 - axis)] = length;
    }
    hdu.next_offset = hdu.data_offset + std::min(available, round_up_to_block(data_size));
    hdu.layout.num_axes = static_cast<int>(count);
    hdu.is_image = count >= 2;
    const bool has_blank = hdu.layout.bitpix > 0 && blank.value.has_value();
    hdu.layout.scaling = {scale.value.value_or(1.0), zero.value.value_or(0.0),
                          has_blank ? *blank.value : 0, has_blank};
    return hdu;
}

// The first value of a keyword, or null.
inline const Value* find_value(const Header& header, std::string_view key) {
    for (const Entry& entry : header.entries) {
        if (entry.key == key) return &entry.value;
    }
    return nullptr;
}

// Set a BSCALE or BZERO that is there; false if it is no number.
inline bool read_factor(const Header& header, std::string_view key, double& factor) {
    const Value* value = find_value(header, key);
    if (value == nullptr) return true;
    if (const auto* whole = std::get_if<std::int64_t>(value)) {
        factor = static_cast<double>(*whole);
    } else if (const auto* real = std::get_if<double>(value)) {
        factor = *real;
    } else {
        return false;
    }
    return true;
}

inline bool read_scaling(const Header& header, Scaling& scaling) {
    if (!read_factor(header, "BSCALE", scaling.scale)) return false;
    if (!read_factor(header, "BZERO", scaling.zero)) return false;
    const Value* blank = header.bitpix > 0 ? find_value(header, "BLANK") : nullptr;
    if (blank == nullptr || std::holds_alternative<std::monostate>(*blank)) return true;
    const auto* whole = std::get_if<std::int64_t>(blank);
    if (whole == nullptr) return false;
    scaling.blank = *whole;
    scaling.has_blank = true;
    return true;
}

// The same as scan_hdu() by way of the general parser, which knows every header.
inline Hdu parse_hdu(const unsigned char* data, std::size_t size, std::size_t offset) {
    const Header header = parse_header(data, size, static_cast<std::int64_t>(offset));
    Hdu hdu;
    hdu.next_offset = header.next_offset;
    hdu.data_offset = header.data_offset;
    hdu.layout.bitpix = header.bitpix;
    const Value* kind = find_value(header, "XTENSION");
    const auto* name = kind != nullptr ? std::get_if<std::string>(kind) : nullptr;
    if (kind != nullptr && (name == nullptr || *name != "IMAGE")) return hdu;
    if (header.shape.size() < 2 || header.shape.size() > kMaxImageAxes) return hdu;
    hdu.layout.num_axes = static_cast<int>(header.shape.size());
    std::copy(header.shape.begin(), header.shape.end(), hdu.layout.shape.begin());
    hdu.is_image = read_scaling(header, hdu.layout.scaling);
    return hdu;
}

}  // namespace detail

// Read the HDU that begins at byte `offset` of `size` bytes. Throws FormatError if its header is damaged or
// its data are cut short.
inline Hdu read_hdu(const unsigned char* data, std::size_t size, std::size_t offset) {
    if (const std::optional<Hdu> plain = detail::scan_hdu(data, size, offset)) return *plain;
    return detail::parse_hdu(data, size, offset);
}

}  // namespace margformer::fits
