#include "cpu/views.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>

#include "core/error.hpp"
#include "cpu/clones.hpp"
#include "cpu/parallel.hpp"
#include "cpu/simd.hpp"

namespace margformer::cpu {
namespace {

constexpr std::int64_t kPixelsPerThread = 1 << 15;  // below this, starting a thread costs more than it saves
constexpr int kMaxSize = 8192;
constexpr int kPhases = 16;        // see for_each_value
constexpr int kNormalBlocks = 16;  // blocks of normal deviates that are made side by side

constexpr std::int64_t round_up(std::int64_t count, std::int64_t unit) {
    return (count + unit - 1) / unit * unit;
}

// What one thread needs beside its output, allocated before threads start: nothing throws in them.
struct Workspace {
    // The stamp with a frame of zeros, a pixel's bands side by side and padded to whole lanes: one load reads
    // all bands of a pixel, and what lies outside is a pixel like any other.
    std::vector<float> stamp;
    std::vector<float> lines;         // one row of the stamp, band by band, both padded to whole lanes
    std::vector<std::int32_t> place;  // in `stamp`, of each pixel of the view
    std::vector<float> weights[4];    // of the four pixels there ...
    std::vector<float> right, down;   // ... and what they are made of, for one line
    std::vector<float> noise;         // of the view, as normal_block numbers it
    std::vector<float> gain, sigma;   // of each band, padded as pixels are
    std::vector<double> sum, mean, inverse;
};

template <int kLanes>
class ViewWriter {
  public:
    explicit ViewWriter(const ViewProblem& problem, Workspace& workspace)
        : problem_(problem),
          work_(workspace),
          size_(static_cast<int>(problem.parts[0].layout.shape[3])),
          bands_(static_cast<int>(problem.parts[0].layout.shape[1])),
          padded_bands_(static_cast<int>(round_up(bands_, kLanes))),
          line_length_(static_cast<int>(round_up(size_, kLanes))),
          values_(static_cast<std::int64_t>(size_) * size_ * bands_) {}

    void allocate() {
        const auto pixels = static_cast<std::size_t>(size_) * size_;
        const auto framed = static_cast<std::size_t>(size_ + 2) * (size_ + 2);
        work_.stamp.assign((framed + kLanes) * padded_bands_, 0.0f);  // the last line may write beyond its end
        work_.lines.assign(static_cast<std::size_t>(line_length_) * padded_bands_, 0.0f);
        work_.place.resize(pixels);
        if (problem_.settings.sampling == Sampling::bilinear) {
            for (auto& each : work_.weights) each.resize(pixels);
            for (auto* each : {&work_.right, &work_.down}) each->resize(size_);
        }
        if (has_extras()) {
            // Whole blocks; and a pixel's last lanes may reach beyond the view's last value.
            work_.noise.assign(round_up(pixels * bands_, 4 * kNormalBlocks) + padded_bands_, 0.0f);
            work_.gain.assign(padded_bands_, 1.0f);
            work_.sigma.assign(padded_bands_, 0.0f);
            if (problem_.settings.has_noise) {
                std::copy_n(problem_.noise, bands_, work_.sigma.begin());
            }
        }
        if (problem_.settings.standardise) {
            for (auto* each : {&work_.sum, &work_.mean, &work_.inverse}) each->resize(bands_ * kPhases);
        }
    }

    // All views of the chosen rows begin .. end.
    MF_ALWAYS_INLINE void write(std::int64_t begin, std::int64_t end, float* out) const {
        for (std::int64_t n = begin; n < end; ++n) {
            read_stamp(problem_.rows[n]);
            for (int v = 0; v < problem_.num_views; ++v) {
                float* view = out + (v * problem_.num_rows + n) * values_;
                if (problem_.objid == nullptr) {
                    place_identity();
                    write_view<false, false>(view);
                } else {
                    write_random(problem_.objid[n], static_cast<std::uint32_t>(v), view);
                }
                if (problem_.settings.standardise) standardise(view);
            }
        }
    }

  private:
    bool has_extras() const {
        return problem_.objid != nullptr &&
               (problem_.settings.jitter != 0.0 || problem_.settings.has_noise);
    }

    MF_ALWAYS_INLINE void read_stamp(std::int64_t row) const {
        const Part* part = problem_.parts.data();
        for (; row >= part->layout.shape[0]; ++part) row -= part->layout.shape[0];
        const unsigned char* first = part->first + row * part->layout.strides[0];
        with_decoder(part->layout, problem_.scaling, [&](const auto& decoder) __attribute__((always_inline)) {
            read_stamp_with(decoder, first, part->layout.strides);
        });
    }

