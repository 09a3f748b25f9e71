// The feed-forward half: LayerNorm, linear, GELU, dropout, linear. Included once for each target, so without a
// guard.

namespace MF_TARGET {

// Columns of weights and units of masks are padded to this.
template <typename T>
MF_ALWAYS_INLINE std::int64_t padded(std::int64_t count) {
    return round_up(count, kPanel<T> > 8 ? kPanel<T> : 8);
}

// A copy of a vector, padded with zeros.
template <typename T>
const T* padded_copy(Arena& arena, const T* from, std::int64_t count, bool fill) {
    T* copy = arena.take<T>(padded<T>(count));
    if (fill) {
        for (std::int64_t i = 0; i < padded<T>(count); ++i) copy[i] = i < count ? from[i] : T(0);
    }
    return copy;
}

template <typename T>
Norm<T> padded_norm(Arena& arena, const T* weight, const T* bias, std::int64_t dim, bool fill) {
    Norm<T> norm;
    norm.weight = padded_copy(arena, weight, dim, fill);
    norm.bias = padded_copy(arena, bias, dim, fill);
    T* inside = arena.take<T>(padded<T>(dim));
    if (fill) {
        for (std::int64_t d = 0; d < padded<T>(dim); ++d) inside[d] = d < dim ? T(1) : T(0);
    }
    norm.inside = inside;
    norm.share = T(1) / static_cast<T>(dim);
    norm.padded = static_cast<int>(padded<T>(dim));
    return norm;
}

// What kept elements are multiplied by.
template <typename T>
T kept_scale(const EncoderProblem<T>& problem) {
    if (!problem.seed) return T(1);
    return problem.dropped_levels < 65536 ? T(65536) / static_cast<T>(65536 - problem.dropped_levels) : T(0);
}

// Weights as the products want them; shared by all threads.
template <typename Term>
struct FeedForwardWeights {
    using T = typename Term::Number;

    FeedForwardWeights(Arena& arena, const EncoderProblem<T>& problem, const FeedForwardTensors<const T*>& given,
                       bool backward, bool fill)
        : dim(problem.dim),
          hidden(problem.num_hidden),
          norm(padded_norm(arena, given.norm_weight, given.norm_bias, dim, fill)),
          b1(padded_copy(arena, given.b1, hidden, fill)),
          b2(padded_copy(arena, given.b2, dim, fill)),
          up(arena, padded<T>(dim), padded<T>(hidden)),
          down(arena, padded<T>(hidden), padded<T>(dim)),
          back_down(arena, padded<T>(dim), backward ? padded<T>(hidden) : 0),
          back_up(arena, padded<T>(hidden), backward ? padded<T>(dim) : 0) {
        if (!fill) return;
        const T* w1 = given.w1;
        const T* w2 = given.w2;
        // Scaling weights is cheaper than scaling what they are multiplied with.
        const T scale = kept_scale(problem);
        up.fill(dim, hidden, [&](std::int64_t d, std::int64_t m) { return w1[m * dim + d]; });
        if (!backward) {
            down.fill(hidden, dim, [&](std::int64_t m, std::int64_t d) { return scale * w2[d * hidden + m]; });
            return;
        }
        back_down.fill(dim, hidden, [&](std::int64_t d, std::int64_t m) { return scale * w2[d * hidden + m]; });
        back_up.fill(hidden, dim, [&](std::int64_t m, std::int64_t d) { return w1[m * dim + d]; });
    }

    std::int64_t dim, hidden;
    Norm<T> norm;
    const T* b1;
    const T* b2;
    PackedWeights<Term> up, down, back_down, back_up;
};

// Rows of one chunk at a time, on one thread. Rows given and returned have padded<T>(dim) columns.
template <typename Term>
class FeedForward {
    using T = typename Term::Number;
    static constexpr int lanes = kLanes<T>;

