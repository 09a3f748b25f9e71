// Everything the bindings may ask of a device. Addresses are the device's; nothing is allocated, nothing is
// owned, and work is put on the caller's stream without waiting for it.
#pragma once

#include <cstdint>
#include <string>

#include "core/pixels.hpp"
#include "core/view_block.hpp"

namespace margformer::cuda {

// The number of usable devices; if that is 0, why.
struct Devices {
    int count = 0;
    std::string why_none;
};
Devices find_devices();

// Where work goes: the handle 0 is the legacy default stream.
struct Queue {
    int device = 0;
    std::uintptr_t stream = 0;
};

// As cpu::decode, except that rows cannot be checked without waiting for the device: a row outside
// 0 .. shape[0] - 1 is not read and gives NaN.
void decode(const unsigned char* first, const PixelLayout& layout, const Scaling& scaling,
            const std::int64_t* rows, std::int64_t num_rows, float* out, const Queue& queue);

// As cpu::views, for stamps in one buffer; `noise` and all else that is pointed to lies on the device. A row
// outside gives NaN.
void views(const BlockProblem& problem, const Scaling& scaling, float* out, const Queue& queue);

}  // namespace margformer::cuda
