// The parts of NT-Xent that are quadratic in the batch, on the host: each row's sum over its negatives, and the
// gradient of these sums. margformer_fast/ops/nt_xent.py has the rest, and the formulas.
//
// The matrix s_ij = z_i . z_j / temperature is computed in tiles and never kept. It is symmetric: with all rows
// asked for, a tile serves its rows and its columns, for M^2 D operations forward and 3 M^2 D backward.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace margformer::cpu {

// Rows of a gradient have a multiple of so many columns.
constexpr std::int64_t kGradientColumns = 32;

template <typename T>
struct NtXentProblem {
    const T* z = nullptr;  // (num_rows, dim), dense: unit rows, of which 2i and 2i + 1 are a pair
    // One number a pair, at least 0: rows of equal numbers are not negatives of each other. Null: a number each.
    const std::int32_t* group = nullptr;
    std::int64_t num_rows = 0;
    std::int64_t dim = 0;
    // The rows that are asked for; both are even.
    std::int64_t first_row = 0;
    std::int64_t num_own = 0;
    double temperature = 1;
    bool halves = false;  // factors of all products as bfloat16
};

// Bytes, from an address that is a multiple of 64, that either function below needs to work in. An empty `target` chooses the best (vector/targets.hpp).
template <typename T>
std::size_t nt_xent_workspace(const NtXentProblem<T>& problem, bool backward, int threads, const std::string& target);

// out_i = log(sum of exp(s_ij) over the negatives j of row i), -inf where there is none. (num_own,)
template <typename T>
void log_sum_of_negatives(const NtXentProblem<T>& problem, T* out, void* workspace, int threads,
                          const std::string& target);

// dz_i = sum over the negatives j of row i of (exp(s_ij - l_i) + exp(s_ij - l_j)) z_j. l is (num_rows,), dz is
// (num_own, dim), its rows padded to a multiple of kGradientColumns. The result is the same for all `threads`.
template <typename T>
void gradient_of_negatives(const NtXentProblem<T>& problem, const T* l, T* dz, void* workspace, int threads,
                           const std::string& target);

}  // namespace margformer::cpu
