// A loop over [0, count) cut into one piece a thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>

namespace margformer::cpu {

// Call body(begin, end) so that every index is covered once, on at most `threads` threads with at least
// `grain` indices each. Threads live for one call: starting one costs some 20 microseconds, and a pool would
// not survive the fork() of a data loader.
template <typename Body>
void parallel_for(std::int64_t count, int threads, std::int64_t grain, const Body& body) {
    static_assert(std::is_nothrow_invocable_v<const Body&, std::int64_t, std::int64_t>,
                  "an exception could not leave its thread: check first, then loop");
    const std::int64_t pieces =
        std::max<std::int64_t>(1, std::min<std::int64_t>(threads, count / std::max<std::int64_t>(1, grain)));
    const std::int64_t length = count / pieces;
    const std::int64_t longer = count % pieces;  // the first pieces take one index more
    const auto begin_of = [=](std::int64_t piece) { return piece * length + std::min(piece, longer); };

    std::vector<std::thread> workers;
    workers.reserve(static_cast<std::size_t>(pieces));
    std::int64_t piece = 1;
    try {
        for (; piece < pieces; ++piece) {
            workers.emplace_back([&body, b = begin_of(piece), e = begin_of(piece + 1)] { body(b, e); });
        }
    } catch (const std::system_error&) {
        // No more threads are to be had: this one does the rest.
    }
    body(begin_of(0), begin_of(1));
    if (piece < pieces) body(begin_of(piece), count);
    for (std::thread& worker : workers) worker.join();
}

}  // namespace margformer::cpu
