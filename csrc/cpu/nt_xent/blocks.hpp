// What two blocks of rows owe each other. Included once for each target, so without a guard.

namespace MF_TARGET {

// Rows of a block: a tile of so many squared, and what it is made of, stay in the second cache. Whole panels of
// every type, and even, so that no pair is cut.
constexpr std::int64_t kBlock = 128;

struct Range {
    std::int64_t begin, end;
    std::int64_t size() const { return end - begin; }
};

// An exponent below any there is, and no infinity: its difference to itself is 0.
constexpr float kLowest = -1e30f;

// What all threads read, and what they write at the places of the blocks they hold.
template <typename Term>
struct Shared {
    using T = typename Term::Number;
    static_assert(kBlock % kPanel<T> == 0 && kGradientColumns % kPanel<T> == 0);

    Shared(Arena& arena, const NtXentProblem<T>& given)
        : problem(given),
          scale(static_cast<T>(1.44269504088896340736 / given.temperature)),
          is_bounded(1 / given.temperature <= kLargestBoundedLogit),
          transposed(arena, given.num_rows, given.dim),
          number(arena.take<std::int32_t>(round_up(given.num_rows, kBlock))),
          top(arena.take<T>(round_up(given.num_rows, kBlock))),
          total(arena.take<T>(round_up(given.num_rows, kBlock))) {}

    // Unit vectors bound |s| by 1 / temperature. Up to here exp(s), its sum over any batch and its reciprocal stay
    // far inside the range of float32, so no maximum is subtracted.
    static constexpr double kLargestBoundedLogit = 60;

    const NtXentProblem<T>& problem;
    T scale;  // of a product, to the logarithm to base 2
    bool is_bounded;
    TransposedRows<Term> transposed;
    // Rows of equal numbers are not negatives of each other. -1 beyond the last row, up to the end of its block.
    std::int32_t* number;
    // Forward, a row's sum is total * 2^top. Backward, `top` is the logarithm of it and `total` its reciprocal.
    T *top, *total;
};

// What a thread works with.
template <typename Term>
class Worker {
    using T = typename Term::Number;
    using V = Vec<T>;
    static constexpr int lanes = kLanes<T>;
    static constexpr int P = static_cast<int>(kPanel<T>);

  public:
    Worker(Arena& arena, const Shared<Term>& shared, bool backward)
        : s_(shared),
          tile_(arena.take<T>(P * P)),
          row_top_(arena.take<T>(backward ? 0 : kBlock * lanes)),
          row_total_(arena.take<T>(backward ? 0 : kBlock * lanes)),
          weights_(arena, backward ? kBlock : 0, kBlock),
          panel_(arena, backward ? kBlock : 0) {}

    // Add to the sums of the rows, and of the columns if that is mutual.
    void add_sums(Range rows, Range columns, bool is_mutual) const {
        for (std::int64_t r = 0; r < rows.size() * lanes; r += lanes) {
            store(row_top_ + r, V{} + kLowest);
            store(row_total_ + r, V{});
        }
        each_tile(rows, columns, [&](std::int64_t i, int count, std::int64_t j) {
            T* row_top = row_top_ + (i - rows.begin) * lanes;
            T* row_total = row_total_ + (i - rows.begin) * lanes;
            V top[2], total[2];
            for (int v = 0; v < 2; ++v) {
                // Rows that are only looked at may belong to another thread.
                top[v] = is_mutual ? load(s_.top + j + v * lanes) : V{} + kLowest;
                total[v] = is_mutual ? load(s_.total + j + v * lanes) : V{};
            }
            if (s_.is_bounded) {
                add_tile(count, total, row_total);
            } else {
                add_tile_below_top(count, top, total, row_top, row_total);
            }
            for (int v = 0; is_mutual && v < 2; ++v) {
                store(s_.top + j + v * lanes, top[v]);
                store(s_.total + j + v * lanes, total[v]);
            }
        });
        for (std::int64_t r = 0; r < rows.size(); ++r) merge_row(r, s_.top[rows.begin + r], s_.total[rows.begin + r]);
    }

    // Add to the gradients of the rows, and of the columns if that is mutual. dz begins with the rows asked for.
    void add_gradients(Range rows, Range columns, bool is_mutual, T* dz, std::int64_t step) const {
        each_tile(rows, columns, [&](std::int64_t i, int count, std::int64_t j) {
            if (s_.is_bounded) {
                weigh<true>(rows, columns, i, count, j);
            } else {
                weigh<false>(rows, columns, i, count, j);
            }
        });
        const T* z = s_.problem.z;
        const std::int64_t dim = s_.problem.dim;
        for (std::int64_t d = 0; d < dim; d += P) {
            panel_.fill(z + columns.begin * dim, dim, columns.size(), d);
            product_panel<Term>(weights_.across(), panel_.get(), dz + (rows.begin - s_.problem.first_row) * step + d,
                                step, static_cast<int>(rows.size()), static_cast<int>(columns.size()) / Term::kTerms,
                                true);
            if (!is_mutual) continue;
            panel_.fill(z + rows.begin * dim, dim, rows.size(), d);
            product_panel<Term>(weights_.down_left(), panel_.get(), dz + columns.begin * step + d, step,
                                static_cast<int>(columns.size()), static_cast<int>(rows.size()) / Term::kTerms, true);
        }
    }

