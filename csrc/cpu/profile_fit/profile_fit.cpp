// Profile fits compiled for several kinds of processors. As in the encoder, sums of products are fused, and results
// differ by rounding between targets.
#include "cpu/profile_fit/profile_fit.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/platform.hpp"
#include "cpu/parallel.hpp"
#include "cpu/vector/targets.hpp"

namespace margformer::cpu {
namespace {

#define MF_BODY "cpu/profile_fit/body.hpp"
#include "cpu/vector/for_each_target.hpp"

template <typename T>
void fit_for(const std::string& target, const ProfileFitProblem<T>& problem, const ProfileFitSettings& settings,
             const ProfileFitResult& result, int threads) {
    MF_CALL_TARGET(target, fit_profiles(problem, settings, result, threads));
    throw std::invalid_argument("this processor is of no such kind");
}

}  // namespace

template <typename T>
void fit_profiles(const ProfileFitProblem<T>& problem, const ProfileFitSettings& settings,
                  const ProfileFitResult& result, int threads, const std::string& target) {
    fit_for(usable_target(target), problem, settings, result, threads);
}

template void fit_profiles(const ProfileFitProblem<float>&, const ProfileFitSettings&, const ProfileFitResult&, int,
                           const std::string&);
template void fit_profiles(const ProfileFitProblem<double>&, const ProfileFitSettings&, const ProfileFitResult&, int,
                           const std::string&);

}  // namespace margformer::cpu
