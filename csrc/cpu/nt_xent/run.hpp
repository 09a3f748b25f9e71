// A batch: blocks of its rows dealt out to threads. Included once for each target, so without a guard.

namespace MF_TARGET {

template <typename Term>
class Run {
    using T = typename Term::Number;

  public:
    Run(Arena& arena, const NtXentProblem<T>& problem, bool backward, int threads)
        : problem_(problem),
          is_mutual_(problem.num_own == problem.num_rows),
          blocks_((problem.num_rows + kBlock - 1) / kBlock),
          first_block_(problem.first_row / kBlock),
          own_blocks_((problem.first_row + problem.num_own + kBlock - 1) / kBlock - first_block_),
          tournament_(own_blocks_, blocks_, is_mutual_),
          shared_(arena, problem) {
        // A thread that is started for less than this is slower than the work.
        constexpr double kLeastOperations = 4e6;
        const double operations =
            2.0 * static_cast<double>(problem.num_rows) * static_cast<double>(problem.num_own * problem.dim);
        const double worth = std::min(operations / kLeastOperations, static_cast<double>(tournament_.width()));
        threads_ = static_cast<int>(std::max(1.0, std::min(worth, static_cast<double>(threads))));
        for (int w = 0; w < threads_; ++w) workers_.emplace_back(arena, shared_, backward);
    }

    void log_sums(T* out) {
        prepare([&](std::int64_t row) {
            shared_.total[row] = 0;
            shared_.top[row] = shared_.is_bounded ? T(0) : T(kLowest);
        });
        play([&](const Worker<Term>& worker, Range rows, Range columns, bool is_mutual) {
            worker.add_sums(rows, columns, is_mutual);
        });
        for (std::int64_t r = 0; r < problem_.num_own; ++r) {
            const std::int64_t row = problem_.first_row + r;
            out[r] = static_cast<T>(std::log(static_cast<double>(shared_.total[row])) +
                                    static_cast<double>(shared_.top[row]) * 0.69314718055994530942);
        }
    }

    void gradients(const T* l, T* dz) {
        const std::int64_t step = round_up(problem_.dim, kGradientColumns);
        prepare([&](std::int64_t row) {
            const std::int64_t own = row - problem_.first_row;
            if (own >= 0 && own < problem_.num_own) std::fill_n(dz + own * step, step, T(0));
            shared_.top[row] = row < problem_.num_rows ? l[row] * T(1.44269504088896340736) : T(0);
            shared_.total[row] = std::exp2(-shared_.top[row]);
        });
        play([&](const Worker<Term>& worker, Range rows, Range columns, bool is_mutual) {
            worker.add_gradients(rows, columns, is_mutual, dz, step);
        });
    }

  private:
    // Make what all threads read. `start` is called with every row, and those up to the end of the last block.
    template <typename Start>
    void prepare(const Start& start) const {
        parallel_for(blocks_, threads_, 1, [&](std::int64_t begin, std::int64_t end) noexcept {
            for (std::int64_t row = begin * kBlock; row < end * kBlock; ++row) {
                shared_.number[row] = number_of(row);
                start(row);
                if (row % kPanel<T> == 0 && row < problem_.num_rows) {
                    shared_.transposed.fill(problem_.z, problem_.num_rows, problem_.dim, row);
                }
            }
        });
    }

    std::int32_t number_of(std::int64_t row) const {
        if (row >= problem_.num_rows) return -1;
        return problem_.group != nullptr ? problem_.group[row / 2] : static_cast<std::int32_t>(row / 2);
    }

    // Let all blocks meet that have to; add(worker, rows, columns, is_mutual) does it.
    template <typename Add>
    void play(const Add& add) {
        parallel_for(threads_, threads_, 1, [&](std::int64_t begin, std::int64_t) noexcept {
            const Worker<Term>& worker = workers_[static_cast<std::size_t>(begin)];
            tournament_.take_part([&](const Meeting& meeting) {
                const std::int64_t last = problem_.first_row + problem_.num_own;
                const std::int64_t row = (first_block_ + meeting.row) * kBlock;
                const std::int64_t column = meeting.column * kBlock;
                add(worker, Range{std::max(row, problem_.first_row), std::min(row + kBlock, last)},
                    Range{column, std::min(column + kBlock, problem_.num_rows)},
                    is_mutual_ && meeting.row != meeting.column);
            });
        });
    }

    const NtXentProblem<T>& problem_;
    bool is_mutual_;
    std::int64_t blocks_, first_block_, own_blocks_;
    Tournament tournament_;
    Shared<Term> shared_;
    std::deque<Worker<Term>> workers_;
    int threads_ = 1;
};

// Call use(run, arena) with a run that works in `workspace`, or, to count how much it takes, in none.
template <typename T, typename Use>
auto with_run(const NtXentProblem<T>& problem, bool backward, void* workspace, int threads, const Use& use) {
    Arena arena(workspace);
    if constexpr (std::is_same_v<T, float>) {
        if (problem.halves) {
            Run<Halved> run(arena, problem, backward, threads);
            return use(run, arena);
        }
    }
    Run<Plain<T>> run(arena, problem, backward, threads);
    return use(run, arena);
}

template <typename T>
std::size_t nt_xent_workspace(const NtXentProblem<T>& problem, bool backward, int threads) {
    return with_run(problem, backward, nullptr, threads, [](auto&, const Arena& arena) { return arena.taken(); });
}

template <typename T>
void log_sum_of_negatives(const NtXentProblem<T>& problem, T* out, void* workspace, int threads) {
    with_run(problem, false, workspace, threads, [&](auto& run, const Arena&) { run.log_sums(out); });
}

template <typename T>
void gradient_of_negatives(const NtXentProblem<T>& problem, const T* l, T* dz, void* workspace, int threads) {
    with_run(problem, true, workspace, threads, [&](auto& run, const Arena&) { run.gradients(l, dz); });
}

}  // namespace MF_TARGET