  private:
    // Compute the similarities of two blocks tile by tile: at most P rows, P columns.
    template <typename Use>
    MF_ALWAYS_INLINE void each_tile(Range rows, Range columns, const Use& use) const {
        // The diagonal, where rows meet themselves and their partners, and the end, where there are no columns.
        const bool excludes = s_.problem.group != nullptr || rows.begin / kBlock == columns.begin / kBlock ||
                              columns.size() % P != 0;
        for (std::int64_t j = columns.begin; j < columns.end; j += P) {
            for (std::int64_t i = rows.begin, next = i; i < rows.end; i = next) {
                next = std::min(rows.end, round_up(i + 1, P));
                const auto count = static_cast<int>(next - i);
                product_panel<Term>(s_.transposed.rows(i), s_.transposed.columns(j), tile_, P, count,
                                    s_.transposed.num_terms(), false);
                if (excludes) exclude(i, count, j);
                use(i, count, j);
            }
        }
    }

    // Where rows and columns are not negatives: -inf, so that the exponential is 0.
    void exclude(std::int64_t i, int count, std::int64_t j) const {
        typedef std::int32_t Numbers __attribute__((vector_size(4 * lanes)));
        for (int v = 0; v < P; v += lanes) {
            Numbers column;
            std::memcpy(&column, s_.number + j + v, sizeof(column));
            for (int r = 0; r < count; ++r) {
                const auto is_out =
                    __builtin_convertvector((column == s_.number[i + r]) | (column < 0), Vec<BitsOf<T>>);
                T* at = tile_ + r * P + v;
                store(at, is_out ? V{} - std::numeric_limits<T>::infinity() : load(at));
            }
        }
    }

    // Add the exponentials of a tile to the sums of its columns, and, lane by lane, of its rows.
    void add_tile(int count, V (&total)[2], T* row_total) const {
        for (int r = 0; r < count; ++r) {
            const V left = power_of_two(load(tile_ + r * P) * s_.scale);
            const V right = power_of_two(load(tile_ + r * P + lanes) * s_.scale);
            total[0] += left;
            total[1] += right;
            store(row_total + r * lanes, load(row_total + r * lanes) + (left + right));
        }
    }

    // Likewise, of sums that are kept relative to the largest exponent seen.
    void add_tile_below_top(int count, V (&top)[2], V (&total)[2], T* row_top, T* row_total) const {
        for (int v = 0; v < 2; ++v) {
            V highest = top[v];
            for (int r = 0; r < count; ++r) highest = max<T>(highest, load(tile_ + r * P + v * lanes) * s_.scale);
            total[v] = lowered(total[v], top[v], highest);
            top[v] = highest;
        }
        for (int r = 0; r < count; ++r) {
            const V left = load(tile_ + r * P) * s_.scale;
            const V right = load(tile_ + r * P + lanes) * s_.scale;
            total[0] += power_of_two(left - top[0]);
            total[1] += power_of_two(right - top[1]);
            const V before = load(row_top + r * lanes);
            const V highest = max<T>(before, max<T>(left, right));
            store(row_top + r * lanes, highest);
            store(row_total + r * lanes, lowered(load(row_total + r * lanes), before, highest) +
                                             (power_of_two(left - highest) + power_of_two(right - highest)));
        }
    }

    // A sum relative to a higher exponent. Where that stays, so does the sum: power_of_two(0) is not quite 1.
    static MF_ALWAYS_INLINE V lowered(const V& total, const V& from, const V& to) {
        return from == to ? total : total * power_of_two(from - to);
    }

    // Add the lanes of row r to its sum.
    void merge_row(std::int64_t r, T& top, T& total) const {
        const V row_total = load(row_total_ + r * lanes);
        if (s_.is_bounded) {
            total += sum<T>(row_total);
            return;
        }
        const V row_top = load(row_top_ + r * lanes);
        T highest = top;
        for (int lane = 0; lane < lanes; ++lane) highest = std::max(highest, T(row_top[lane]));
        total = total * std::exp2(top - highest) + sum<T>(row_total * power_of_two(row_top - highest));
        top = highest;
    }

    // Turn a tile of similarities into what the gradients are weighted with.
    template <bool kBounded>
    void weigh(Range rows, Range columns, std::int64_t i, int count, std::int64_t j) const {
        const T* of = kBounded ? s_.total : s_.top;
        for (int r = 0; r < count; r += 2) {
            for (int v = 0; v < P; v += lanes) {
                V weight[2];
                for (int t = 0; t < 2; ++t) {
                    const V logit = load(tile_ + (r + t) * P + v) * s_.scale;
                    if constexpr (kBounded) {
                        weight[t] = power_of_two(logit) * (of[i + r + t] + load(of + j + v));
                    } else {
                        weight[t] = power_of_two(logit - of[i + r + t]) + power_of_two(logit - load(of + j + v));
                    }
                }
                weights_.put((i - rows.begin + r) / 2, j - columns.begin + v, weight[0], weight[1]);
            }
        }
    }

    const Shared<Term>& s_;
    T *tile_, *row_top_, *row_total_;
    Factors<Term> weights_;
    ColumnPanel<Term> panel_;
};

}  // namespace MF_TARGET