    template <typename Decoder>
    MF_ALWAYS_INLINE void read_stamp_with(const Decoder& decoder, const unsigned char* first,
                                          const std::int64_t* strides) const {
        constexpr std::int64_t kStored = sizeof(typename Decoder::Stored);
        const Decoder fixed = decoder;
        const int size = size_;
        const std::int64_t padded = padded_bands_ == kLanes ? kLanes : padded_bands_;
        const std::int64_t step = strides[3];
        const std::int64_t line_length = line_length_;
        float* const lines = work_.lines.data();
        float* const stamp = work_.stamp.data();
        for (int y = 0; y < size; ++y) {
            for (int band = 0; band < bands_; ++band) {
                const unsigned char* from = first + band * strides[1] + y * strides[2];
                float* __restrict line = lines + band * line_length;
                if (step == kStored) {
                    // A step that the compiler knows: it loads and swaps whole vectors.
                    for (int x = 0; x < size; ++x) line[x] = finite_or_zero(fixed(from + x * kStored));
                } else {
                    for (int x = 0; x < size; ++x) line[x] = finite_or_zero(fixed(from + x * step));
                }
            }
            // Lines end in zeros: what is written beyond one is frame, or the next line will mend it.
            for (std::int64_t x = 0; x < line_length; x += kLanes) {
                for (std::int64_t band = 0; band < padded; band += kLanes) {
                    transpose<kLanes>(lines + band * line_length + x, line_length,
                                      stamp + (framed_pixel(0, y, size) + x) * padded + band, padded);
                }
            }
        }
    }

    MF_ALWAYS_INLINE void place_identity() const {
        for (int y = 0; y < size_; ++y) {
            for (int x = 0; x < size_; ++x) work_.place[y * size_ + x] = framed_pixel(x, y, size_);
        }
    }

    template <Sampling kSampling>
    MF_ALWAYS_INLINE void place_random(const ViewMap& map) const {
        // Copies on the stack: stores to the workspace could otherwise change what they were read from.
        const ViewMap fixed = map;
        const int size = size_;
        const bool extends_edge = problem_.settings.extends_edge;
        float* __restrict right = work_.right.data();
        float* __restrict down = work_.down.data();
        for (int y = 0; y < size; ++y) {
            std::int32_t* __restrict place = work_.place.data() + y * size;
            for (int x = 0; x < size; ++x) {
                const Place read = place_of<kSampling>(fixed, extends_edge, size, x, y);
                place[x] = read.pixel;
                if constexpr (kSampling == Sampling::bilinear) {
                    right[x] = read.right;
                    down[x] = read.down;
                }
            }
            // Apart from the doubles above: only then does the compiler vectorise both.
            if constexpr (kSampling == Sampling::bilinear) weigh_line(y);
        }
    }

    MF_ALWAYS_INLINE void weigh_line(int y) const {
        const float* __restrict right = work_.right.data();
        const float* __restrict down = work_.down.data();
        float* __restrict upper_left = work_.weights[0].data() + y * size_;
        float* __restrict upper_right = work_.weights[1].data() + y * size_;
        float* __restrict lower_left = work_.weights[2].data() + y * size_;
        float* __restrict lower_right = work_.weights[3].data() + y * size_;
        for (int x = 0; x < size_; ++x) {
            const Weights weights = weights_of(right[x], down[x]);
            upper_left[x] = weights.w[0];
            upper_right[x] = weights.w[1];
            lower_left[x] = weights.w[2];
            lower_right[x] = weights.w[3];
        }
    }

    MF_ALWAYS_INLINE void write_random(std::int64_t objid, std::uint32_t view_index, float* view) const {
        const ViewSettings& settings = problem_.settings;
        const ViewMap map = draw_map(settings, size_, problem_.key, objid, view_index);
        if (has_extras()) draw_extras(objid, view_index);
        switch (settings.sampling) {
            case Sampling::two_step:
                place_random<Sampling::two_step>(map);
                break;
            case Sampling::nearest:
                place_random<Sampling::nearest>(map);
                break;
            case Sampling::bilinear:
                place_random<Sampling::bilinear>(map);
                return has_extras() ? write_view<true, true>(view) : write_view<true, false>(view);
        }
        return has_extras() ? write_view<false, true>(view) : write_view<false, false>(view);
    }

