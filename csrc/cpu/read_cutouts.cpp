#include "cpu/read_cutouts.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>

#include "core/error.hpp"
#include "core/pixels.hpp"
#include "cpu/decode.hpp"
#include "cpu/parallel.hpp"

namespace margformer::cpu {
namespace {

constexpr std::int64_t kFilesAtOnce = 16;

// A file open for reading; or not, if it could not be opened.
class File {
  public:
    // Without O_NONBLOCK the opening of a pipe would wait for a writer.
    explicit File(const std::string& path)
        : handle_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
    ~File() {
        if (handle_ >= 0) ::close(handle_);
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    // The size of a regular file; -1 if it is none.
    std::int64_t size() const {
        struct stat status;
        if (handle_ < 0 || ::fstat(handle_, &status) != 0 || !S_ISREG(status.st_mode)) return -1;
        return status.st_size;
    }

    // Read on, up to `count` bytes; fewer only at the end of the file or on an error.
    std::size_t read(unsigned char* to, std::size_t count) const {
        std::size_t done = 0;
        while (done < count) {
            const ssize_t got = ::read(handle_, to + done, count - done);
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0) break;
            done += static_cast<std::size_t>(got);
        }
        return done;
    }

  private:
    int handle_;
};

PixelType type_of(int bitpix) {
    const std::size_t size = static_cast<std::size_t>(bitpix < 0 ? -bitpix : bitpix) / 8;
    return pixel_type(bitpix < 0 ? 'f' : (bitpix == 8 ? 'u' : 'i'), size);
}

// Reads one file after another through one buffer.
class Reader {
  public:
    explicit Reader(const CutoutPlan& plan) : plan_(plan) {}

    // Fill a row from a file; false if that cannot be done as planned.
    bool read(const std::string& path, unsigned char* row) {
        const File file(path);
        const std::int64_t signed_size = file.size();
        if (signed_size < 0 || static_cast<std::uint64_t>(signed_size) > plan_.max_file_size) return false;
        const auto size = static_cast<std::size_t>(signed_size);
        reserve(size);
        // Like the file before, up to the end of the last image that is wanted; then the rest if need be.
        const std::size_t first = file.read(buffer_.get(), std::min(size, enough_));
        if (take(first, row)) return true;
        if (first < enough_ || first == size) return false;
        return take(first + file.read(buffer_.get() + first, size - first), row);
    }

  private:
    void reserve(std::size_t size) {
        if (size <= capacity_) return;
        capacity_ = std::min(std::max(size, 2 * capacity_), plan_.max_file_size);
        buffer_.reset();  // first, so that the two are never there at once
        buffer_.reset(new unsigned char[capacity_]);
    }

    // Fill a row from the first `size` bytes of the buffer. They may be a part of the file: what is accepted
    // does not depend on what follows.
    bool take(std::size_t size, unsigned char* row) {
        fits::Hdu hdu;
        std::int64_t index = -1;  // of that HDU
        std::size_t end = 0;
        try {
            for (const std::int64_t wanted : plan_.hdus) {
                if (wanted < index) {
                    hdu = {};
                    index = -1;
                }
                for (; index < wanted; ++index) {
                    if (hdu.next_offset >= size) return false;
                    hdu = fits::read_hdu(buffer_.get(), size, hdu.next_offset);
                }
                if (!hdu.is_image || !hdu.layout.same_shape(plan_.expected)) return false;
                if (!plan_.decode && !hdu.layout.same_pixels(plan_.expected)) return false;
                row += take_image(hdu, row);
                end = std::max(end, hdu.data_offset + hdu.layout.num_pixels() * hdu.layout.pixel_size());
            }
        } catch (const DataError&) {
            return false;
        }
        enough_ = end;
        return true;
    }

    // Copy or decode the pixels of an image; returns how many bytes they became.
    std::size_t take_image(const fits::Hdu& hdu, unsigned char* to) const {
        const std::size_t pixels = hdu.layout.num_pixels();
        const unsigned char* from = buffer_.get() + hdu.data_offset;
        if (!plan_.decode) {
            std::memcpy(to, from, pixels * hdu.layout.pixel_size());
            return pixels * hdu.layout.pixel_size();
        }
        PixelLayout line;
        line.type = type_of(hdu.layout.bitpix);
        line.swapped = kFitsIsSwapped;
        line.shape[kAxes - 1] = static_cast<std::int64_t>(pixels);
        line.strides[kAxes - 1] = static_cast<std::int64_t>(hdu.layout.pixel_size());
        const std::int64_t row = 0;
        decode(from, line, hdu.layout.scaling, &row, 1, reinterpret_cast<float*>(to), 1);
        return pixels * sizeof(float);
    }

    const CutoutPlan& plan_;
    std::unique_ptr<unsigned char[]> buffer_;
    std::size_t capacity_ = 0;
    std::size_t enough_ = std::numeric_limits<std::size_t>::max();  // bytes that sufficed for the file before
};

}  // namespace

std::int64_t read_cutouts(const std::vector<std::string>& paths, std::int64_t begin, const CutoutPlan& plan,
                          unsigned char* out, int threads) {
    const auto count = static_cast<std::int64_t>(paths.size());
    const std::size_t row_size = plan.row_size();
    std::atomic<std::int64_t> next{begin};
    std::atomic<std::int64_t> first_bad{count};
    const std::int64_t workers = (count - begin + kFilesAtOnce - 1) / kFilesAtOnce;
    const auto pieces = std::min<std::int64_t>(workers, threads);
    parallel_for(pieces, threads, 1, [&](std::int64_t, std::int64_t) noexcept {
        Reader reader(plan);
        for (;;) {
            const std::int64_t start = next.fetch_add(kFilesAtOnce);
            for (std::int64_t i = start; i < std::min(start + kFilesAtOnce, count); ++i) {
                // Files are taken in order, so what is skipped here comes after one that is bad.
                if (i > first_bad.load()) return;
                bool good = false;
                try {
                    const auto row = static_cast<std::size_t>(i);
                    good = reader.read(paths[row], out + row * row_size);
                } catch (const std::exception&) {  // no memory, say
                }
                if (good) continue;
                std::int64_t worst = first_bad.load();
                while (i < worst && !first_bad.compare_exchange_weak(worst, i)) {
                }
                return;
            }
            if (start >= count) return;
        }
    });
    return first_bad.load();
}

}  // namespace margformer::cpu
