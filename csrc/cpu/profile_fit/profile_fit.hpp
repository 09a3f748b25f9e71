// Elliptical galaxy profiles fitted to images in several bands. margformer_fast/reference/profile_fit.py says what is
// computed, and this takes the same steps: where both work in float64, they agree to rounding.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace margformer::cpu {

// One profile: Gaussians of unit effective radius.
struct ProfileTable {
    std::vector<double> variance;
    std::vector<double> light;
};

struct ProfileFitSettings {
    ProfileTable spheroid, disc;
    std::vector<double> starts;
    double fit_radius = 0;
    double large = 0;
    double min_radius = 0;
    double max_radius = 0;
    double max_ellipticity = 0;
    double model_error = 0;
    double max_change = 0;
    double tolerance = 0;
    double first_damping = 0;
    double max_damping = 0;
    std::int64_t max_steps = 0;
};

template <typename T>
struct ProfileFitProblem {
    const T* images = nullptr;           // (count, bands, size, size), dense
    const double* centre = nullptr;      // (count, bands, 2): row, column
    const double* covariance = nullptr;  // (count, bands, gaussians, 3): xx, xy, yy with the pixel's
    const double* share = nullptr;       // (count, bands, gaussians)
    const double* noise = nullptr;       // (count, bands)
    const double* gain = nullptr;        // (count, bands)
    std::int64_t count = 0;
    std::int64_t bands = 0;
    std::int64_t size = 0;
    std::int64_t gaussians = 0;
    std::int64_t reference = 0;
};

struct ProfileFitResult {
    double* flux = nullptr;         // (count, bands)
    double* shape = nullptr;        // (count, bands + 1, 3)
    double* chi2 = nullptr;         // (count, bands + 1)
    double* amplitude = nullptr;    // (count, bands + 1)
    std::int64_t* steps = nullptr;  // (count, bands + 1)
};

// An empty `target` chooses the best (vector/targets.hpp). The result is the same for all `threads`.
template <typename T>
void fit_profiles(const ProfileFitProblem<T>& problem, const ProfileFitSettings& settings,
                  const ProfileFitResult& result, int threads, const std::string& target);

}  // namespace margformer::cpu
