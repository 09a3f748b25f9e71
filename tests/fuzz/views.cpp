// Target: raw pixels of any type, order and place to views, by SIMD on threads and by the body of the CUDA
// kernel, which must agree to the bit. The first bytes of an input say what is asked for; the rest are pixels.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "../host_block.hpp"
#include "bytes.hpp"
#include "check.hpp"
#include "core/error.hpp"
#include "cpu/views.hpp"

namespace {

using margformer::BlockProblem;
using margformer::DataError;
using margformer::Divider;
using margformer::PixelLayout;
using margformer::PixelType;
using margformer::Sampling;

using Random = std::minstd_rand;

int draw(Random& random, int count) {
    return static_cast<int>(random() % static_cast<unsigned>(count));
}

constexpr std::int64_t kPixelSizes[] = {1, 2, 4, 8, 4, 8};  // of each PixelType

// Dense pixels in any order of their axes and in any direction; false if not one stamp fits into the bytes.
bool lay_out(Random& random, const Bytes& data, margformer::cpu::Part& part) {
    PixelLayout& layout = part.layout;
    layout.type = static_cast<PixelType>(draw(random, 6));
    layout.swapped = draw(random, 2) != 0;
    const std::int64_t pixel = kPixelSizes[static_cast<int>(layout.type)];
    layout.shape[1] = 1 + draw(random, 10);
    layout.shape[2] = layout.shape[3] = 1 + draw(random, 12);
    const std::int64_t stamp = layout.pixels_per_row() * pixel;
    layout.shape[0] = static_cast<std::int64_t>(data.size) / stamp;
    if (layout.shape[0] == 0) return false;
    int order[] = {0, 1, 2, 3};
    std::shuffle(order, order + 4, random);
    std::int64_t stride = pixel;
    part.first = data.data.get();
    for (const int axis : order) {
        layout.strides[axis] = stride;
        stride *= layout.shape[axis];
        if (draw(random, 3) == 0) {
            part.first += (layout.shape[axis] - 1) * layout.strides[axis];
            layout.strides[axis] = -layout.strides[axis];
        }
    }
    return true;
}

margformer::ViewSettings settings_of(Random& random) {
    margformer::ViewSettings settings;
    settings.sampling = static_cast<Sampling>(draw(random, 3));
    settings.extends_edge = settings.sampling != Sampling::two_step && draw(random, 2) != 0;
    settings.max_angle_deg = draw(random, 3) == 0 ? 0.0 : 180.0;
    settings.max_shift = draw(random, 10) / 10.0;
    settings.flips = draw(random, 2) != 0;
    settings.jitter = draw(random, 2) * 0.5;
    settings.has_noise = draw(random, 3) == 0;
    settings.standardise = draw(random, 3) == 0;
    return settings;
}

bool same(float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* input, std::size_t size) {
    if (size < 8) return 0;
    std::uint32_t seed = 1;
    for (int i = 0; i < 8; ++i) seed = seed * 31 + input[i];
    Random random(seed);
    const Bytes data(input + 8, size - 8);
    margformer::cpu::Part part;
    if (!lay_out(random, data, part)) return 0;

    const auto bands = static_cast<int>(part.layout.shape[1]);
    const auto side = static_cast<int>(part.layout.shape[3]);
    margformer::cpu::ViewProblem problem;
    problem.parts = {part};
    problem.scaling = draw(random, 2) == 0 ? margformer::Scaling{} : margformer::Scaling{0.5, 3.0, 7, true};
    problem.settings = settings_of(random);
    problem.key = {random(), static_cast<std::uint32_t>(random())};
    problem.num_views = 1 + draw(random, 3);
    do {
        problem.patch = 1 + draw(random, side);
    } while (side % problem.patch != 0);

    std::vector<std::int64_t> rows;
    std::vector<std::int64_t> objid;
    for (int n = draw(random, 5); n >= 0; --n) {
        rows.push_back(draw(random, static_cast<int>(part.layout.shape[0])));
        objid.push_back(static_cast<std::int64_t>(random()) << 20);
    }
    const bool is_outside = draw(random, 16) == 0;
    if (is_outside) rows[0] = draw(random, 2) == 0 ? -1 : part.layout.shape[0];
    problem.rows = rows.data();
    problem.objid = draw(random, 4) == 0 ? nullptr : objid.data();
    if (problem.objid == nullptr) problem.num_views = 1;
    problem.num_rows = static_cast<std::int64_t>(rows.size());
    const std::vector<float> noise(static_cast<std::size_t>(bands), 0.25f);
    problem.noise = noise.data();

    const auto values = static_cast<std::size_t>(problem.num_views * problem.num_rows *
                                                 part.layout.pixels_per_row());
    const std::unique_ptr<float[]> out(new float[values]);
    std::fill_n(out.get(), values, std::numeric_limits<float>::infinity());
    try {
        margformer::cpu::views(problem, out.get(), 1 + draw(random, 3));
        FUZZ_CHECK(!is_outside);
    } catch (const DataError&) {
        FUZZ_CHECK(is_outside);
        return 0;
    }

    BlockProblem block;
    block.first = part.first;
    block.layout = part.layout;
    block.rows = problem.rows;
    block.objid = problem.objid;
    block.num_rows = problem.num_rows;
    block.settings = problem.settings;
    block.key = problem.key;
    block.noise = problem.noise;
    block.num_views = problem.num_views;
    block.size = side;
    block.bands = bands;
    block.patch = problem.patch;
    block.by_size = Divider::by(static_cast<std::uint32_t>(side));
    block.by_bands = Divider::by(static_cast<std::uint32_t>(bands));
    const std::unique_ptr<float[]> other(new float[values]);
    if (draw(random, 2) == 0) {
        views_by_host_block<true>(block, problem.scaling, other.get());
    } else {
        views_by_host_block<false>(block, problem.scaling, other.get());
    }
    // Standardised values depend on the order of a sum; that they are written at all, ASan and the tests see.
    if (problem.settings.standardise) return 0;
    for (std::size_t i = 0; i < values; ++i) FUZZ_CHECK(same(out[i], other[i]));
    return 0;
}