  public:
    FeedForward(Arena& arena, const EncoderProblem<T>& problem, const FeedForwardWeights<Term>& weights,
                std::int64_t most_rows, bool backward)
        : w_(&weights),
          seed_(problem.seed),
          dropped_(problem.dropped_levels),
          D_(padded<T>(w_->dim)),
          M_(padded<T>(w_->hidden)),
          step_(M_ + lanes),
          hat_(arena.take<T>((most_rows + 1) * D_)),
          reciprocal_(arena.take<T>(most_rows)),
          pre_(arena.take<T>((most_rows + 1) * step_)),
          y_(arena, most_rows, D_),
          hidden_(arena, most_rows, M_),
          grad_(arena, backward ? most_rows : 0, D_),
          d_pre_(arena, backward ? most_rows : 0, M_),
          d_hidden_(arena.take<T>(backward ? (most_rows + 1) * step_ : 0)),
          dy_(arena.take<T>(backward ? most_rows * D_ : 0)),
          levels_(arena.take<std::uint16_t>(seed_ ? levels_of(most_rows, M_ / 8) : 0)),
          d_norm_weight(arena.take<T>(backward ? D_ : 0)),
          d_norm_bias(arena.take<T>(backward ? D_ : 0)),
          d_b1(arena.take<T>(backward ? M_ : 0)),
          d_b2(arena.take<T>(backward ? D_ : 0)),
          d_w1(arena.take<T>(backward ? w_->dim * step_ : 0)),
          d_w2(arena.take<T>(backward ? w_->dim * step_ : 0)) {}

    // From here on with the weights of another layer of the same sizes.
    void use(const FeedForwardWeights<Term>& weights) { w_ = &weights; }

    // The update of rows `first_row` and up of all rows.
    void forward(const T* x, std::int64_t first_row, int rows, T* out) {
        up(x, first_row, rows);
        if (seed_) {
            activate<true>(rows);
        } else {
            activate<false>(rows);
        }
        for (std::int64_t p = 0; p < w_->down.num_panels(); ++p) {
            product_panel<Term>(hidden_.across(), w_->down.panel(p), out + p * kPanel<T>, D_, rows,
                                w_->down.num_terms(), false);
        }
        for (int r = 0; r < rows; ++r) {
            for (std::int64_t d = 0; d < D_; d += lanes) {
                store(out + r * D_ + d, load(out + r * D_ + d) + load(w_->b2 + d));
            }
        }
    }

    // That of the rows, from that of their update; adds to those of the weights.
    void backward(const T* x, const T* grad, std::int64_t first_row, int rows, T* dx) {
        up(x, first_row, rows);
        for (int r = 0; r < rows; r += 2) {
            for (std::int64_t d = 0; d < D_; d += lanes) {
                const Vec<T> upper = load(grad + r * D_ + d);
                const Vec<T> lower = r + 1 < rows ? load(grad + (r + 1) * D_ + d) : Vec<T>{};
                grad_.put(r / 2, d, upper, lower);
                store(d_b2 + d, load(d_b2 + d) + upper + lower);
            }
        }
        for (std::int64_t p = 0; p < w_->back_down.num_panels(); ++p) {
            product_panel<Term>(grad_.across(), w_->back_down.panel(p), d_hidden_ + p * kPanel<T>, step_, rows,
                                w_->back_down.num_terms(), false);
        }
        if (seed_) {
            activate_back<true>(rows);
        } else {
            activate_back<false>(rows);
        }
        const int terms = (rows + Term::kTerms - 1) / Term::kTerms;
        const auto dim = static_cast<int>(w_->dim);
        for (std::int64_t m = 0; m < M_; m += kPanel<T>) {
            product_panel<Term>(y_.down_left(), from(d_pre_.down_right(), m), d_w1 + m, step_, dim, terms, true);
            product_panel<Term>(grad_.down_left(), from(hidden_.down_right(), m), d_w2 + m, step_, dim, terms, true);
        }
        for (std::int64_t p = 0; p < w_->back_up.num_panels(); ++p) {
            product_panel<Term>(d_pre_.across(), w_->back_up.panel(p), dy_ + p * kPanel<T>, D_, rows,
                                w_->back_up.num_terms(), false);
        }
        for (int r = 0; r < rows; ++r) {
            normalise_back(dy_ + r * D_, hat_ + r * D_, reciprocal_[r], w_->norm, dx + r * D_, d_norm_weight,
                           d_norm_bias);
        }
    }

  private:
    template <typename Factor>
    static Right<Factor> from(Right<Factor> factor, std::int64_t column) {
        return {factor.at + column, factor.term};
    }

