// LayerNorm of rows, and its gradient. Included once for each target, so without a guard.

namespace MF_TARGET {

// Vectors of `dim` numbers, padded with zeros.
template <typename T>
struct Norm {
    const T* weight;
    const T* bias;
    const T* inside;  // 1 in the first `dim` lanes
    T share;  // 1 / dim
    int padded;
};

// hat = (x - mean) / sqrt(variance + 1e-5); returns the reciprocal root. `x` and `hat` are padded, x with zeros.
template <typename T>
MF_ALWAYS_INLINE T normalise(const T* x, T* hat, const Norm<T>& norm) {
    constexpr int lanes = kLanes<T>;
    Vec<T> total{};
    for (int d = 0; d < norm.padded; d += lanes) total += load(x + d);
    const T mean = sum<T>(total) * norm.share;
    Vec<T> squares{};
    for (int d = 0; d < norm.padded; d += lanes) {
        const Vec<T> deviation = (load(x + d) - mean) * load(norm.inside + d);
        store(hat + d, deviation);
        squares += deviation * deviation;
    }
    const T reciprocal = T(1) / std::sqrt(sum<T>(squares) * norm.share + T(1e-5));
    for (int d = 0; d < norm.padded; d += lanes) store(hat + d, load(hat + d) * reciprocal);
    return reciprocal;
}

// dx = that of hat, from dy: that of hat * weight + bias. Adds to the gradients of weight and bias.
template <typename T>
MF_ALWAYS_INLINE void normalise_back(const T* dy, const T* hat, T reciprocal, const Norm<T>& norm, T* dx, T* d_weight,
                                     T* d_bias) {
    constexpr int lanes = kLanes<T>;
    Vec<T> total{};
    Vec<T> along{};
    for (int d = 0; d < norm.padded; d += lanes) {
        const Vec<T> grad = load(dy + d);
        const Vec<T> unit = load(hat + d);
        store(d_bias + d, load(d_bias + d) + grad);
        store(d_weight + d, load(d_weight + d) + grad * unit);
        const Vec<T> inner = grad * load(norm.weight + d);
        total += inner;
        along += inner * unit;
    }
    const T mean = sum<T>(total) * norm.share;
    const T mean_along = sum<T>(along) * norm.share;
    for (int d = 0; d < norm.padded; d += lanes) {
        const Vec<T> inner = load(dy + d) * load(norm.weight + d);
        store(dx + d, (inner - mean - load(hat + d) * mean_along) * reciprocal * load(norm.inside + d));
    }
}

}  // namespace MF_TARGET
