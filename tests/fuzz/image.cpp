// Target: from the bytes of a file to float32 pixels, as data/fits.py goes, and on through views that NumPy
// could make of them. Every pixel is checked against one written by the words of the FITS standard.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "bytes.hpp"
#include "check.hpp"
#include "core/error.hpp"
#include "core/fits_header.hpp"
#include "core/pixels.hpp"
#include "cpu/decode.hpp"

namespace {

using margformer::DataError;
using margformer::kAxes;
using margformer::PixelLayout;
using margformer::PixelType;
using margformer::Scaling;
using margformer::fits::Header;
using margformer::fits::Value;

using Random = std::minstd_rand;

constexpr std::int64_t kManyPixels = 3 << 16;  // enough for three threads, as cpu/decode.cpp starts them

std::int64_t draw(Random& random, std::int64_t count) {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(count));
}

// The first entry of this name, as Python's header gives it.
const Value* find(const Header& header, const std::string& key) {
    for (const auto& entry : header.entries) {
        if (entry.key == key) return &entry.value;
    }
    return nullptr;
}

// A number, or the default if there is none; false where data/fits.py refuses the file.
bool read_number(const Header& header, const std::string& key, double& number) {
    const Value* value = find(header, key);
    if (value == nullptr) return true;
    if (const auto* integer = std::get_if<std::int64_t>(value)) {
        number = static_cast<double>(*integer);
    } else if (const auto* real = std::get_if<double>(value)) {
        number = *real;
    } else {
        return false;
    }
    return true;
}

// False where data/fits.py refuses the image.
bool read_scaling(const Header& header, Scaling& scaling) {
    const Value* kind = find(header, "XTENSION");
    const auto* name = kind != nullptr ? std::get_if<std::string>(kind) : nullptr;
    if (kind != nullptr && (name == nullptr || *name != "IMAGE")) return false;
    if (header.shape.empty() || header.shape.size() > 64) return false;
    if (!read_number(header, "BSCALE", scaling.scale) || !read_number(header, "BZERO", scaling.zero)) {
        return false;
    }
    const Value* blank = header.bitpix > 0 ? find(header, "BLANK") : nullptr;
    if (blank != nullptr && !std::holds_alternative<std::monostate>(*blank)) {
        const auto* integer = std::get_if<std::int64_t>(blank);
        if (integer == nullptr) return false;
        scaling.blank = *integer;
        scaling.has_blank = true;
    }
    return true;
}

// Pixels as NumPy would describe them: the first one, and up to four axes with the rows first.
struct View {
    const unsigned char* first;
    PixelLayout layout;
};

PixelLayout with_type(int bitpix) {
    PixelLayout layout;
    layout.type = margformer::pixel_type(bitpix < 0 ? 'f' : (bitpix == 8 ? 'u' : 'i'),
                                         static_cast<std::size_t>(std::abs(bitpix)) / 8);
    layout.swapped = true;
    return layout;
}

// A dense view of these axes, as bindings/host.cpp lays it out.
View dense(const unsigned char* first, int bitpix, const std::vector<std::int64_t>& axes) {
    View view{first, with_type(bitpix)};
    std::int64_t stride = std::abs(bitpix) / 8;
    for (std::size_t i = axes.size(); i-- > 0;) {
        const std::size_t place = i == 0 ? 0 : kAxes - axes.size() + i;
        view.layout.shape[place] = axes[i];
        view.layout.strides[place] = stride;
        stride *= std::max<std::int64_t>(axes[i], 1);
    }
    return view;
}

// Slices with any step, repeated axes, transposes: no pixel that was not in the view before.
View drawn_from(View view, Random& random) {
    for (int axis = 0; axis < kAxes; ++axis) {
        std::int64_t& length = view.layout.shape[axis];
        std::int64_t& stride = view.layout.strides[axis];
        if (length == 0) continue;
        const std::int64_t begin = draw(random, 2) * draw(random, length);
        view.first += begin * stride;
        length -= begin;
        switch (draw(random, 5)) {
            case 0:
                view.first += (length - 1) * stride;
                stride = -stride;
                break;
            case 1: {
                const std::int64_t step = 1 + draw(random, 4);
                length = (length + step - 1) / step;
                stride *= step;
                break;
            }
            case 2:
                length = 1 + draw(random, 3);
                stride = 0;
                break;
            default:
                break;
        }
    }
    for (int axis = kAxes - 1; axis > 0; --axis) {
        if (draw(random, 3) != 0) continue;
        const auto other = draw(random, axis + 1);
        std::swap(view.layout.shape[axis], view.layout.shape[other]);
        std::swap(view.layout.strides[axis], view.layout.strides[other]);
    }
    view.layout.swapped = draw(random, 4) != 0;
    return view;
}

std::uint64_t load_bits(const unsigned char* address, int size, bool big_endian) {
    std::uint64_t bits = 0;
    for (int i = 0; i < size; ++i) bits = (bits << 8) | address[big_endian ? i : size - 1 - i];
    return bits;
}

template <typename T, typename Bits>
T as(std::uint64_t bits) {
    const auto narrow = static_cast<Bits>(bits);
    T value;
    std::memcpy(&value, &narrow, sizeof(value));
    return value;
}