    // Normalised rows, units before GELU and their bias, and dropout's random bits.
    void up(const T* x, std::int64_t first_row, int rows) {
        for (int r = 0; r < rows; ++r) reciprocal_[r] = normalise(x + r * D_, hat_ + r * D_, w_->norm);
        for (int r = 0; r < rows; r += 2) {
            for (std::int64_t d = 0; d < D_; d += lanes) {
                Vec<T> y[2]{};
                for (int i = 0; i < 2 && r + i < rows; ++i) {
                    y[i] = load(hat_ + (r + i) * D_ + d) * load(w_->norm.weight + d) + load(w_->norm.bias + d);
                }
                y_.put(r / 2, d, y[0], y[1]);
            }
        }
        for (std::int64_t p = 0; p < w_->up.num_panels(); ++p) {
            product_panel<Term>(y_.across(), w_->up.panel(p), pre_ + p * kPanel<T>, step_, rows, w_->up.num_terms(),
                                false);
        }
        if (seed_) draw_levels(*seed_, kOfHiddenUnits, first_row, rows, M_ / 8, levels_);
    }

    // GELU and dropout.
    template <bool kDrops>
    void activate(int rows) {
        for (int r = 0; r < rows; r += 2) {
            const bool has_lower = r + 1 < rows;
            for (std::int64_t m = 0; m < M_; m += lanes) {
                const Vec<T> upper = hidden_at<kDrops>(r, m);
                hidden_.put(r / 2, m, upper, has_lower ? hidden_at<kDrops>(r + 1, m) : Vec<T>{});
            }
        }
    }

    template <bool kDrops>
    MF_ALWAYS_INLINE Vec<T> hidden_at(int r, std::int64_t m) const {
        const Vec<T> pre = load(pre_ + r * step_ + m) + load(w_->b1 + m);
        Vec<T> phi, density;
        normal_distribution(pre, phi, density);
        return dropped<kDrops>(pre * phi, r, m);
    }

    // The same, and the gradient from behind dropout to before GELU.
    template <bool kDrops>
    void activate_back(int rows) {
        for (int r = 0; r < rows; r += 2) {
            const bool has_lower = r + 1 < rows;
            for (std::int64_t m = 0; m < M_; m += lanes) {
                Vec<T> hidden[2]{};
                Vec<T> d_pre[2]{};
                differentiate_at<kDrops>(r, m, hidden[0], d_pre[0]);
                if (has_lower) differentiate_at<kDrops>(r + 1, m, hidden[1], d_pre[1]);
                hidden_.put(r / 2, m, hidden[0], hidden[1]);
                d_pre_.put(r / 2, m, d_pre[0], d_pre[1]);
                store(d_b1 + m, load(d_b1 + m) + (d_pre[0] + d_pre[1]));
            }
        }
    }

    template <bool kDrops>
    MF_ALWAYS_INLINE void differentiate_at(int r, std::int64_t m, Vec<T>& hidden, Vec<T>& d_pre) const {
        const Vec<T> pre = load(pre_ + r * step_ + m) + load(w_->b1 + m);
        Vec<T> phi, density;
        normal_distribution(pre, phi, density);
        hidden = dropped<kDrops>(pre * phi, r, m);
        d_pre = dropped<kDrops>(load(d_hidden_ + r * step_ + m) * (phi + pre * density), r, m);
    }

    template <bool kDrops>
    MF_ALWAYS_INLINE Vec<T> dropped(const Vec<T>& numbers, int row, std::int64_t m) const {
        if constexpr (kDrops) {
            return masked<T>(numbers, kept<T>(levels_ + row * M_ + m, dropped_));
        } else {
            return numbers;
        }
    }

    const FeedForwardWeights<Term>* w_;
    std::optional<std::uint64_t> seed_;
    std::int32_t dropped_;
    std::int64_t D_, M_, step_;
    T* hat_;
    T* reciprocal_;
    T* pre_;
    Factors<Term> y_, hidden_, grad_, d_pre_;
    T* d_hidden_;
    T* dy_;
    std::uint16_t* levels_;

  public:
    // Gradients of the weights; those of w1 and w2 as (dim, step()), and w2's before dropout's scale.
    T *d_norm_weight, *d_norm_bias, *d_b1, *d_b2, *d_w1, *d_w2;
    std::int64_t step() const { return step_; }
};

}  // namespace MF_TARGET
