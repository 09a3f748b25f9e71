// Views of one stamp by one block of threads: the whole of the CUDA kernel but for what a block is.
//
// A Block offers
//   for_each(count, f)    f(i) for every i in 0 .. count - 1, by any thread; then all threads wait
//   sum(count, f)         the sum of f(i) in double, known to all threads
// so that the tests run the same lines on the host, with a block of one thread.
//
// Staged, the stamp is read once into memory that the block shares, and so is where each pixel of a view is
// read. A stamp too large for that is read in place, as often as it is needed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/bits.hpp"
#include "core/pixels.hpp"
#include "core/platform.hpp"
#include "core/random.hpp"
#include "core/views.hpp"

namespace margformer {

// Division by a number that is not known at compile time: exact while dividend * divisor < 2^32.
struct Divider {
    std::uint32_t divisor = 1;
    std::uint64_t inverse = std::uint64_t{1} << 32;

    static Divider by(std::uint32_t divisor) {
        return {divisor, ((std::uint64_t{1} << 32) + divisor - 1) / divisor};
    }
    MF_HOST_DEVICE std::uint32_t operator()(std::uint32_t dividend) const {
        return static_cast<std::uint32_t>(dividend * inverse >> 32);
    }
};

struct BlockProblem {
    const unsigned char* first = nullptr;
    PixelLayout layout;
    const std::int64_t* rows = nullptr;
    const std::int64_t* objid = nullptr;  // null for stamps as they are, in one view
    std::int64_t num_rows = 0;
    ViewSettings settings;
    ViewSeed key;
    const float* noise = nullptr;
    int num_views = 1;
    int size = 1;
    int bands = 1;
    int patch = 1;
    Divider by_size, by_bands;

    MF_HOST_DEVICE std::uint32_t pixels() const { return static_cast<std::uint32_t>(size) * size; }
    MF_HOST_DEVICE std::uint32_t values() const { return pixels() * static_cast<std::uint32_t>(bands); }
    MF_HOST_DEVICE std::uint32_t framed() const { return static_cast<std::uint32_t>(size + 2) * (size + 2); }
};

// What becomes of a band: gain * value, then inverse * (value - mean).
struct BandScale {
    double mean;
    double inverse;
    float gain;
};

// Memory that a block shares: the scales of the bands, and if staged the framed planes of the stamp and the
// places of the pixels in the order of the tokens.
inline std::size_t shared_bytes(const BlockProblem& problem, bool staged) {
    const auto bands = static_cast<std::size_t>(problem.bands);
    const std::size_t scales = bands * sizeof(BandScale);
    return staged ? scales + bands * problem.framed() * sizeof(float) + problem.pixels() * sizeof(Place)
                  : scales;
}

template <bool kStaged, typename Block, typename Decoder>
class BlockViews {
  public:
    MF_HOST_DEVICE BlockViews(Block& block, const BlockProblem& problem, const Decoder& decoder,
                              unsigned char* shared)
        : block_(block),
          problem_(problem),
          decoder_(decoder),
          band_(reinterpret_cast<BandScale*>(shared)),
          stamp_(reinterpret_cast<float*>(band_ + problem.bands)),
          place_(reinterpret_cast<Place*>(stamp_ + problem.bands * problem.framed())) {}

    // All views of the chosen row n. A row outside gives NaN: nobody waits for the device to check them.
    MF_HOST_DEVICE void write(std::int64_t n, float* out) {
        const std::int64_t row = problem_.rows[n];
        const bool is_inside = row >= 0 && row < problem_.layout.shape[0];
        if (is_inside) open_stamp(row);
        for (int v = 0; v < problem_.num_views; ++v) {
            float* view = out + (v * problem_.num_rows + n) * problem_.values();
            if (!is_inside) {
                block_.for_each(problem_.values(), [&](std::uint32_t e) { view[e] = quiet_nan(); });
            } else {
                draw_view(n, static_cast<std::uint32_t>(v));
                if (problem_.settings.standardise) measure_bands();
                write_view(view);
            }
        }
    }

  private:
    MF_HOST_DEVICE std::uint32_t size() const { return static_cast<std::uint32_t>(problem_.size); }
    MF_HOST_DEVICE std::uint32_t bands() const { return static_cast<std::uint32_t>(problem_.bands); }

    MF_HOST_DEVICE float decode(std::uint32_t band, std::uint32_t x, std::uint32_t y) const {
        const auto* strides = problem_.layout.strides;
        return finite_or_zero(decoder_(first_ + band * strides[1] + y * strides[2] + x * strides[3]));
    }

    MF_HOST_DEVICE void open_stamp(std::int64_t row) {
        first_ = problem_.first + row * problem_.layout.strides[0];
        if constexpr (kStaged) {
            const std::uint32_t side = size() + 2;
            // The frame, all sides at once: the corners are written twice.
            block_.for_each(side * bands(), [&](std::uint32_t i) {
                const std::uint32_t k = i % side;
                float* plane = stamp_ + i / side * problem_.framed();
                plane[k] = plane[(side - 1) * side + k] = plane[k * side] = plane[k * side + side - 1] = 0.0f;
            });
            block_.for_each(problem_.values(), [&](std::uint32_t i) {
                const std::uint32_t line = problem_.by_size(i);
                const std::uint32_t band = problem_.by_size(line);
                const std::uint32_t x = i - line * size();
                const std::uint32_t y = line - band * size();
                stamp_[band * problem_.framed() + (y + 1) * side + x + 1] = decode(band, x, y);
            });
        }
    }