// One pixel by the words of the standard, byte by byte; for a machine that is little-endian itself.
float expected(const unsigned char* address, const PixelLayout& layout, const Scaling& scaling) {
    const auto bits = [&](int size) { return load_bits(address, size, layout.swapped); };
    double stored = 0.0;
    std::int64_t integer = 0;
    bool is_integer = true;
    switch (layout.type) {
        case PixelType::uint8:
            integer = static_cast<std::int64_t>(bits(1));
            break;
        case PixelType::int16:
            integer = as<std::int16_t, std::uint16_t>(bits(2));
            break;
        case PixelType::int32:
            integer = as<std::int32_t, std::uint32_t>(bits(4));
            break;
        case PixelType::int64:
            integer = as<std::int64_t, std::uint64_t>(bits(8));
            break;
        case PixelType::float32: {
            const auto single = as<float, std::uint32_t>(bits(4));
            if (scaling.scale == 1.0 && scaling.zero == 0.0) return single;
            stored = single;
            is_integer = false;
            break;
        }
        case PixelType::float64:
            stored = as<double, std::uint64_t>(bits(8));
            is_integer = false;
            break;
    }
    if (is_integer) {
        if (scaling.has_blank && integer == scaling.blank) return std::numeric_limits<float>::quiet_NaN();
        stored = static_cast<double>(integer);
    }
    const double product = scaling.scale * stored;
    const auto value = static_cast<float>(product + scaling.zero);
    return value == value ? value : std::numeric_limits<float>::quiet_NaN();
}

// Decode some rows of a view and compare each pixel, having seen that it lies within the data.
void check_view(const View& view, const Bytes& data, int pixel_size, const Scaling& scaling, Random& random) {
    const PixelLayout& layout = view.layout;
    const std::int64_t pixels = layout.pixels_per_row();
    const std::int64_t count = layout.shape[0];
    std::vector<std::int64_t> rows;
    // An image without pixels may have more rows than memory; one with many is decoded by several threads.
    const bool is_large = count > 0 && pixels >= 32 && draw(random, 64) == 0;
    const std::int64_t wanted_rows =
        is_large ? kManyPixels / pixels + 1 : std::min<std::int64_t>(count, 4096);
    for (std::int64_t n = 0; n < wanted_rows; ++n) {
        rows.push_back(n >= count || draw(random, 4) == 0 ? draw(random, count) : n);
    }
    // An image without pixels may have so many rows that no number lies beyond.
    const bool is_outside =
        pixels <= 4096 && count < std::numeric_limits<std::int64_t>::max() - 9 && draw(random, 16) == 0;
    if (is_outside) rows.push_back(draw(random, 2) == 0 ? -1 - draw(random, 9) : count + draw(random, 9));

    const auto out_size = rows.size() * static_cast<std::size_t>(pixels);
    const std::unique_ptr<float[]> out(new float[out_size]);
    const int threads = 1 + static_cast<int>(draw(random, 3));
    try {
        margformer::cpu::decode(view.first, layout, scaling, rows.data(),
                                static_cast<std::int64_t>(rows.size()), out.get(), threads);
        FUZZ_CHECK(!is_outside);
    } catch (const DataError&) {
        FUZZ_CHECK(is_outside);
        return;
    }
    if (pixels == 0) return;  // an axis of length 0 leaves the others any length
    const float* pixel = out.get();
    for (const std::int64_t row : rows) {
        for (std::int64_t i = 0; i < layout.shape[1]; ++i) {
            for (std::int64_t j = 0; j < layout.shape[2]; ++j) {
                for (std::int64_t k = 0; k < layout.shape[3]; ++k, ++pixel) {
                    const unsigned char* address = view.first + row * layout.strides[0] +
                                                   i * layout.strides[1] + j * layout.strides[2] +
                                                   k * layout.strides[3];
                    FUZZ_CHECK(address >= data.data.get() &&
                               address + pixel_size <= data.data.get() + data.size);
                    const float wanted = expected(address, layout, scaling);
                    FUZZ_CHECK(std::memcmp(pixel, &wanted, sizeof(wanted)) == 0);
                }
            }
        }
    }
    FUZZ_CHECK(pixel == out.get() + out_size);
}

// The pixels of one image: all of them as one row, then its own axes, then something drawn from those.
void check_image(const Header& header, const unsigned char* first, const Scaling& scaling, Random& random) {
    const Bytes data(first, header.data_size);
    const int pixel_size = std::abs(header.bitpix) / 8;
    std::int64_t pixels = 1;
    for (const std::int64_t length : header.shape) {
        pixels = length == 0 ? 0 : pixels * length;
        if (pixels == 0) break;
    }
    check_view(dense(data.data.get(), header.bitpix, {1, pixels}), data, pixel_size, scaling, random);
    if (header.shape.size() > kAxes) return;
    const View view = dense(data.data.get(), header.bitpix, header.shape);
    check_view(view, data, pixel_size, scaling, random);
    // Without pixels the other axes may have any length, and nothing would be checked.
    if (pixels != 0) check_view(drawn_from(view, random), data, pixel_size, scaling, random);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const Bytes file(data, size);
    // Drawn from the input alone, so that a finding can be repeated.
    std::uint32_t seed = 2166136261u;
    for (std::size_t i = 0; i < size; ++i) seed = (seed ^ data[i]) * 16777619u;
    Random random(seed);
    std::size_t offset = 0;
    try {
        do {
            const Header header =
                margformer::fits::parse_header(file.data.get(), file.size, static_cast<std::int64_t>(offset));
            Scaling scaling;
            if (read_scaling(header, scaling)) {
                check_image(header, file.data.get() + header.data_offset, scaling, random);
            }
            offset = header.next_offset;
        } while (offset < file.size);
    } catch (const margformer::FormatError&) {
        // A damaged file is refused, and what was read of it before was checked.
    }
    return 0;
}
