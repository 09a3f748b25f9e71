// Random numbers that are a function of their key, the same on every backend: Philox4x32-10 (Salmon et al. 2011,
// SC'11, doi 10.1145/2063384.2063405). margformer_fast/reference/random.py is the same in Python.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/bits.hpp"
#include "core/platform.hpp"

namespace margformer {

struct Words {
    std::uint32_t w[4];
};

struct Key {
    std::uint32_t k[2];
};

// Four uniform words for each of kCount counters, in place; side by side, so that compilers vectorise it.
template <int kCount>
MF_HOST_DEVICE void philox(std::uint32_t (&words)[4][kCount], Key key) {
    for (int round = 0; round < 10; ++round) {
        MF_KEEP_LOOP
        for (int i = 0; i < kCount; ++i) {
            const std::uint64_t p0 = static_cast<std::uint64_t>(0xD2511F53u) * words[0][i];
            const std::uint64_t p1 = static_cast<std::uint64_t>(0xCD9E8D57u) * words[2][i];
            words[0][i] = static_cast<std::uint32_t>(p1 >> 32) ^ words[1][i] ^ key.k[0];
            words[2][i] = static_cast<std::uint32_t>(p0 >> 32) ^ words[3][i] ^ key.k[1];
            words[1][i] = static_cast<std::uint32_t>(p1);
            words[3][i] = static_cast<std::uint32_t>(p0);
        }
        key.k[0] += 0x9E3779B9u;
        key.k[1] += 0xBB67AE85u;
    }
}

// What the words of one view are for: each purpose is a stream of its own. The views of an object number fewer
// than 2^24.
constexpr std::uint32_t kForGeometry = 0;
constexpr std::uint32_t kForNoise = 1;
constexpr std::uint32_t kForGains = 2;  // and up: four bands each

// Four words of one view of one object.
MF_HOST_DEVICE Words draw(std::uint64_t seed, std::uint32_t epoch, std::int64_t objid, std::uint32_t view,
                          std::uint32_t purpose) {
    const auto bits = static_cast<std::uint64_t>(objid);
    std::uint32_t words[4][1] = {{static_cast<std::uint32_t>(bits)},
                                 {static_cast<std::uint32_t>(bits >> 32)},
                                 {epoch},
                                 {view | purpose << 24}};
    philox(words, {{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}});
    return {{words[0][0], words[1][0], words[2][0], words[3][0]}};
}

// A word as a number in [-1, 1): 24 bits, so that every step is exact.
MF_HOST_DEVICE double signed_uniform(std::uint32_t word) {
    return 2.0 * (static_cast<double>(word >> 8) * 0x1p-24) - 1.0;
}

// Two independent normal deviates from two words (Box & Muller 1958). Only operations that IEEE 754 rounds the
// same way everywhere, so host and device agree to the bit; absolute error below 2e-6. Series, not tables or
// branches: compilers vectorise it.
MF_HOST_DEVICE void normal_pair(std::uint32_t word0, std::uint32_t word1, float* z0, float* z1) {
    // u in (0, 1] as 2^exponent * mantissa with mantissa in [sqrt(1/2), sqrt(2)), by the bits of a float.
    const float u = static_cast<float>(static_cast<std::int32_t>((word0 >> 8) + 1u)) * 0x1p-24f;
    const auto shifted = bit_cast<std::uint32_t>(u) - 0x3f3504f3u;  // the bits of sqrt(1/2)
    const auto exponent = static_cast<float>(static_cast<std::int32_t>(shifted) >> 23);
    const float mantissa = bit_cast<float>((shifted & 0x007fffffu) + 0x3f3504f3u);
    // ln m = 2 artanh s with s = (m - 1) / (m + 1), |s| < 0.172: what is left out is below s^11 / 5 = 7e-10.
    const float s = (mantissa - 1.0f) / (mantissa + 1.0f);
    const float s2 = s * s;
    const float series = 1.0f + s2 * (1.0f / 3 + s2 * (1.0f / 5 + s2 * (1.0f / 7 + s2 * (1.0f / 9))));
    const float log_u = exponent * 0.69314718f + 2.0f * s * series;
    const float radius = std::sqrt(-2.0f * log_u);
    // The turn, in quarters: the nearest whole quarter, and an angle of up to pi / 4 beside it.
    const auto turn = static_cast<std::int32_t>(word1 >> 8);
    const std::int32_t quarter = (turn + (1 << 21)) >> 22;
    const float angle = static_cast<float>(turn - (quarter << 22)) * (6.2831853f * 0x1p-24f);
    const float a2 = angle * angle;
    const float sine =
        angle *
        (1.0f - a2 * (1.0f / 6 - a2 * (1.0f / 120 - a2 * (1.0f / 5040 - a2 * (1.0f / 362880)))));
    const float cosine =
        1.0f - a2 * (1.0f / 2 - a2 * (1.0f / 24 - a2 * (1.0f / 720 - a2 * (1.0f / 40320))));
    const float x = (quarter & 1) != 0 ? sine : cosine;
    const float y = (quarter & 1) != 0 ? cosine : sine;
    *z0 = radius * (((quarter + 1) & 2) != 0 ? -x : x);
    *z1 = radius * ((quarter & 2) != 0 ? -y : y);
}

// 4 * kCount normal deviates: elements 4 * block and up of the stream of `key`.
template <int kCount>
MF_HOST_DEVICE void normal_blocks(std::uint32_t block, Key key, float* z) {
    std::uint32_t words[4][kCount];
    for (int i = 0; i < kCount; ++i) {
        words[0][i] = block + static_cast<std::uint32_t>(i);
        words[1][i] = words[2][i] = words[3][i] = 0;
    }
    philox(words, key);
    for (int i = 0; i < kCount; ++i) {
        normal_pair(words[0][i], words[1][i], z + 4 * i, z + 4 * i + 1);
        normal_pair(words[2][i], words[3][i], z + 4 * i + 2, z + 4 * i + 3);
    }
}

}  // namespace margformer
