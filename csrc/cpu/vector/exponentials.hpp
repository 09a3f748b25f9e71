// Powers, and the normal distribution. Included once for each target, so without a guard.

namespace MF_TARGET {

// Adding it rounds a small number, and leaves it in the lowest bits: 1.5 * 2^23.
constexpr float kRounds = 12582912.0f;

// 2^(n + r) with n in the lowest bits of `rounded`, and |r| <= 1/2.
MF_ALWAYS_INLINE Vec<float> power_of_parts(const Vec<float>& rounded, const Vec<float>& r) {
    // Fitted for the smallest largest relative error, 7.5e-8.
    const Vec<float> series =
        1.00000007f +
        r * (0.693146967f + r * (0.240221197f + r * (0.0555071327f + r * (0.00967554133f + r * 0.00132764718f))));
    // Unsigned: far below the range, where the power is thrown away, the sum wraps around.
    const auto n = reinterpret_cast<Vec<std::uint32_t>>(rounded) << 23;
    return reinterpret_cast<Vec<float>>(reinterpret_cast<Vec<std::uint32_t>>(series) + n);
}

// 2^x for x below 127.5; below -126 it is 0. Relative error below 2e-7 of what x is rounded to.
MF_ALWAYS_INLINE Vec<float> power_of_two(const Vec<float>& x) {
    const Vec<float> rounded = x + kRounds;
    const Vec<float> power = power_of_parts(rounded, x - (rounded - kRounds));
    return x < -126.0f ? Vec<float>{} : power;
}

// In float64 for comparisons, where speed is no matter.
MF_ALWAYS_INLINE Vec<double> power_of_two(const Vec<double>& x) {
    Vec<double> power;
    for (int lane = 0; lane < kLanes<double>; ++lane) power[lane] = std::exp2(x[lane]);
    return power;
}

// exp(x) for x <= 0; below -87 it is 1e-38. Relative error below 2e-7: x in two parts, so that large ones lose
// nothing to the rounding of x / ln 2.
MF_ALWAYS_INLINE Vec<float> exp_of_negative(Vec<float> x) {
    x = x > -87.0f ? x : Vec<float>{} - 87.0f;
    const Vec<float> rounded = x * 1.44269504f + kRounds;
    const Vec<float> n = rounded - kRounds;
    const Vec<float> rest = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    return power_of_parts(rounded, rest * 1.44269504f);
}

// Phi(x), and the density exp(-x^2 / 2) / sqrt(2 pi). Absolute errors below 3e-7; in the lower tail, where x^2 is
// rounded, that of Phi is below 2e-6 of it down to x = -5, and below 8e-6 down to -12. Phi(-|x|) exp(x^2 / 2) is
// nearly a polynomial in t = 1 / (1 + 0.35 |x|) (the form is Hastings', Approximations for Digital Computers, 1955);
// these coefficients were fitted for the smallest largest relative error up to |x| = 14, which is 3.2e-8.
MF_ALWAYS_INLINE void normal_distribution(const Vec<float>& x, Vec<float>& phi, Vec<float>& density) {
    const auto size = reinterpret_cast<Vec<float>>(reinterpret_cast<Vec<std::int32_t>>(x) & 0x7fffffff);
    const Vec<float> t = 1.0f / (1.0f + 0.35f * size);
    const Vec<float> bell = power_of_two(x * (x * -0.721347520f));
    const Vec<float> series =
        0.1396214f +
        t * (0.13986187f +
             t * (0.11983286f +
                  t * (0.10550803f +
                       t * (-0.0231099f +
                            t * (0.15917426f + t * (-0.25571434f + t * (0.14397174f + t * -0.02914594f)))))));
    const Vec<float> tail = bell * (t * series);
    phi = x > 0.0f ? 1.0f - tail : tail;
    density = bell * 0.398942280f;
}

// Likewise.
MF_ALWAYS_INLINE void normal_distribution(const Vec<double>& x, Vec<double>& phi, Vec<double>& density) {
    for (int lane = 0; lane < kLanes<double>; ++lane) {
        phi[lane] = 0.5 * std::erfc(x[lane] * -0.70710678118654752440);
        density[lane] = std::exp(-0.5 * x[lane] * x[lane]) * 0.39894228040143267794;
    }
}

}  // namespace MF_TARGET
