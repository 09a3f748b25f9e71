// Random views of a stamp: what is drawn for each, and where each of its pixels is read.
//
// margformer_fast/reference/augment.py is the same in PyTorch, and the tests hold the two together. Coordinates
// are float64 everywhere: a rotated pixel centre within rounding of a pixel edge then falls the same way.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/platform.hpp"
#include "core/random.hpp"

namespace margformer {

enum class Sampling {
    two_step,  // rotate, then shift by whole pixels: the nearest pixel twice, what leaves the frame is lost
    nearest,   // one map, the nearest pixel
    bilinear,  // one map, four pixels
};

struct ViewSettings {
    Sampling sampling = Sampling::two_step;
    bool extends_edge = false;  // outside lies the nearest pixel of the edge; zero otherwise
    double max_angle_deg = 0.0;
    double max_shift = 0.0;  // fraction of the side
    bool flips = false;
    double jitter = 0.0;     // largest relative change of a band
    bool has_noise = false;
    bool standardise = false;

    MF_HOST_DEVICE bool has_geometry() const { return max_angle_deg != 0.0 || max_shift != 0.0 || flips; }
};

// Of which random stream views are.
struct ViewSeed {
    std::uint64_t seed = 0;
    std::uint32_t epoch = 0;
};

// A view as a map to the stamp: undo the mirrors, undo the shift, rotate about the centre.
struct ViewMap {
    double cosine = 1.0;
    double sine = 0.0;
    double centre = 0.0;
    double start[2] = {0.0, 0.0};  // x and y of the view's first pixel before the rotation ...
    double step[2] = {1.0, 1.0};   // ... and from one pixel to the next: 1 or -1
};

MF_HOST_DEVICE ViewMap draw_map(const ViewSettings& settings, int size, ViewSeed key, std::int64_t objid,
                                std::uint32_t view) {
    constexpr double kRadiansPerDegree = 3.14159265358979323846 / 180.0;
    const Words words = draw(key.seed, key.epoch, objid, view, kForGeometry);
    const double angle = settings.max_angle_deg * signed_uniform(words.w[0]) * kRadiansPerDegree;
    ViewMap map;
    map.cosine = std::cos(angle);
    map.sine = std::sin(angle);
    map.centre = (size - 1) / 2.0;
    for (int axis = 0; axis < 2; ++axis) {
        double shift = settings.max_shift * size * signed_uniform(words.w[1 + axis]);
        if (settings.sampling == Sampling::two_step) shift = std::rint(shift);
        const bool mirrored = settings.flips && (words.w[3] >> axis & 1u) != 0;
        map.start[axis] = (mirrored ? size - 1 : 0) - shift;
        map.step[axis] = mirrored ? -1.0 : 1.0;
    }
    return map;
}

// By how much a band of a view is multiplied.
MF_HOST_DEVICE float draw_gain(const ViewSettings& settings, ViewSeed key, std::int64_t objid,
                               std::uint32_t view, std::uint32_t band) {
    const Words words = draw(key.seed, key.epoch, objid, view, kForGains + band / 4);
    return static_cast<float>(1.0 + settings.jitter * signed_uniform(words.w[band % 4]));
}

// The stream of a view's pixel noise: element (y * size + x) * bands + band is that pixel's.
MF_HOST_DEVICE Key draw_noise_key(ViewSeed key, std::int64_t objid, std::uint32_t view) {
    const Words words = draw(key.seed, key.epoch, objid, view, kForNoise);
    return {{words.w[0], words.w[1]}};
}

// Where a view's pixel is read in a stamp that has a frame of one zero pixel around it: side size + 2.
struct Place {
    std::int32_t pixel;  // the nearest, in the frame if it is outside; bilinear: the upper left of four
    float right, down;   // bilinear: how far beyond the upper left pixel
};

// The pixel at column x and row y of the framed stamp, -1 and size being the frame.
MF_HOST_DEVICE std::int32_t framed_pixel(std::int32_t x, std::int32_t y, int size) {
    return (y + 1) * (size + 2) + (x + 1);
}

// The nearest of low .. high.
MF_HOST_DEVICE double limit(double value, double low, double high) {
    value = value < low ? low : value;
    return value > high ? high : value;
}

// No branches, and nothing but selections of doubles: compilers vectorise it over x.
template <Sampling kSampling>
MF_HOST_DEVICE Place place_of(const ViewMap& map, bool extends_edge, int size, int x, int y) {
    const double last = size - 1;
    const double before_x = map.start[0] + map.step[0] * x;
    const double before_y = map.start[1] + map.step[1] * y;
    const double from_centre_x = before_x - map.centre;
    const double from_centre_y = before_y - map.centre;
    // Half a pixel outside reads half the frame, a whole pixel or more nothing but the frame.
    const double margin = extends_edge ? 0.0 : 1.0;
    double column = map.cosine * from_centre_x - map.sine * from_centre_y + map.centre;
    double row = map.sine * from_centre_x + map.cosine * from_centre_y + map.centre;
    if constexpr (kSampling == Sampling::bilinear) {
        column = limit(column, -margin, last + margin);
        row = limit(row, -margin, last + margin);
        // Never the last column of the frame, beyond which there is nothing to read.
        const double left = limit(std::floor(column), -1.0, last);
        const double top = limit(std::floor(row), -1.0, last);
        return {framed_pixel(static_cast<std::int32_t>(left), static_cast<std::int32_t>(top), size),
                static_cast<float>(column - left), static_cast<float>(row - top)};
    } else {
        column = limit(std::rint(column), -margin, last + margin);
        row = limit(std::rint(row), -margin, last + margin);
        if constexpr (kSampling == Sampling::two_step) {
            column = before_x < 0.0 ? -1.0 : column;
            column = before_x > last ? -1.0 : column;
            column = before_y < 0.0 ? -1.0 : column;
            column = before_y > last ? -1.0 : column;
        }
        return {framed_pixel(static_cast<std::int32_t>(column), static_cast<std::int32_t>(row), size), 0.0f,
                0.0f};
    }
}

// What each of four pixels counts for: upper left, upper right, lower left, lower right.
struct Weights {
    float w[4];
};

MF_HOST_DEVICE Weights weights_of(float right, float down) {
    const float left = 1.0f - right;
    const float up = 1.0f - down;
    return {{up * left, up * right, down * left, down * right}};
}

// The value between four pixels; a Value is a number or a vector of them.
template <typename Value>
MF_HOST_DEVICE Value between(Value upper_left, Value upper_right, Value lower_left, Value lower_right,
                             const Weights& weights) {
    return upper_left * weights.w[0] + upper_right * weights.w[1] + lower_left * weights.w[2] +
           lower_right * weights.w[3];
}

// Standardised: (x - mean) / (std + 1e-6), the published recipe.
constexpr double kStandardiseFloor = 1e-6;

// Where the bands of pixel (x, y) begin among the patch tokens of a stamp: patches row by row, in a patch pixel
// rows, pixel columns, bands.
MF_HOST_DEVICE std::int64_t token_offset(int x, int y, int size, int patch, int bands) {
    const std::int64_t token = static_cast<std::int64_t>(y / patch) * (size / patch) + x / patch;
    return ((token * patch + y % patch) * patch + x % patch) * bands;
}

}  // namespace margformer
