// A profile seen through a PSF, on a list of pixels. Included once for each target, so without a guard.

namespace MF_TARGET {

MF_ALWAYS_INLINE Vec<double> exp_of_negative(const Vec<double>& x) {
    Vec<double> power;
    for (int lane = 0; lane < kLanes<double>; ++lane) power[lane] = std::exp(x[lane]);
    return power;
}

// u, e1 and e2 of the reference.
struct Shape {
    double u = 0, e1 = 0, e2 = 0;
};

// One Gaussian: its inverse covariance, height at the centre, and that times the variance of its part of the profile.
template <typename T>
struct Component {
    T xx, xy, yy, height, slope;
};

// Pixels of one band that are fitted, one after another, and what they hold. The last vector is filled up with pixels
// of no weight.
template <typename T>
struct Pixels {
    std::vector<T> x, y, image, weight, model, by_xx, by_xy, by_yy;
    std::int64_t count = 0;

    void reserve(std::int64_t most) {
        const auto room = static_cast<std::size_t>(round_up(most, kLanes<T>));
        for (auto* each : {&x, &y, &image, &weight, &model, &by_xx, &by_xy, &by_yy}) each->assign(room, T{0});
    }
};

template <typename T>
void components_of(const Shape& shape, const ProfileTable& table, const double* covariance, const double* share,
                   std::int64_t gaussians, std::vector<Component<T>>& out) {
    const double scale = std::exp(2 * shape.u);
    out.clear();
    for (std::int64_t k = 0; k < gaussians; ++k) {
        const double* c = covariance + 3 * k;
        for (std::size_t m = 0; m < table.light.size(); ++m) {
            const double v = table.variance[m] * scale;
            const double xx = c[0] + v * (1 + shape.e1);
            const double xy = c[1] + v * shape.e2;
            const double yy = c[2] + v * (1 - shape.e1);
            const double det = xx * yy - xy * xy;
            const double height = share[k] * table.light[m] / (6.283185307179586477 * std::sqrt(det));
            out.push_back({static_cast<T>(yy / det), static_cast<T>(-xy / det), static_cast<T>(xx / det),
                           static_cast<T>(height), static_cast<T>(height * table.variance[m])});
        }
    }
}

// The model of unit flux, and with kSlopes its derivatives by the elements of T, times two.
template <bool kSlopes, typename T>
void render(const std::vector<Component<T>>& components, Pixels<T>& pixels) {
    const std::int64_t end = round_up(pixels.count, kLanes<T>);
    for (std::int64_t i = 0; i < end; i += kLanes<T>) {
        const Vec<T> dx = load(pixels.x.data() + i);
        const Vec<T> dy = load(pixels.y.data() + i);
        Vec<T> model{}, by_xx{}, by_xy{}, by_yy{};
        for (const Component<T>& c : components) {
            const Vec<T> p = c.xx * dx + c.xy * dy;
            const Vec<T> q = c.xy * dx + c.yy * dy;
            const Vec<T> bell = exp_of_negative((p * dx + q * dy) * T(-0.5));
            model += c.height * bell;
            if constexpr (kSlopes) {
                const Vec<T> slope = c.slope * bell;
                by_xx += slope * (p * p - c.xx);
                by_xy += slope * (p * q - c.xy);
                by_yy += slope * (q * q - c.yy);
            }
        }
        store(pixels.model.data() + i, model);
        if constexpr (kSlopes) {
            store(pixels.by_xx.data() + i, by_xx);
            store(pixels.by_xy.data() + i, by_xy);
            store(pixels.by_yy.data() + i, by_yy);
        }
    }
}

// The best amplitude of the rendered model, and the model's norm.
template <typename T>
double amplitude_of(const Pixels<T>& pixels, double& norm) {
    Vec<T> with_image{}, with_itself{};
    for (std::int64_t i = 0; i < pixels.count; i += kLanes<T>) {
        const Vec<T> model = load(pixels.model.data() + i);
        const Vec<T> weighted = load(pixels.weight.data() + i) * model;
        with_image += weighted * load(pixels.image.data() + i);
        with_itself += weighted * model;
    }
    norm = static_cast<double>(sum<T>(with_itself));
    return static_cast<double>(sum<T>(with_image)) / norm;
}

template <typename T>
double chi2_of(const Pixels<T>& pixels, double amplitude) {
    Vec<T> total{};
    const T a = static_cast<T>(amplitude);
    for (std::int64_t i = 0; i < pixels.count; i += kLanes<T>) {
        const Vec<T> rest = load(pixels.image.data() + i) - a * load(pixels.model.data() + i);
        total += load(pixels.weight.data() + i) * rest * rest;
    }
    return static_cast<double>(sum<T>(total));
}

}  // namespace MF_TARGET
