// Layers of an encoder on NumPy arrays.
#include "cpu/encoder/encoder.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/host.hpp"
#include "cpu/vector/targets.hpp"

namespace py = pybind11;

namespace margformer::bindings {
namespace {

template <typename T>
using Dense = py::array_t<T, py::array::c_style>;

template <typename T>
using Arrays = std::vector<Dense<T>>;

// Dense arrays of the shapes that are asked for; where one may be written, it has to be writeable.
template <typename T>
class Checked {
  public:
    explicit Checked(Arrays<T>& arrays, std::size_t count) : arrays_(arrays) {
        if (arrays.size() != count) throw std::invalid_argument("expected " + std::to_string(count) + " tensors");
    }

    T* next(std::initializer_list<std::int64_t> shape) {
        Dense<T>& array = arrays_[place_++];
        if (!std::equal(array.shape(), array.shape() + array.ndim(), shape.begin(), shape.end())) {
            throw std::invalid_argument("tensor " + std::to_string(place_ - 1) + " has the wrong shape");
        }
        return array.mutable_data();
    }

  private:
    Arrays<T>& arrays_;
    std::size_t place_ = 0;
};

template <typename T>
struct Sizes {
    std::int64_t T_ = 0, D = 0, K = 0, M = 0;
};

template <typename T>
cpu::AttentionTensors<T*> attention_tensors(Arrays<T>& arrays, const Sizes<T>& size) {
    Checked<T> checked(arrays, 9);
    cpu::AttentionTensors<T*> at;
    at.norm_weight = checked.next({size.D});
    at.norm_bias = checked.next({size.D});
    at.w_q = checked.next({size.D, size.D});
    at.w_k = checked.next({size.D, size.D});
    at.w_v = checked.next({size.D, size.D});
    at.proj_k = checked.next({size.T_, size.K});
    at.proj_v = checked.next({size.T_, size.K});
    at.w_out = checked.next({size.D, size.D});
    at.b_out = checked.next({size.D});
    return at;
}

template <typename T>
cpu::FeedForwardTensors<T*> feed_forward_tensors(Arrays<T>& arrays, const Sizes<T>& size) {
    Checked<T> checked(arrays, 6);
    cpu::FeedForwardTensors<T*> at;
    at.norm_weight = checked.next({size.D});
    at.norm_bias = checked.next({size.D});
    at.w1 = checked.next({size.M, size.D});
    at.b1 = checked.next({size.M});
    at.w2 = checked.next({size.D, size.M});
    at.b2 = checked.next({size.D});
    return at;
}

template <typename T>
cpu::AttentionTensors<const T*> constant(const cpu::AttentionTensors<T*>& w) {
    return {w.norm_weight, w.norm_bias, w.w_q, w.w_k, w.w_v, w.proj_k, w.proj_v, w.w_out, w.b_out};
}

template <typename T>
cpu::FeedForwardTensors<const T*> constant(const cpu::FeedForwardTensors<T*>& w) {
    return {w.norm_weight, w.norm_bias, w.w1, w.b1, w.w2, w.b2};
}

// A layer as it is given: weights of attention, of the feed-forward half, either may be missing.
template <typename T>
using Layer = std::pair<std::optional<Arrays<T>>, std::optional<Arrays<T>>>;

// What forward and backward have in common.
template <typename T>
struct Problem {
    Sizes<T> size;
    cpu::EncoderProblem<T> problem;

    Problem(const Dense<T>& x, std::vector<Layer<T>>& layers, std::int64_t num_heads,
            std::optional<std::uint64_t> seed, std::int32_t dropped_levels, bool halves) {
        if (x.ndim() != 3 || layers.empty()) throw std::invalid_argument("x has three axes, and there is a layer");
        size.T_ = x.shape(1);
        size.D = x.shape(2);
        for (auto& [attention, feed_forward] : layers) {
            const bool is_whole = attention && feed_forward;
            if (!is_whole && (layers.size() > 1 || (!attention && !feed_forward))) {
                throw std::invalid_argument("a half is missing");
            }
            cpu::LayerTensors<T> layer;
            if (attention) {
                size.K = attention->size() > 5 && (*attention)[5].ndim() == 2 ? (*attention)[5].shape(1) : 0;
                if (num_heads < 1 || size.D % num_heads != 0 || size.K < 1 || size.T_ < 1) {
                    throw std::invalid_argument("attention needs tokens, slots, and heads that divide the dim");
                }
                check_same(problem.num_slots, size.K);
                layer.attention = constant(attention_tensors(*attention, size));
            }
            if (feed_forward) {
                size.M = feed_forward->size() > 3 && (*feed_forward)[3].ndim() == 1 ? (*feed_forward)[3].shape(0) : 0;
                check_same(problem.num_hidden, size.M);
                layer.feed_forward = constant(feed_forward_tensors(*feed_forward, size));
            }
            problem.layers.push_back(layer);
        }
        problem.num_objects = x.shape(0);
        problem.num_tokens = size.T_;
        problem.dim = size.D;
        problem.num_heads = num_heads;
        problem.x = x.data();
        problem.seed = seed;
        problem.dropped_levels = dropped_levels;
        problem.halves = halves;
    }

