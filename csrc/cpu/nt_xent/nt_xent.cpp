// NT-Xent compiled for several kinds of processors.
//
// As in the encoder, sums of products are fused, and results differ by rounding between targets.
#include "cpu/nt_xent/nt_xent.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <stdexcept>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/bits.hpp"
#include "core/platform.hpp"
#include "cpu/nt_xent/tournament.hpp"
#include "cpu/parallel.hpp"
#include "cpu/vector/targets.hpp"

namespace margformer::cpu {
namespace {

#define MF_BODY "cpu/nt_xent/body.hpp"
#include "cpu/vector/for_each_target.hpp"

template <typename T>
std::size_t workspace_for(const std::string& target, const NtXentProblem<T>& problem, bool backward, int threads) {
    MF_CALL_TARGET(target, nt_xent_workspace(problem, backward, threads));
    throw std::invalid_argument("this processor is of no such kind");
}

template <typename T>
void log_sum_for(const std::string& target, const NtXentProblem<T>& problem, T* out, void* workspace, int threads) {
    MF_CALL_TARGET(target, log_sum_of_negatives(problem, out, workspace, threads));
    throw std::invalid_argument("this processor is of no such kind");
}

template <typename T>
void gradient_for(const std::string& target, const NtXentProblem<T>& problem, const T* l, T* dz, void* workspace,
                  int threads) {
    MF_CALL_TARGET(target, gradient_of_negatives(problem, l, dz, workspace, threads));
    throw std::invalid_argument("this processor is of no such kind");
}

}  // namespace

template <typename T>
std::size_t nt_xent_workspace(const NtXentProblem<T>& problem, bool backward, int threads, const std::string& target) {
    return workspace_for(usable_target(target), problem, backward, threads);
}

template <typename T>
void log_sum_of_negatives(const NtXentProblem<T>& problem, T* out, void* workspace, int threads,
                          const std::string& target) {
    log_sum_for(usable_target(target), problem, out, workspace, threads);
}

template <typename T>
void gradient_of_negatives(const NtXentProblem<T>& problem, const T* l, T* dz, void* workspace, int threads,
                           const std::string& target) {
    gradient_for(usable_target(target), problem, l, dz, workspace, threads);
}

template std::size_t nt_xent_workspace(const NtXentProblem<float>&, bool, int, const std::string&);
template std::size_t nt_xent_workspace(const NtXentProblem<double>&, bool, int, const std::string&);
template void log_sum_of_negatives(const NtXentProblem<float>&, float*, void*, int, const std::string&);
template void log_sum_of_negatives(const NtXentProblem<double>&, double*, void*, int, const std::string&);
template void gradient_of_negatives(const NtXentProblem<float>&, const float*, float*, void*, int, const std::string&);
template void gradient_of_negatives(const NtXentProblem<double>&, const double*, double*, void*, int,
                                    const std::string&);

}  // namespace margformer::cpu
