// Read the pixels of many small FITS files into one buffer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/fits_image.hpp"

namespace margformer::cpu {

// What to take of each file, and what it must look like.
struct CutoutPlan {
    std::vector<std::int64_t> hdus;  // of every file, in the order in which they are to lie
    fits::ImageLayout expected;      // of every image: its shape and, unless it is decoded, its pixels
    bool decode = false;             // scale each image by itself to float32, in place of copying its bytes
    std::size_t max_file_size = 0;

    // Bytes that a file gives.
    std::size_t row_size() const {
        return hdus.size() * expected.num_pixels() * (decode ? sizeof(float) : expected.pixel_size());
    }
};

// Fill row i of `out` from paths[i], for every i from `begin` on. Returns the first i whose file could not be
// read as planned; the number of paths if there is none. The rows before it are complete, those after it need
// not be. Why it could not is for the caller to find out: it knows the words.
//
// Each thread holds one file at a time open and in memory, so that memory is bounded by threads and
// max_file_size, and takes the next few files when it is done with some: a slow one holds up no other.
std::int64_t read_cutouts(const std::vector<std::string>& paths, std::int64_t begin, const CutoutPlan& plan,
                          unsigned char* out, int threads);

}  // namespace margformer::cpu