    // A pixel of the framed stamp.
    MF_HOST_DEVICE float read(std::uint32_t band, std::uint32_t pixel) const {
        if constexpr (kStaged) {
            return stamp_[band * problem_.framed() + pixel];
        } else {
            const std::uint32_t side = size() + 2;
            const std::uint32_t x = pixel % side;
            const std::uint32_t y = pixel / side;
            const bool is_frame = x == 0 || y == 0 || x == side - 1 || y >= side - 1;
            return is_frame ? 0.0f : decode(band, x - 1, y - 1);
        }
    }

    // Column and row of a pixel by its number among the tokens.
    MF_HOST_DEVICE void pixel_at(std::uint32_t t, int* x, int* y) const {
        const auto patch = static_cast<std::uint32_t>(problem_.patch);
        const std::uint32_t line = t / patch;
        const std::uint32_t token = line / patch;
        const std::uint32_t patches = size() / patch;
        *x = static_cast<int>(token % patches * patch + t % patch);
        *y = static_cast<int>(token / patches * patch + line % patch);
    }

    MF_HOST_DEVICE Place find_place(std::uint32_t t) const {
        const bool extends_edge = problem_.settings.extends_edge;
        int x = 0;
        int y = 0;
        pixel_at(t, &x, &y);
        if (!is_random_) return {framed_pixel(x, y, problem_.size), 0.0f, 0.0f};
        switch (problem_.settings.sampling) {
            case Sampling::two_step:
                return place_of<Sampling::two_step>(map_, extends_edge, problem_.size, x, y);
            case Sampling::nearest:
                return place_of<Sampling::nearest>(map_, extends_edge, problem_.size, x, y);
            default:
                return place_of<Sampling::bilinear>(map_, extends_edge, problem_.size, x, y);
        }
    }

    // Every thread draws the same: cheaper than one thread drawing and the others waiting.
    MF_HOST_DEVICE void draw_view(std::int64_t n, std::uint32_t view) {
        is_random_ = problem_.objid != nullptr;
        if (is_random_) {
            const ViewSettings& settings = problem_.settings;
            const std::int64_t objid = problem_.objid[n];
            map_ = draw_map(settings, problem_.size, problem_.key, objid, view);
            noise_key_ = draw_noise_key(problem_.key, objid, view);
            block_.for_each(bands(), [&](std::uint32_t band) {
                band_[band].gain = draw_gain(settings, problem_.key, objid, view, band);
            });
        }
        if constexpr (kStaged) {
            block_.for_each(problem_.pixels(), [&](std::uint32_t t) { place_[t] = find_place(t); });
        }
    }

    // The value of pixel t of the view in one band, before it is standardised.
    MF_HOST_DEVICE float sample(std::uint32_t t, std::uint32_t band) const {
        const Place place = kStaged ? place_[t] : find_place(t);
        const auto pixel = static_cast<std::uint32_t>(place.pixel);
        const ViewSettings& settings = problem_.settings;
        float value = read(band, pixel);
        if (!is_random_) return value;
        if (settings.sampling == Sampling::bilinear) {
            const std::uint32_t below = pixel + size() + 2;
            value = between(value, read(band, pixel + 1), read(band, below), read(band, below + 1),
                            weights_of(place.right, place.down));
        }
        if (settings.jitter != 0.0) value = value * band_[band].gain;
        if (settings.has_noise) {
            int x = 0;
            int y = 0;
            pixel_at(t, &x, &y);
            const std::uint32_t element = (static_cast<std::uint32_t>(y) * size() + x) * bands() + band;
            float z[4];
            normal_blocks<1>(element / 4, noise_key_, z);
            value = value + z[element % 4] * problem_.noise[band];
        }
        return value;
    }

    MF_HOST_DEVICE void measure_bands() {
        const auto pixels = static_cast<double>(problem_.pixels());
        for (std::uint32_t band = 0; band < bands(); ++band) {
            const double sum = block_.sum(problem_.pixels(), [&](std::uint32_t t) {
                return static_cast<double>(sample(t, band));
            });
            const double mean = sum / pixels;
            const double squares = block_.sum(problem_.pixels(), [&](std::uint32_t t) {
                const double off = static_cast<double>(sample(t, band)) - mean;
                return off * off;
            });
            block_.for_each(1, [&](std::uint32_t) {
                band_[band].mean = mean;
                band_[band].inverse = 1.0 / (std::sqrt(squares / (pixels - 1.0)) + kStandardiseFloor);
            });
        }
    }

    MF_HOST_DEVICE void write_view(float* view) {
        block_.for_each(problem_.values(), [&](std::uint32_t e) {
            const std::uint32_t t = kStaged ? problem_.by_bands(e) : e / bands();
            const std::uint32_t band = e - t * bands();
            float value = sample(t, band);
            if (problem_.settings.standardise) {
                const BandScale& scale = band_[band];
                value = static_cast<float>((static_cast<double>(value) - scale.mean) * scale.inverse);
            }
            view[e] = value;
        });
    }

    Block& block_;
    const BlockProblem& problem_;
    const Decoder& decoder_;
    BandScale* band_;
    float* stamp_;
    Place* place_;
    const unsigned char* first_ = nullptr;
    bool is_random_ = false;
    ViewMap map_;
    Key noise_key_{};
};

}  // namespace margformer
