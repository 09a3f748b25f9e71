// Photometry-to-patch attention with its single query folded into the weights: kernels/cross_attention_folded.py
// says how. One object at a time, all of it in the first cache. Included once for each target, so without a guard.

namespace MF_TARGET {

// Weights as the products want them; shared by all threads.
template <typename T>
struct AttentionWeights {
    AttentionWeights(Arena& arena, const EncoderProblem<T>& problem, const AttentionTensors<const T*>& given,
                     bool fill)
        : tokens(static_cast<int>(problem.num_tokens)),
          dim(static_cast<int>(problem.dim)),
          heads(static_cast<int>(problem.num_heads)),
          slots(static_cast<int>(problem.num_slots)),
          D(padded<T>(dim)),
          K(padded<T>(slots)),
          T_(padded<T>(tokens)),
          norm(padded_norm(arena, given.norm_weight, given.norm_bias, dim, fill)),
          b_out(padded_copy(arena, given.b_out, dim, fill)),
          w_q(matrix(arena, given.w_q, dim, dim, fill)),
          w_k(matrix(arena, given.w_k, dim, dim, fill)),
          w_v(matrix(arena, given.w_v, dim, dim, fill)),
          w_out(matrix(arena, given.w_out, dim, dim, fill)),
          proj_k(matrix(arena, given.proj_k, tokens, slots, fill)),
          proj_v(matrix(arena, given.proj_v, tokens, slots, fill)),
          w_q_turned(turned(arena, given.w_q, dim, dim, fill)),
          w_out_turned(turned(arena, given.w_out, dim, dim, fill)),
          proj_k_turned(turned(arena, given.proj_k, tokens, slots, fill)),
          proj_v_turned(turned(arena, given.proj_v, tokens, slots, fill)) {}

    int tokens, dim, heads, slots;
    std::int64_t D, K, T_;  // padded
    Norm<T> norm;
    const T* b_out;
    // Rows are padded.
    const T *w_q, *w_k, *w_v, *w_out, *proj_k, *proj_v;
    const T *w_q_turned, *w_out_turned, *proj_k_turned, *proj_v_turned;

  private:
    static const T* matrix(Arena& arena, const T* from, int rows, int columns, bool fill) {
        const std::int64_t step = padded<T>(columns);
        T* copy = arena.take<T>(rows * step);
        for (std::int64_t i = 0; fill && i < rows; ++i) {
            for (std::int64_t j = 0; j < step; ++j) copy[i * step + j] = j < columns ? from[i * columns + j] : T(0);
        }
        return copy;
    }

    static const T* turned(Arena& arena, const T* from, int rows, int columns, bool fill) {
        const std::int64_t step = padded<T>(rows);
        T* copy = arena.take<T>(columns * step);
        for (std::int64_t j = 0; fill && j < columns; ++j) {
            for (std::int64_t i = 0; i < step; ++i) copy[j * step + i] = i < rows ? from[i * columns + j] : T(0);
        }
        return copy;
    }
};

// Objects one by one, on one thread. Tokens given and returned have padded<T>(dim) columns.
template <typename T>
class Attention {
    using Term = Plain<T>;
    static constexpr int lanes = kLanes<T>;

