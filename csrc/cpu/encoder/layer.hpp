// A layer over a batch: chunks of objects dealt out to threads. Included once for each target, so without a guard.

namespace MF_TARGET {

// Rows of a chunk: hidden units of so many, and the weights, share the second cache.
constexpr std::int64_t kChunkRows = 64;

// Memory of one size, aligned to a line of the cache; zeros at first.
class Block {
  public:
    explicit Block(std::size_t size) : bytes_(size + 64) {}
    void* at() { return reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(bytes_.data()) + 63) / 64 * 64); }

  private:
    std::vector<unsigned char> bytes_;
};

// The halves of a layer there are.
template <typename Term>
struct LayerWeights {
    using T = typename Term::Number;

    LayerWeights(Arena& arena, const EncoderProblem<T>& problem, const LayerTensors<T>& given, bool backward,
                 bool fill) {
        if (given.attention) attention.emplace(arena, problem, *given.attention, fill);
        if (given.feed_forward) feed_forward.emplace(arena, problem, *given.feed_forward, backward, fill);
    }

    std::optional<AttentionWeights<T>> attention;
    std::optional<FeedForwardWeights<Term>> feed_forward;
};

// What a thread works with.
template <typename Term>
struct Worker {
    using T = typename Term::Number;

    Worker(Arena& arena, const EncoderProblem<T>& problem, const LayerWeights<Term>& weights,
           std::int64_t chunk_rows, bool backward)
        : D(padded<T>(problem.dim)),
          x(arena.take<T>(chunk_rows * D)),
          out(arena.take<T>(chunk_rows * D)),
          grad(arena.take<T>(backward ? chunk_rows * D : 0)),
          update(arena.take<T>(D)) {
        if (weights.attention) attention.emplace(arena, problem, *weights.attention, backward);
        if (weights.feed_forward) feed_forward.emplace(arena, problem, *weights.feed_forward, chunk_rows, backward);
    }

    // Rows of `dim` numbers to rows of D, and back. The padding is zeroed each time: where an object before was no
    // number, neither is what it left there.
    static void spread(const T* from, T* to, std::int64_t rows, std::int64_t dim, std::int64_t D) {
        for (std::int64_t r = 0; r < rows; ++r) {
            std::memcpy(to + r * D, from + r * dim, static_cast<std::size_t>(dim) * sizeof(T));
            std::fill(to + r * D + dim, to + (r + 1) * D, T(0));
        }
    }
    static void gather(const T* from, T* to, std::int64_t rows, std::int64_t dim, std::int64_t D) {
        for (std::int64_t r = 0; r < rows; ++r) {
            std::memcpy(to + r * dim, from + r * D, static_cast<std::size_t>(dim) * sizeof(T));
        }
    }
    // to += from, rows of D; with no step the same row again and again.
    static void add(const T* from, std::int64_t step, T* to, std::int64_t rows, std::int64_t D) {
        for (std::int64_t r = 0; r < rows; ++r) {
            for (std::int64_t d = 0; d < D; d += kLanes<T>) {
                store(to + r * D + d, load(to + r * D + d) + load(from + r * step + d));
            }
        }
    }

    std::int64_t D;
    T *x, *out, *grad, *update;
    std::optional<Attention<T>> attention;
    std::optional<FeedForward<Term>> feed_forward;
};

// One batch: how it is cut, the layers, and the workers. (All memory is taken before threads start.)
template <typename Term>
class Run {
    using T = typename Term::Number;

  public:
    Run(const EncoderProblem<T>& problem, int threads, bool backward) : problem_(problem) {
        // Without attention a row is a row, whichever object it is of.
        objects_ = problem.num_objects * (problem.has_attention() ? 1 : problem.num_tokens);
        tokens_ = problem.has_attention() ? problem.num_tokens : 1;
        chunk_ = std::max<std::int64_t>(1, kChunkRows / std::max<std::int64_t>(1, tokens_));
        const std::int64_t chunks = (objects_ + chunk_ - 1) / chunk_;
        pieces_ = std::max<std::int64_t>(1, std::min<std::int64_t>(threads, chunks));
        for (const LayerTensors<T>& given : problem.layers) {
            Arena counted(nullptr);
            LayerWeights<Term>(counted, problem, given, backward, false);
            blocks_.emplace_back(counted.taken());
            Arena arena(blocks_.back().at());
            layers_.emplace_back(arena, problem, given, backward, true);
        }
        for (std::int64_t piece = 0; piece < pieces_; ++piece) {
            Arena counted(nullptr);
            Worker<Term>(counted, problem, layers_.front(), chunk_ * tokens_, backward);
            blocks_.emplace_back(counted.taken());
            Arena arena(blocks_.back().at());
            workers_.emplace_back(arena, problem, layers_.front(), chunk_ * tokens_, backward);
        }
    }

