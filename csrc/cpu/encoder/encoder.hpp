// Layers of an encoder on the host: attention by a single query, the feed-forward half, or both, forward and
// backward, fused. margformer_fast/reference has the formulas.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace margformer::cpu {

// The weights of attention, or their gradients. T tokens, D dim, K slots; all dense.
template <typename Pointer>
struct AttentionTensors {
    Pointer norm_weight, norm_bias;    // (D,)
    Pointer w_q, w_k, w_v;             // (D, D)
    Pointer proj_k, proj_v;            // (T, K)
    Pointer w_out;                     // (D, D)
    Pointer b_out;                     // (D,)
};

// The weights of the feed-forward half, or their gradients. M hidden units.
template <typename Pointer>
struct FeedForwardTensors {
    Pointer norm_weight, norm_bias;    // (D,)
    Pointer w1;                        // (M, D)
    Pointer b1;                        // (M,)
    Pointer w2;                        // (D, M)
    Pointer b2;                        // (D,)
};

// A layer, or one half of it.
template <typename T>
struct LayerTensors {
    std::optional<AttentionTensors<const T*>> attention;
    std::optional<FeedForwardTensors<const T*>> feed_forward;
};

// Of one half the result is its update, of attention one vector an object. Of both it is the tokens after the
// layer, residuals included; of several layers, all of them whole, token 0 after the last.
template <typename T>
struct EncoderProblem {
    std::int64_t num_objects = 0;
    std::int64_t num_tokens = 0;
    std::int64_t dim = 0;
    std::int64_t num_heads = 1;
    std::int64_t num_slots = 0;
    std::int64_t num_hidden = 0;
    const T* x = nullptr;  // (objects, tokens, dim), dense
    std::vector<LayerTensors<T>> layers;
    bool first_token = false;           // of each object is all that is wanted, after whole layers
    std::optional<std::uint64_t> seed;  // of dropout, which is for one layer alone
    std::int32_t dropped_levels = 0;    // of 65536
    bool halves = false;                // factors of the feed-forward products as bfloat16

    bool has_attention() const { return layers.front().attention.has_value(); }
    bool has_feed_forward() const { return layers.front().feed_forward.has_value(); }
    // Rows of the result.
    std::int64_t num_results() const {
        return num_objects * (has_feed_forward() && !first_token ? num_tokens : 1);
    }
};

// `out` has num_results() rows of `dim`. An empty `target` chooses the best (vector/targets.hpp).
template <typename T>
void encode(const EncoderProblem<T>& problem, T* out, int threads, const std::string& target);

// For one layer: the gradients of `x` and of the weights of the halves there are, from that of the result. Only
// `x` is needed: everything in between is computed again.
template <typename T>
void encode_back(const EncoderProblem<T>& problem, const T* grad, T* dx, const AttentionTensors<T*>& d_attention,
                 const FeedForwardTensors<T*>& d_feed_forward, int threads, const std::string& target);

}  // namespace margformer::cpu