    MF_ALWAYS_INLINE void draw_extras(std::int64_t objid, std::uint32_t view_index) const {
        if (problem_.settings.jitter != 0.0) {
            for (int band = 0; band < bands_; ++band) {
                work_.gain[band] = draw_gain(problem_.settings, problem_.key, objid, view_index,
                                             static_cast<std::uint32_t>(band));
            }
        }
        if (!problem_.settings.has_noise) return;
        const Key key = draw_noise_key(problem_.key, objid, view_index);
        float* const noise = work_.noise.data();
        for (std::int64_t element = 0; element < values_; element += 4 * kNormalBlocks) {
            normal_blocks<kNormalBlocks>(static_cast<std::uint32_t>(element / 4), key, noise + element);
        }
    }

    // Pixels are written in the order of their addresses and whole lanes at a time: what a store writes beyond
    // its pixel is mended by the stores that follow. Only at the end of the view there is nobody to mend.
    //
    // kGroups: how many times kLanes make a pixel; 0 if it is more than one.
    template <bool kBilinear, bool kExtras, int kGroups>
    MF_ALWAYS_INLINE void write_pixels(float* view) const {
        // All on the stack: the compiler must think that stores to the view change what is behind a pointer.
        const int size = size_;
        const int patch = problem_.patch;
        const std::int64_t bands = bands_;
        const std::int64_t padded = kGroups == 1 ? kLanes : padded_bands_;
        const std::int64_t below = (size + 2) * padded;
        const std::int64_t last_whole = values_ - padded;
        const float* const stamp = work_.stamp.data();
        const std::int32_t* const place = work_.place.data();
        const float* const weights[4] = {work_.weights[0].data(), work_.weights[1].data(),
                                         work_.weights[2].data(), work_.weights[3].data()};
        const float* const noise = work_.noise.data();
        const float* const gain = work_.gain.data();
        const float* const sigma = work_.sigma.data();

        std::int64_t out = 0;
        for (int top = 0; top < size; top += patch) {
            for (int left = 0; left < size; left += patch) {
                for (int y = top; y < top + patch; ++y) {
                    for (int pixel = y * size + left; pixel < y * size + left + patch; ++pixel, out += bands) {
                        for (std::int64_t band = 0; band < padded; band += kLanes) {
                            const float* from = stamp + place[pixel] * padded + band;
                            auto value = load<kLanes>(from);
                            if constexpr (kBilinear) {
                                value = between(value, load<kLanes>(from + padded), load<kLanes>(from + below),
                                                load<kLanes>(from + below + padded),
                                                Weights{{weights[0][pixel], weights[1][pixel],
                                                         weights[2][pixel], weights[3][pixel]}});
                            }
                            if constexpr (kExtras) {
                                value = value * load<kLanes>(gain + band) +
                                        load<kLanes>(noise + pixel * bands + band) *
                                            load<kLanes>(sigma + band);
                            }
                            if (out <= last_whole) {
                                store(view + out + band, value);
                            } else {
                                const auto copy = value;
                                store_some(view + out + band, &copy,
                                           std::min<std::int64_t>(kLanes, bands - band));
                            }
                        }
                    }
                }
            }
        }
    }

    template <bool kBilinear, bool kExtras>
    MF_ALWAYS_INLINE void write_view(float* view) const {
        return padded_bands_ == kLanes ? write_pixels<kBilinear, kExtras, 1>(view)
                                       : write_pixels<kBilinear, kExtras, 0>(view);
    }

    // Call body(value, phase) for all values of a view, phase being the band plus a multiple of the number of
    // bands: kPhases neighbours at a time go the same way, which vectorises for any number of bands.
    template <typename Value, typename Body>
    MF_ALWAYS_INLINE void for_each_value(Value* view, const Body& body) const {
        const std::int64_t period = static_cast<std::int64_t>(bands_) * kPhases;
        for (std::int64_t start = 0; start < values_; start += period) {
            const std::int64_t length = std::min(period, values_ - start);
            for (std::int64_t phase = 0; phase < length; ++phase) body(view[start + phase], phase);
        }
    }

    // Add up the phases of each band.
    MF_ALWAYS_INLINE double total_of(int band) const {
        double total = 0.0;
        for (int phase = band; phase < bands_ * kPhases; phase += bands_) total += work_.sum[phase];
        return total;
    }