    void forward(T* out) {
        each_chunk([&](Worker<Term>& w, std::int64_t first, std::int64_t count) noexcept {
            const std::int64_t dim = problem_.dim;
            w.spread(problem_.x + first * tokens_ * dim, w.x, count * tokens_, dim, w.D);
            if (!w.feed_forward) {
                for (std::int64_t i = 0; i < count; ++i) {
                    w.attention->forward(w.x + i * tokens_ * w.D, first + i, w.update);
                    w.gather(w.update, out + (first + i) * dim, 1, dim, w.D);
                }
                return;
            }
            std::int64_t kept = tokens_;
            for (const LayerWeights<Term>& layer : layers_) {
                w.feed_forward->use(*layer.feed_forward);
                if (w.attention) {
                    w.attention->use(*layer.attention);
                    attend(w, first, count);
                }
                if (problem_.first_token && &layer == &layers_.back()) {
                    // The last layer takes no other token further than the attention reads it.
                    kept = 1;
                    for (std::int64_t i = 1; i < count; ++i) {
                        std::memcpy(w.x + i * w.D, w.x + i * tokens_ * w.D, static_cast<std::size_t>(w.D) * sizeof(T));
                    }
                }
                w.feed_forward->forward(w.x, first * tokens_, static_cast<int>(count * kept), w.out);
                if (w.attention) w.add(w.x, w.D, w.out, count * kept, w.D);
                std::swap(w.x, w.out);
            }
            w.gather(w.x, out + first * kept * dim, count * kept, dim, w.D);
        });
    }

    void backward(const T* grad, T* dx, const AttentionTensors<T*>& d_attention,
                  const FeedForwardTensors<T*>& d_feed_forward) {
        each_chunk([&](Worker<Term>& w, std::int64_t first, std::int64_t count) noexcept {
            const std::int64_t rows = count * tokens_;
            const std::int64_t dim = problem_.dim;
            T* d_rows = dx + first * tokens_ * dim;
            w.spread(problem_.x + first * tokens_ * dim, w.x, rows, dim, w.D);
            if (!w.attention) {
                w.spread(grad + first * tokens_ * dim, w.grad, rows, dim, w.D);
                w.feed_forward->backward(w.x, w.grad, first * tokens_, static_cast<int>(rows), w.out);
                w.gather(w.out, d_rows, rows, dim, w.D);
                return;
            }
            backward_by_objects(w, first, count, grad, d_rows);
        });
        if (problem_.has_attention()) collect(d_attention);
        if (problem_.has_feed_forward()) collect(d_feed_forward);
    }

  private:
    // Tokens of each object += its update.
    void attend(Worker<Term>& w, std::int64_t first, std::int64_t count) const {
        for (std::int64_t i = 0; i < count; ++i) {
            T* x = w.x + i * tokens_ * w.D;
            w.attention->forward(x, first + i, w.update);
            w.add(w.update, 0, x, tokens_, w.D);
        }
    }

    void backward_by_objects(Worker<Term>& w, std::int64_t first, std::int64_t count, const T* grad, T* dx) {
        const std::int64_t dim = problem_.dim;
        for (std::int64_t i = 0; i < count; ++i) {
            T* x = w.x + i * tokens_ * w.D;
            T* d_object = dx + i * tokens_ * dim;
            if (!w.feed_forward) {
                w.spread(grad + (first + i) * dim, w.update, 1, dim, w.D);
                w.attention->backward(x, w.update, first + i, w.out);
                w.gather(w.out, d_object, tokens_, dim, w.D);
                continue;
            }
            // The tokens in the middle of the layer, and their gradient: with the residual.
            T* grad_rows = w.grad;
            w.spread(grad + (first + i) * tokens_ * dim, grad_rows, tokens_, dim, w.D);
            w.attention->forward(x, first + i, w.update);
            T* middle = w.out;
            std::memcpy(middle, x, static_cast<std::size_t>(tokens_ * w.D) * sizeof(T));
            w.add(w.update, 0, middle, tokens_, w.D);
            w.feed_forward->backward(middle, grad_rows, (first + i) * tokens_, static_cast<int>(tokens_), w.out);
            w.add(w.out, w.D, grad_rows, tokens_, w.D);
            // That of the update is theirs, summed.
            std::memset(w.update, 0, static_cast<std::size_t>(w.D) * sizeof(T));
            for (std::int64_t t = 0; t < tokens_; ++t) w.add(grad_rows + t * w.D, 0, w.update, 1, w.D);
            w.attention->backward(x, w.update, first + i, w.out);
            w.add(w.out, w.D, grad_rows, tokens_, w.D);
            w.gather(grad_rows, d_object, tokens_, dim, w.D);
        }
    }

