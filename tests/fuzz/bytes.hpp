// Bytes on the heap in a block of just their size, so that a read past either end is seen.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>

struct Bytes {
    Bytes(const unsigned char* first, std::size_t count) : data(new unsigned char[count]), size(count) {
        if (count != 0) std::memcpy(data.get(), first, count);
    }

    std::unique_ptr<unsigned char[]> data;
    std::size_t size;
};