  private:
    void check_same(std::int64_t& before, std::int64_t now) const {
        if (!problem.layers.empty() && before != now) throw std::invalid_argument("layers differ in size");
        before = now;
    }
};

template <typename T>
T* rows_of(Dense<T>& array, std::int64_t count, const char* name) {
    if (array.size() != count) throw std::invalid_argument(std::string(name) + " has the wrong size");
    return array.mutable_data();
}

template <typename T>
void encode(const Dense<T>& x, std::vector<Layer<T>> layers, Dense<T>& out, bool first_token,
            std::int64_t num_heads, std::optional<std::uint64_t> seed, std::int32_t dropped_levels, bool halves,
            int threads, const std::string& target) {
    Problem<T> given(x, layers, num_heads, seed, dropped_levels, halves);
    given.problem.first_token = first_token;
    if ((layers.size() > 1 || first_token) && (seed || !given.problem.has_attention())) {
        throw std::invalid_argument("a network has no dropout");
    }
    T* to = rows_of(out, given.problem.num_results() * given.size.D, "out");
    const py::gil_scoped_release unlocked;
    cpu::encode(given.problem, to, std::max(threads, 1), target);
}

template <typename T>
void encode_back(const Dense<T>& x, std::vector<Layer<T>> layers, Dense<T>& grad, Dense<T>& dx,
                 Arrays<T> d_attention, Arrays<T> d_feed_forward, std::int64_t num_heads,
                 std::optional<std::uint64_t> seed, std::int32_t dropped_levels, bool halves, int threads,
                 const std::string& target) {
    const Problem<T> given(x, layers, num_heads, seed, dropped_levels, halves);
    if (layers.size() > 1) throw std::invalid_argument("layers are differentiated one by one");
    const T* from = rows_of(grad, given.problem.num_results() * given.size.D, "grad");
    T* to = rows_of(dx, x.size(), "dx");
    cpu::AttentionTensors<T*> attention_to{};
    cpu::FeedForwardTensors<T*> feed_forward_to{};
    if (given.problem.has_attention()) attention_to = attention_tensors(d_attention, given.size);
    if (given.problem.has_feed_forward()) feed_forward_to = feed_forward_tensors(d_feed_forward, given.size);
    const py::gil_scoped_release unlocked;
    cpu::encode_back(given.problem, from, to, attention_to, feed_forward_to, std::max(threads, 1), target);
}

template <typename T>
void define(py::module_& module) {
    // No conversion: a converted copy would be written instead of what was given.
    module.def("encode", &encode<T>, py::arg("x").noconvert(), py::arg("layers").noconvert(),
               py::arg("out").noconvert(), py::kw_only(), py::arg("first_token"), py::arg("num_heads"),
               py::arg("seed"), py::arg("dropped_levels"), py::arg("halves"), py::arg("threads"), py::arg("target"));
    module.def("encode_back", &encode_back<T>, py::arg("x").noconvert(), py::arg("layers").noconvert(),
               py::arg("grad").noconvert(), py::arg("dx").noconvert(), py::arg("d_attention").noconvert(),
               py::arg("d_feed_forward").noconvert(), py::kw_only(), py::arg("num_heads"), py::arg("seed"),
               py::arg("dropped_levels"), py::arg("halves"), py::arg("threads"), py::arg("target"));
}

}  // namespace

void define_encoder(py::module_& module) {
    define<float>(module);
    define<double>(module);
    module.def("targets", &cpu::targets);
}

}  // namespace margformer::bindings