    template <typename Body>
    void each_chunk(const Body& body) {
        const std::int64_t chunks = (objects_ + chunk_ - 1) / chunk_;
        parallel_for(pieces_, static_cast<int>(pieces_), 1, [&](std::int64_t begin, std::int64_t end) noexcept {
            for (std::int64_t piece = begin; piece < end; ++piece) {
                // A piece has the same chunks however many threads there were to be had: sums are repeatable.
                for (std::int64_t c = chunks * piece / pieces_; c < chunks * (piece + 1) / pieces_; ++c) {
                    body(workers_[static_cast<std::size_t>(piece)], c * chunk_,
                         std::min(chunk_, objects_ - c * chunk_));
                }
            }
        });
    }

    // A gradient: the sum over workers of what `at` says of each.
    template <typename At>
    void sum_into(T* out, std::int64_t rows, std::int64_t columns, const At& at) const {
        for (std::int64_t i = 0; i < rows; ++i) {
            for (std::int64_t j = 0; j < columns; ++j) {
                T total = 0;
                for (const Worker<Term>& worker : workers_) total += at(worker, i, j);
                out[i * columns + j] = total;
            }
        }
    }

    void collect(const AttentionTensors<T*>& to) const {
        const std::int64_t dim = problem_.dim;
        const std::int64_t slots = problem_.num_slots;
        const std::int64_t D = padded<T>(dim);
        const std::int64_t K = padded<T>(slots);
        using W = const Worker<Term>&;
        using I = std::int64_t;
        sum_into(to.norm_weight, 1, dim, [](W w, I, I j) { return w.attention->d_norm_weight[j]; });
        sum_into(to.norm_bias, 1, dim, [](W w, I, I j) { return w.attention->d_norm_bias[j]; });
        sum_into(to.w_q, dim, dim, [=](W w, I i, I j) { return w.attention->d_w_q[i * D + j]; });
        sum_into(to.w_k, dim, dim, [=](W w, I i, I j) { return w.attention->d_w_k[i * D + j]; });
        sum_into(to.w_v, dim, dim, [=](W w, I i, I j) { return w.attention->d_w_v[i * D + j]; });
        const I tokens = problem_.num_tokens;
        sum_into(to.proj_k, tokens, slots, [=](W w, I i, I j) { return w.attention->d_proj_k[i * K + j]; });
        sum_into(to.proj_v, tokens, slots, [=](W w, I i, I j) { return w.attention->d_proj_v[i * K + j]; });
        sum_into(to.w_out, dim, dim, [=](W w, I i, I j) { return w.attention->d_w_out[i * D + j]; });
        sum_into(to.b_out, 1, dim, [](W w, I, I j) { return w.attention->d_b_out[j]; });
    }

    void collect(const FeedForwardTensors<T*>& to) const {
        const std::int64_t dim = problem_.dim;
        const std::int64_t hidden = problem_.num_hidden;
        const std::int64_t step = workers_[0].feed_forward->step();
        const T scale = kept_scale(problem_);
        using W = const Worker<Term>&;
        using I = std::int64_t;
        sum_into(to.norm_weight, 1, dim, [](W w, I, I j) { return w.feed_forward->d_norm_weight[j]; });
        sum_into(to.norm_bias, 1, dim, [](W w, I, I j) { return w.feed_forward->d_norm_bias[j]; });
        sum_into(to.w1, hidden, dim, [=](W w, I i, I j) { return w.feed_forward->d_w1[j * step + i]; });
        sum_into(to.b1, 1, hidden, [](W w, I, I j) { return w.feed_forward->d_b1[j]; });
        sum_into(to.w2, dim, hidden, [=](W w, I i, I j) { return scale * w.feed_forward->d_w2[i * step + j]; });
        sum_into(to.b2, 1, dim, [](W w, I, I j) { return w.feed_forward->d_b2[j]; });
    }

    const EncoderProblem<T>& problem_;
    std::int64_t objects_, tokens_, chunk_, pieces_;
    std::deque<Block> blocks_;
    std::deque<LayerWeights<Term>> layers_;
    std::deque<Worker<Term>> workers_;
};

template <typename T>
void encode(const EncoderProblem<T>& problem, T* out, int threads) {
    if constexpr (std::is_same_v<T, float>) {
        if (problem.halves) return Run<Halved>(problem, threads, false).forward(out);
    }
    Run<Plain<T>>(problem, threads, false).forward(out);
}

template <typename T>
void encode_back(const EncoderProblem<T>& problem, const T* grad, T* dx, const AttentionTensors<T*>& d_attention,
                 const FeedForwardTensors<T*>& d_feed_forward, int threads) {
    if constexpr (std::is_same_v<T, float>) {
        if (problem.halves) {
            return Run<Halved>(problem, threads, true).backward(grad, dx, d_attention, d_feed_forward);
        }
    }
    Run<Plain<T>>(problem, threads, true).backward(grad, dx, d_attention, d_feed_forward);
}

}  // namespace MF_TARGET
