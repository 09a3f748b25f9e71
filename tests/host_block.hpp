// The block of core/view_block.hpp with one thread: the lines that the CUDA kernel runs, run on the host.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "core/view_block.hpp"

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
void views_by_host_block(const margformer::BlockProblem& problem, const margformer::Scaling& scaling,
                         float* out) {
    std::vector<double> shared(margformer::shared_bytes(problem, kStaged) / sizeof(double) + 1);
    margformer::with_decoder(problem.layout, scaling, [&](const auto& decoder) {
        HostBlock block;
        margformer::BlockViews<kStaged, HostBlock, std::decay_t<decltype(decoder)>> views(
            block, problem, decoder, reinterpret_cast<unsigned char*>(shared.data()));
        for (std::int64_t n = 0; n < problem.num_rows; ++n) views.write(n, out);
    });
}
