// Views of stamps as patch tokens, on the host.
#pragma once

#include <cstdint>
#include <vector>

#include "core/pixels.hpp"
#include "core/views.hpp"

namespace margformer::cpu {

// One buffer of stamps. The caller answers for the layout, as for cpu::decode.
struct Part {
    const unsigned char* first = nullptr;
    PixelLayout layout;
};

struct ViewProblem {
    std::vector<Part> parts;  // row n of the stamps is a row of the first part, or of the second, ...
    Scaling scaling;
    const std::int64_t* rows = nullptr;
    const std::int64_t* objid = nullptr;  // of the chosen rows; null for stamps as they are, in one view
    std::int64_t num_rows = 0;
    ViewSettings settings;
    ViewSeed key;
    const float* noise = nullptr;  // standard deviation in each band; read if settings.has_noise
    int num_views = 1;
    int patch = 1;
};

// Write (views, rows, patches, values of a patch) to `out`. Pixels without a finite value count as zero.
// Throws DataError if a row is outside, parts differ in shape, or a stamp is not square or too large.
void views(const ViewProblem& problem, float* out, int threads);

}  // namespace margformer::cpu
