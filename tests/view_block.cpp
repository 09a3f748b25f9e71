// core/view_block.hpp with a block of one thread: the lines that the CUDA kernel runs, run on the host.
#include "core/view_block.hpp"

#include <cstdint>
#include <vector>

namespace {

struct HostBlock {
    template <typename Body>
    void for_each(std::uint32_t count, const Body& body) {
        for (std::uint32_t i = 0; i < count; ++i) body(i);
    }
    template <typename Term>
    double sum(std::uint32_t count, const Term& term) {
        double total = 0.0;
        for (std::uint32_t i = 0; i < count; ++i) total += term(i);
        return total;
    }
};

template <bool kStaged>
void run(const margformer::BlockProblem& problem, const margformer::Scaling& scaling, float* out) {
    std::vector<double> shared(margformer::shared_bytes(problem, kStaged) / sizeof(double) + 1);
    margformer::with_decoder(problem.layout, scaling, [&](const auto& decoder) {
        HostBlock block;
        margformer::BlockViews<kStaged, HostBlock, std::decay_t<decltype(decoder)>> views(
            block, problem, decoder, reinterpret_cast<unsigned char*>(shared.data()));
        for (std::int64_t n = 0; n < problem.num_rows; ++n) views.write(n, out);
    });
}

}  // namespace

// real: bscale, bzero, angle, shift, jitter. flags: swapped, sampling, edge, flips, noise, standardise, staged.
extern "C" void views_by_block(const unsigned char* first, char kind, std::int64_t item_size,
                               const std::int64_t* shape, const std::int64_t* strides,
                               const std::int64_t* rows, const std::int64_t* objid, std::int64_t num_rows,
                               const double* real, const int* flags, const float* noise, std::uint64_t seed,
                               std::uint32_t epoch, int num_views, int patch, float* out) {
    margformer::BlockProblem problem;
    problem.first = first;
    problem.layout.type = margformer::pixel_type(kind, static_cast<std::size_t>(item_size));
    problem.layout.swapped = flags[0] != 0;
    for (int axis = 0; axis < margformer::kAxes; ++axis) {
        problem.layout.shape[axis] = shape[axis];
        problem.layout.strides[axis] = strides[axis];
    }
    problem.rows = rows;
    problem.objid = objid;
    problem.num_rows = num_rows;
    problem.settings.sampling = static_cast<margformer::Sampling>(flags[1]);
    problem.settings.extends_edge = flags[2] != 0;
    problem.settings.max_angle_deg = real[2];
    problem.settings.max_shift = real[3];
    problem.settings.flips = flags[3] != 0;
    problem.settings.jitter = real[4];
    problem.settings.has_noise = flags[4] != 0;
    problem.settings.standardise = flags[5] != 0;
    problem.key = {seed, epoch};
    problem.noise = noise;
    problem.num_views = num_views;
    problem.size = static_cast<int>(shape[3]);
    problem.bands = static_cast<int>(shape[1]);
    problem.patch = patch;
    problem.by_size = margformer::Divider::by(static_cast<std::uint32_t>(problem.size));
    problem.by_bands = margformer::Divider::by(static_cast<std::uint32_t>(problem.bands));
    const margformer::Scaling scaling{real[0], real[1], 0, false};
    flags[6] != 0 ? run<true>(problem, scaling, out) : run<false>(problem, scaling, out);
}