  public:
    Attention(Arena& arena, const EncoderProblem<T>& problem, const AttentionWeights<T>& weights, bool backward)
        : w_(&weights),
          seed_(problem.seed),
          dropped_(problem.dropped_levels),
          scale_(kept_scale(problem)),
          H_(w_->heads),
          E_(w_->dim / w_->heads),
          sides_(round_up((backward ? 2 : 1) * H_, lanes)),
          root_(T(1) / std::sqrt(static_cast<T>(E_))),
          hat_(arena.take<T>(w_->tokens * w_->D)),
          y_(arena.take<T>(w_->tokens * w_->D)),
          reciprocal_(arena.take<T>(w_->tokens)),
          q_(arena.take<T>(w_->D)),
          o_(arena.take<T>(w_->D)),
          s_(arena.take<T>(2 * H_ * w_->D)),
          s_turned_(arena.take<T>(w_->D * sides_)),
          t_(arena.take<T>(w_->tokens * sides_)),
          a_(arena.take<T>(H_ * w_->K)),
          dropped_a_(arena.take<T>(H_ * w_->K)),
          u_(arena.take<T>(2 * H_ * w_->T_)),
          z_(arena.take<T>(H_ * w_->D)),
          d_o_(arena.take<T>(backward ? w_->D : 0)),
          d_q_(arena.take<T>(backward ? w_->D : 0)),
          d_a_(arena.take<T>(backward ? H_ * w_->K : 0)),
          d_r_(arena.take<T>(backward ? H_ * w_->D : 0)),
          d_y_(arena.take<T>(backward ? w_->tokens * w_->D : 0)),
          levels_(arena.take<std::uint16_t>(seed_ ? levels_of(H_, w_->K / 8) : 0)),
          d_norm_weight(arena.take<T>(backward ? w_->D : 0)),
          d_norm_bias(arena.take<T>(backward ? w_->D : 0)),
          d_b_out(arena.take<T>(backward ? w_->D : 0)),
          d_w_q(arena.take<T>(backward ? w_->dim * w_->D : 0)),
          d_w_k(arena.take<T>(backward ? w_->dim * w_->D : 0)),
          d_w_v(arena.take<T>(backward ? w_->dim * w_->D : 0)),
          d_w_out(arena.take<T>(backward ? w_->dim * w_->D : 0)),
          d_proj_k(arena.take<T>(backward ? w_->tokens * w_->K : 0)),
          d_proj_v(arena.take<T>(backward ? w_->tokens * w_->K : 0)) {}

    // From here on with the weights of another layer of the same sizes.
    void use(const AttentionWeights<T>& weights) { w_ = &weights; }

    // The update of all tokens, padded.
    void forward(const T* x, std::int64_t object, T* update) {
        query(x);
        turn(H_);
        attend(object, 0);
        output();
        product<Term>({o_, 0, 1}, {w_->w_out_turned, w_->D}, update, w_->D, 1, w_->dim, columns(w_->D), false);
        for (std::int64_t d = 0; d < w_->D; d += lanes) store(update + d, load(update + d) + load(w_->b_out + d));
    }

