// The encoder compiled for several kinds of processors.
//
// Sums of products are fused, and in the order that is fastest: unlike the rest of the module, results differ by
// rounding between targets, and are compared with the reference by their error.
#include "cpu/encoder/encoder.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <stdexcept>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/bits.hpp"
#include "core/platform.hpp"
#include "core/random.hpp"
#include "cpu/parallel.hpp"
#include "cpu/vector/targets.hpp"

namespace margformer::cpu {
namespace {

#define MF_BODY "cpu/encoder/body.hpp"
#include "cpu/vector/for_each_target.hpp"

template <typename T>
void encode_for(const std::string& target, const EncoderProblem<T>& problem, T* out, int threads) {
    MF_CALL_TARGET(target, encode(problem, out, threads));
    throw std::invalid_argument("this processor is of no such kind");
}

template <typename T>
void encode_back_for(const std::string& target, const EncoderProblem<T>& problem, const T* grad, T* dx,
                     const AttentionTensors<T*>& d_attention, const FeedForwardTensors<T*>& d_feed_forward,
                     int threads) {
    MF_CALL_TARGET(target, encode_back(problem, grad, dx, d_attention, d_feed_forward, threads));
    throw std::invalid_argument("this processor is of no such kind");
}

}  // namespace

template <typename T>
void encode(const EncoderProblem<T>& problem, T* out, int threads, const std::string& target) {
    encode_for(usable_target(target), problem, out, threads);
}

template <typename T>
void encode_back(const EncoderProblem<T>& problem, const T* grad, T* dx, const AttentionTensors<T*>& d_attention,
                 const FeedForwardTensors<T*>& d_feed_forward, int threads, const std::string& target) {
    encode_back_for(usable_target(target), problem, grad, dx, d_attention, d_feed_forward, threads);
}

template void encode(const EncoderProblem<float>&, float*, int, const std::string&);
template void encode(const EncoderProblem<double>&, double*, int, const std::string&);
template void encode_back(const EncoderProblem<float>&, const float*, float*, const AttentionTensors<float*>&,
                          const FeedForwardTensors<float*>&, int, const std::string&);
template void encode_back(const EncoderProblem<double>&, const double*, double*, const AttentionTensors<double*>&,
                          const FeedForwardTensors<double*>&, int, const std::string&);

}  // namespace margformer::cpu
