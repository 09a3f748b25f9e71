// A C function around host_block.hpp, for ctypes.
#include "host_block.hpp"

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
    flags[6] != 0 ? views_by_host_block<true>(problem, scaling, out)
                  : views_by_host_block<false>(problem, scaling, out);
}