    // That of the tokens, from that of the update; adds to those of the weights.
    void backward(const T* x, const T* grad, std::int64_t object, T* dx) {
        query(x);
        // From the update to z: first, for what y is multiplied with for the softmax and for its gradient are
        // then side by side.
        product<Term>({grad, 0, 1}, {w_->w_out, w_->D}, d_o_, w_->D, 1, w_->dim, columns(w_->D), false);
        T* d_z = s_ + H_ * w_->D;
        for (int h = 0; h < H_; ++h) {
            product<Term>({d_o_ + h * E_, 0, 1}, {w_->w_v + h * E_ * w_->D, w_->D}, d_z + h * w_->D, w_->D, 1, E_,
                          columns(w_->D), false);
        }
        turn(2 * H_);
        attend(object, H_);
        output();
        add_outer(d_w_out, grad, o_, w_->dim);
        for (std::int64_t d = 0; d < w_->D; d += lanes) store(d_b_out + d, load(d_b_out + d) + load(grad + d));
        for (int h = 0; h < H_; ++h) add_outer(d_w_v + h * E_ * w_->D, d_o_ + h * E_, z_ + h * w_->D, E_);
        // From z to the softmax: columns H and up of t are y d_z.
        const T* d_u = t_ + H_;
        product<Term>({d_u, 1, sides_}, {w_->proj_v, w_->K}, d_a_, w_->K, H_, w_->tokens, columns(w_->K), false);
        product<Term>({d_u, sides_, 1}, {dropped_a_, w_->K}, d_proj_v, w_->K, w_->tokens, H_, columns(w_->K), true);
        // From the softmax to r and q.
        soften_back();
        product<Term>({t_, sides_, 1}, {d_a_, w_->K}, d_proj_k, w_->K, w_->tokens, H_, columns(w_->K), true);
        T* d_t = u_;
        product<Term>({d_a_, w_->K, 1}, {w_->proj_k_turned, w_->T_}, d_t, w_->T_, H_, w_->slots, columns(w_->T_),
                      false);
        product<Term>({d_t, w_->T_, 1}, {y_, w_->D}, d_r_, w_->D, H_, w_->tokens, columns(w_->D), false);
        for (int h = 0; h < H_; ++h) {
            add_outer(d_w_k + h * E_ * w_->D, q_ + h * E_, d_r_ + h * w_->D, E_);
            for (int e = 0; e < E_; ++e) {
                const int i = h * E_ + e;
                d_q_[i] = root_ * dot(w_->w_k + i * w_->D, d_r_ + h * w_->D);
            }
        }
        add_outer(d_w_q, d_q_, y_, w_->dim);
        // Tokens are met in t with r, in z with u, and token 0 in q.
        product<Term>({u_, 1, w_->T_}, {s_, w_->D}, d_y_, w_->D, w_->tokens, 2 * H_, columns(w_->D), false);
        product<Term>({d_q_, 0, 1}, {w_->w_q, w_->D}, d_y_, w_->D, 1, w_->dim, columns(w_->D), true);
        for (int t = 0; t < w_->tokens; ++t) {
            normalise_back(d_y_ + t * w_->D, hat_ + t * w_->D, reciprocal_[t], w_->norm, dx + t * w_->D, d_norm_weight,
                           d_norm_bias);
        }
    }

  private:
    static int columns(std::int64_t count) { return static_cast<int>(count); }

    // y, q, and r as the first H rows of s.
    void query(const T* x) {
        for (int t = 0; t < w_->tokens; ++t) {
            reciprocal_[t] = normalise(x + t * w_->D, hat_ + t * w_->D, w_->norm);
            for (std::int64_t d = 0; d < w_->D; d += lanes) {
                store(y_ + t * w_->D + d,
                      load(hat_ + t * w_->D + d) * load(w_->norm.weight + d) + load(w_->norm.bias + d));
            }
        }
        product<Term>({y_, 0, 1}, {w_->w_q_turned, w_->D}, q_, w_->D, 1, w_->dim, columns(w_->D), false);
        for (std::int64_t d = 0; d < w_->D; d += lanes) store(q_ + d, load(q_ + d) * root_);
        for (int h = 0; h < H_; ++h) {
            product<Term>({q_ + h * E_, 0, 1}, {w_->w_k + h * E_ * w_->D, w_->D}, s_ + h * w_->D, w_->D, 1, E_,
                          columns(w_->D), false);
        }
    }

    // The first rows of s as columns, and y times them.
    void turn(int rows) {
        for (std::int64_t d = 0; d < w_->dim; ++d) {
            for (int row = 0; row < rows; ++row) s_turned_[d * sides_ + row] = s_[row * w_->D + d];
        }
        product<Term>({y_, w_->D, 1}, {s_turned_, sides_}, t_, sides_, w_->tokens, w_->dim, columns(sides_), false);
    }

    // From t, the first H columns of t_, to z; u lies from row `u_row` on.
    void attend(std::int64_t object, int u_row) {
        product<Term>({t_, 1, sides_}, {w_->proj_k, w_->K}, a_, w_->K, H_, w_->tokens, columns(w_->K), false);
        for (int h = 0; h < H_; ++h) soften(a_ + h * w_->K);
        const T* applied = a_;
        if (seed_) {
            draw_levels(*seed_, kOfAttentionWeights, object * H_, H_, w_->K / 8, levels_);
            for (std::int64_t k = 0; k < H_ * w_->K; k += lanes) {
                store(dropped_a_ + k, masked<T>(load(a_ + k) * scale_, kept<T>(levels_ + k, dropped_)));
            }
            applied = dropped_a_;
        } else {
            std::memcpy(dropped_a_, a_, static_cast<std::size_t>(H_ * w_->K) * sizeof(T));
        }
        T* u = u_ + u_row * w_->T_;
        product<Term>({applied, w_->K, 1}, {w_->proj_v_turned, w_->T_}, u, w_->T_, H_, w_->slots, columns(w_->T_),
                      false);
        product<Term>({u, w_->T_, 1}, {y_, w_->D}, z_, w_->D, H_, w_->tokens, columns(w_->D), false);
    }