    MF_ALWAYS_INLINE void standardise(float* view) const {
        double* __restrict sum = work_.sum.data();
        double* __restrict mean = work_.mean.data();
        double* __restrict inverse = work_.inverse.data();
        const auto pixels = static_cast<double>(values_ / bands_);
        const int phases = bands_ * kPhases;

        std::fill_n(sum, phases, 0.0);
        for_each_value(view, [=](const float& value, std::int64_t phase) __attribute__((always_inline)) {
            sum[phase] += static_cast<double>(value);
        });
        for (int phase = 0; phase < phases; ++phase) mean[phase] = total_of(phase % bands_) / pixels;

        std::fill_n(sum, phases, 0.0);
        for_each_value(view, [=](const float& value, std::int64_t phase) __attribute__((always_inline)) {
            const double off = static_cast<double>(value) - mean[phase];
            sum[phase] += off * off;
        });
        for (int phase = 0; phase < phases; ++phase) {
            const double variance = total_of(phase % bands_) / (pixels - 1.0);
            inverse[phase] = 1.0 / (std::sqrt(variance) + kStandardiseFloor);
        }
        for_each_value(view, [=](float& value, std::int64_t phase) __attribute__((always_inline)) {
            value = static_cast<float>((static_cast<double>(value) - mean[phase]) * inverse[phase]);
        });
    }

    const ViewProblem& problem_;
    Workspace& work_;
    int size_;
    int bands_;
    int padded_bands_;
    int line_length_;
    std::int64_t values_;
};

// Not templates: the loader picks among clones by name.
MF_CLONES_FLAT void write_4(const ViewWriter<4>& writer, std::int64_t begin, std::int64_t end, float* out) {
    writer.write(begin, end, out);
}

MF_CLONES_FLAT void write_8(const ViewWriter<8>& writer, std::int64_t begin, std::int64_t end, float* out) {
    writer.write(begin, end, out);
}

void check(const ViewProblem& problem) {
    const PixelLayout& first = problem.parts[0].layout;
    std::int64_t num_stamps = 0;
    for (const Part& part : problem.parts) {
        const auto* shape = part.layout.shape;
        if (!std::equal(shape + 1, shape + kAxes, first.shape + 1)) {
            throw DataError("the parts differ in the shape of a stamp");
        }
        num_stamps += shape[0];
    }
    const std::int64_t size = first.shape[3];
    if (first.shape[1] < 1 || first.shape[2] != size || size < 1 || size > kMaxSize) {
        throw DataError("stamps have " + std::to_string(first.shape[1]) + " bands of " +
                            std::to_string(first.shape[2]) + " x " + std::to_string(size) + " pixels",
                        "", "one band or more, square, side 1 to " + std::to_string(kMaxSize));
    }
    if (problem.patch < 1 || size % problem.patch != 0) {
        throw DataError("patches have side " + std::to_string(problem.patch), "",
                        "a divisor of " + std::to_string(size));
    }
    for (std::int64_t n = 0; n < problem.num_rows; ++n) {
        if (problem.rows[n] < 0 || problem.rows[n] >= num_stamps) {
            throw DataError("row " + std::to_string(problem.rows[n]) + " is outside",
                            "place " + std::to_string(n), "0 to " + std::to_string(num_stamps - 1));
        }
    }
}

template <int kLanes, typename Write>
void run(const ViewProblem& problem, int threads, float* out, Write write) {
    const std::int64_t pixels = problem.parts[0].layout.pixels_per_row() * problem.num_views;
    const std::int64_t grain = std::max<std::int64_t>(1, kPixelsPerThread / pixels);
    // One for each call of the body, of which there are at most this many.
    std::vector<Workspace> workspaces(static_cast<std::size_t>(
        std::max<std::int64_t>(1, std::min<std::int64_t>(threads, problem.num_rows / grain))));
    std::vector<ViewWriter<kLanes>> writers;
    for (Workspace& workspace : workspaces) writers.emplace_back(problem, workspace).allocate();
    std::atomic<std::size_t> taken{0};
    parallel_for(problem.num_rows, threads, grain, [&](std::int64_t begin, std::int64_t end) noexcept {
        write(writers[taken++], begin, end, out);
    });
}

}  // namespace

void views(const ViewProblem& problem, float* out, int threads) {
    check(problem);
    if (problem.num_rows == 0 || problem.num_views == 0) return;
    if (problem.parts[0].layout.shape[1] <= 4) {
        run<4>(problem, threads, out, write_4);
    } else {
        run<8>(problem, threads, out, write_8);
    }
}

}  // namespace margformer::cpu
