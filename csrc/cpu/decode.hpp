// Gather and decode rows of raw pixels on the host.
#pragma once

#include <cstdint>

#include "core/pixels.hpp"

namespace margformer::cpu {

// Write rows `rows[0 .. num_rows)` of the pixels at `first` to `out`, densely. The caller answers for the
// layout: every pixel of rows 0 .. shape[0] - 1 must be readable. Throws DataError if a row is outside.
void decode(const unsigned char* first, const PixelLayout& layout, const Scaling& scaling,
            const std::int64_t* rows, std::int64_t num_rows, float* out, int threads);

}  // namespace margformer::cpu