    // The softmax of a row; what lies beyond the slots becomes 0.
    void soften(T* row) const {
        T largest = row[0];
        for (int k = 1; k < w_->slots; ++k) largest = row[k] > largest ? row[k] : largest;
        T total = 0;
        if constexpr (std::is_same_v<T, float>) {
            for (std::int64_t k = 0; k < w_->K; k += lanes) {
                store(row + k, exp_of_negative(load(row + k) - largest));
            }
        } else {
            for (int k = 0; k < w_->slots; ++k) row[k] = std::exp(row[k] - largest);
        }
        for (std::int64_t k = w_->slots; k < w_->K; ++k) row[k] = 0;
        Vec<T> sums{};
        for (std::int64_t k = 0; k < w_->K; k += lanes) sums += load(row + k);
        total = sum<T>(sums);
        for (std::int64_t k = 0; k < w_->K; k += lanes) store(row + k, load(row + k) / total);
    }

    // d_a from that of the weights after dropout to that of the logits.
    void soften_back() {
        for (int h = 0; h < H_; ++h) {
            Vec<T> along{};
            for (std::int64_t k = h * w_->K; k < (h + 1) * w_->K; k += lanes) {
                Vec<T> grad = load(d_a_ + k);
                if (seed_) grad = masked<T>(grad * scale_, kept<T>(levels_ + k, dropped_));
                store(d_a_ + k, grad);
                along += grad * load(a_ + k);
            }
            const T mean = sum<T>(along);
            for (std::int64_t k = h * w_->K; k < (h + 1) * w_->K; k += lanes) {
                store(d_a_ + k, load(a_ + k) * (load(d_a_ + k) - mean));
            }
        }
    }

    // o, by heads, from z.
    void output() {
        for (int h = 0; h < H_; ++h) {
            for (int e = 0; e < E_; ++e) o_[h * E_ + e] = dot(w_->w_v + (h * E_ + e) * w_->D, z_ + h * w_->D);
        }
    }

    T dot(const T* a, const T* b) const {
        Vec<T> sums{};
        for (std::int64_t d = 0; d < w_->D; d += lanes) sums += load(a + d) * load(b + d);
        return sum<T>(sums);
    }

    // Rows of a matrix += a column times a row.
    void add_outer(T* matrix, const T* column, const T* row, int rows) const {
        product<Term>({column, 1, 0}, {row, 0}, matrix, w_->D, rows, 1, columns(w_->D), true);
    }

    const AttentionWeights<T>* w_;
    std::optional<std::uint64_t> seed_;
    std::int32_t dropped_;
    T scale_;
    int H_, E_;
    std::int64_t sides_;
    T root_;
    T *hat_, *y_, *reciprocal_, *q_, *o_;
    T* s_;         // rows: r, and d_z
    T* s_turned_;
    T* t_;         // columns: t, and d_u
    T *a_, *dropped_a_;
    T* u_;         // rows: d_t, and u
    T* z_;
    T *d_o_, *d_q_, *d_a_, *d_r_, *d_y_;
    std::uint16_t* levels_;

  public:
    // Gradients of the weights, rows padded.
    T *d_norm_weight, *d_norm_bias, *d_b_out, *d_w_q, *d_w_k, *d_w_v, *d_w_out, *d_proj_k, *d_proj_v;
};

}  // namespace MF_TARGET
