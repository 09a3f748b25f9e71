// GELU with the exact distribution function, its derivative, and dropout that is a function of (seed, element).
//
// Only operations that vectorise and that IEEE 754 rounds alike everywhere.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/bits.hpp"
#include "core/platform.hpp"

namespace margformer {

// exp(-x^2 / 2), to 2e-7 of the value where it exceeds 1e-5, and absolutely everywhere.
MF_HOST_DEVICE float half_gaussian(float x) {
    const float exponent = -0.72134752f * x * x;  // log2(e) / 2
    const float limited = exponent > -126.0f ? exponent : -126.0f;  // so is that of a NaN
    const float whole = std::rint(limited);
    const float f = 0.69314718f * (limited - whole);
    // The series of exp; what is left out is below 5e-9.
    const float fraction =
        1.0f +
        f * (1.0f +
             f * (1.0f / 2 +
                  f * (1.0f / 6 +
                       f * (1.0f / 24 + f * (1.0f / 120 + f * (1.0f / 720 + f * (1.0f / 5040)))))));
    return fraction * bit_cast<float>((static_cast<std::int32_t>(whole) + 127) << 23);
}

// The normal distribution function at x, and its density.
struct Normal {
    float below;
    float density;
};

MF_HOST_DEVICE Normal normal_at(float x) {
    const float gaussian = half_gaussian(x);
    const float size = std::fabs(x);
    // The tail beyond |x| over the Gaussian: a polynomial in 1 / (1 + 0.375 |x|), fitted to mpmath's erfc for |x|
    // up to 7; its largest relative error is 1e-08.
    const float t = 1.0f / (1.0f + 0.375f * size);
    const float tail =
        gaussian * (-8.33817953e-05f + t * (0.151219011f + t * (0.135985918f + t * (0.193839002f + t *
                    (-0.10801787f + t * (0.399018805f + t * (-0.433398653f + t * (0.194989895f + t *
                    (-0.0335527209f)))))))));
    return {x > 0.0f ? 1.0f - tail : tail, gaussian * 0.39894228f};
}

MF_HOST_DEVICE float gelu(float x) { return x * normal_at(x).below; }

MF_HOST_DEVICE float gelu_slope(float x) {
    const Normal normal = normal_at(x);
    return normal.below + x * normal.density;
}

}  // namespace margformer
