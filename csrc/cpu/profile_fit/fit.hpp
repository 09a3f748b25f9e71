// Levenberg and Marquardt's method for one profile, and the fits of one object. Included once for each target, so
// without a guard.

namespace MF_TARGET {

struct Evaluation {
    double amplitude = 0, chi2 = 0;
    double gradient[3] = {};
    double normal[6] = {};  // 00 01 02 11 12 22
};

struct Fit {
    Shape shape;
    Evaluation at;
    std::int64_t steps = 0;
};

// What a thread works in.
template <typename T>
struct Workspace {
    std::vector<Pixels<T>> bands;
    std::vector<Component<T>> components;
};

template <typename T>
Evaluation evaluate(const Shape& shape, Pixels<T>& pixels, const std::vector<Component<T>>& components) {
    render<true>(components, pixels);
    Evaluation found;
    double norm = 0;
    found.amplitude = amplitude_of(pixels, norm);
    // Products with the derivatives by xx, xy, yy: of the residual, of the model, and of each other.
    Vec<T> chi2{}, of_rest[3] = {}, of_model[3] = {}, of_each[6] = {};
    const T a = static_cast<T>(found.amplitude);
    for (std::int64_t i = 0; i < pixels.count; i += kLanes<T>) {
        const Vec<T> weight = load(pixels.weight.data() + i);
        const Vec<T> model = load(pixels.model.data() + i);
        const Vec<T> rest = load(pixels.image.data() + i) - a * model;
        const Vec<T> weighted_rest = weight * rest;
        const Vec<T> weighted_model = weight * model;
        chi2 += weighted_rest * rest;
        const Vec<T> by[3] = {load(pixels.by_xx.data() + i), load(pixels.by_xy.data() + i),
                              load(pixels.by_yy.data() + i)};
        int pair = 0;
        for (int j = 0; j < 3; ++j) {
            of_rest[j] += weighted_rest * by[j];
            of_model[j] += weighted_model * by[j];
            const Vec<T> weighted = weight * by[j];
            for (int k = j; k < 3; ++k) of_each[pair++] += weighted * by[k];
        }
    }
    found.chi2 = static_cast<double>(sum<T>(chi2));
    // From the elements of T to u, e1 and e2.
    const double half = 0.5 * std::exp(2 * shape.u);
    const double turn[3][3] = {{2 * half * (1 + shape.e1), 4 * half * shape.e2, 2 * half * (1 - shape.e1)},
                               {half, 0, -half},
                               {0, 2 * half, 0}};
    double rest[3], model[3], each[3][3];
    int pair = 0;
    for (int j = 0; j < 3; ++j) {
        rest[j] = static_cast<double>(sum<T>(of_rest[j]));
        model[j] = static_cast<double>(sum<T>(of_model[j]));
        for (int k = j; k < 3; ++k) each[j][k] = each[k][j] = static_cast<double>(sum<T>(of_each[pair++]));
    }
    double along[3];
    for (int i = 0; i < 3; ++i) {
        found.gradient[i] = 0;
        along[i] = 0;
        for (int j = 0; j < 3; ++j) {
            found.gradient[i] += found.amplitude * turn[i][j] * rest[j];
            along[i] += turn[i][j] * model[j];
        }
    }
    pair = 0;
    for (int i = 0; i < 3; ++i) {
        for (int l = i; l < 3; ++l, ++pair) {
            double product = 0;
            for (int j = 0; j < 3; ++j) {
                for (int k = 0; k < 3; ++k) product += turn[i][j] * each[j][k] * turn[l][k];
            }
            found.normal[pair] = found.amplitude * found.amplitude * (product - along[i] * along[l] / norm);
        }
    }
    return found;
}

inline Shape bounded(const Shape& shape, const ProfileFitSettings& settings) {
    Shape result = shape;
    result.u = std::min(std::max(shape.u, std::log(settings.min_radius)), std::log(settings.max_radius));
    const double size = std::sqrt(shape.e1 * shape.e1 + shape.e2 * shape.e2);
    if (size > settings.max_ellipticity) {
        result.e1 = shape.e1 * (settings.max_ellipticity / size);
        result.e2 = shape.e2 * (settings.max_ellipticity / size);
    }
    return result;
}

// The damped step from here, no longer than allowed; none where it has no value.
inline Shape step_from(const Evaluation& at, double damping, double max_change) {
    const double* n = at.normal;
    const double most = std::max(n[0], std::max(n[3], n[5]));
    const double floor = 1e-12 * most + 1e-30;
    const double a = n[0] + damping * n[0] + floor, b = n[1], c = n[2];
    const double d = n[3] + damping * n[3] + floor, e = n[4], f = n[5] + damping * n[5] + floor;
    const double m00 = d * f - e * e, m01 = c * e - b * f, m02 = b * e - c * d;
    const double m11 = a * f - c * c, m12 = b * c - a * e, m22 = a * d - b * b;
    const double det = a * m00 + b * m01 + c * m02;
    const double* g = at.gradient;
    Shape step{(m00 * g[0] + m01 * g[1] + m02 * g[2]) / det, (m01 * g[0] + m11 * g[1] + m12 * g[2]) / det,
               (m02 * g[0] + m12 * g[1] + m22 * g[2]) / det};
    if (!(std::isfinite(step.u) && std::isfinite(step.e1) && std::isfinite(step.e2))) return {};
    const double longest = std::max(std::abs(step.u), std::sqrt(step.e1 * step.e1 + step.e2 * step.e2));
    const double cut = std::min(max_change / std::max(longest, 1e-30), 1.0);
    return {step.u * cut, step.e1 * cut, step.e2 * cut};
}

template <typename T>
Fit fit_shape(Shape shape, const ProfileTable& table, const double* covariance, const double* share,
              std::int64_t gaussians, const ProfileFitSettings& settings, Pixels<T>& pixels,
              std::vector<Component<T>>& components) {
    const auto at = [&](const Shape& place) {
        components_of(place, table, covariance, share, gaussians, components);
        return evaluate(place, pixels, components);
    };
    Fit fit;
    fit.shape = bounded(shape, settings);
    fit.at = at(fit.shape);
    double damping = settings.first_damping;
    bool running = std::isfinite(fit.at.chi2);
    while (running && fit.steps < settings.max_steps) {
        const Shape step = step_from(fit.at, damping, settings.max_change);
        const Shape trial =
            bounded({fit.shape.u + step.u, fit.shape.e1 + step.e1, fit.shape.e2 + step.e2}, settings);
        const Evaluation found = at(trial);
        const double gain = fit.at.chi2 - found.chi2;
        ++fit.steps;
        if (gain > 0) {  // false for NaN
            fit.shape = trial;
            fit.at = found;
            damping /= 10;
            running = gain > settings.tolerance;
        } else {
            damping *= 10;
            running = damping < settings.max_damping;
        }
    }
    return fit;
}

// Collect the finite pixels of one band that are within a distance of the centre, all of one weight.
template <typename T>
void gather(const T* image, std::int64_t size, const double* centre, double radius2, double noise,
            Pixels<T>& pixels) {
    pixels.count = 0;
    for (std::int64_t row = 0; row < size; ++row) {
        const double dy = static_cast<double>(row) - centre[0];
        for (std::int64_t column = 0; column < size; ++column) {
            const double dx = static_cast<double>(column) - centre[1];
            const T value = image[row * size + column];
            if (!(dx * dx + dy * dy < radius2) || !std::isfinite(value)) continue;
            const auto to = static_cast<std::size_t>(pixels.count++);
            pixels.x[to] = static_cast<T>(dx);
            pixels.y[to] = static_cast<T>(dy);
            pixels.image[to] = value;
            pixels.weight[to] = static_cast<T>(1 / (noise * noise));
        }
    }
    const std::int64_t end = round_up(pixels.count, kLanes<T>);
    for (std::int64_t i = pixels.count; i < end; ++i) {
        const auto to = static_cast<std::size_t>(i);
        pixels.x[to] = pixels.y[to] = pixels.image[to] = pixels.weight[to] = T{0};
    }
}

template <typename T>
void fit_object(const ProfileFitProblem<T>& problem, const ProfileFitSettings& settings,
                const ProfileFitResult& result, std::int64_t object, Workspace<T>& work) {
    const std::int64_t bands = problem.bands, gaussians = problem.gaussians;
    const std::int64_t area = problem.size * problem.size;
    const double inner = settings.fit_radius * settings.fit_radius;
    const double everywhere = std::numeric_limits<double>::infinity();
    const auto row_of = [&](std::int64_t band) { return object * bands + band; };
    const auto covariance_of = [&](std::int64_t band) { return problem.covariance + 3 * gaussians * row_of(band); };
    const auto share_of = [&](std::int64_t band) { return problem.share + gaussians * row_of(band); };
    const auto image_of = [&](std::int64_t band) { return problem.images + area * row_of(band); };
    const auto centre_of = [&](std::int64_t band) { return problem.centre + 2 * row_of(band); };

    // The best round profile to start from, the reference band first: its size decides which pixels are fitted.
    std::vector<Shape> starts(static_cast<std::size_t>(bands));
    bool large = false;
    for (std::int64_t turn = 0; turn < bands; ++turn) {
        const std::int64_t band = turn == 0 ? problem.reference : (turn <= problem.reference ? turn - 1 : turn);
        const std::int64_t row = row_of(band);
        Pixels<T>& pixels = work.bands[static_cast<std::size_t>(band)];
        gather<T>(image_of(band), problem.size, centre_of(band), inner, problem.noise[row], pixels);
        double best = std::numeric_limits<double>::infinity(), amplitude = 0;
        Shape start;
        for (const double radius : settings.starts) {
            const Shape shape{std::log(radius), 0, 0};
            components_of(shape, settings.spheroid, covariance_of(band), share_of(band), gaussians, work.components);
            render<false>(work.components, pixels);
            double norm = 0;
            const double a = amplitude_of(pixels, norm);
            const double chi2 = chi2_of(pixels, a);
            if (chi2 < best) {
                best = chi2;
                amplitude = a;
                start = shape;
            }
        }
        starts[static_cast<std::size_t>(band)] = start;
        if (turn == 0) large = start.u > std::log(settings.large);
        const double reach = large ? everywhere : inner;
        gather<T>(image_of(band), problem.size, centre_of(band), reach, problem.noise[row], pixels);
        components_of(start, settings.spheroid, covariance_of(band), share_of(band), gaussians, work.components);
        render<false>(work.components, pixels);
        const double variance = problem.noise[row] * problem.noise[row];
        for (std::int64_t i = 0; i < pixels.count; ++i) {
            const auto at = static_cast<std::size_t>(i);
            const double light = std::max(amplitude * static_cast<double>(pixels.model[at]), 0.0);
            const double wrong = settings.model_error * light;
            pixels.weight[at] = static_cast<T>(1 / (variance + light / problem.gain[row] + wrong * wrong));
        }
    }

    const auto record = [&](std::int64_t place, const Fit& fit) {
        const std::int64_t to = object * (bands + 1) + place;
        result.shape[3 * to] = fit.shape.u;
        result.shape[3 * to + 1] = fit.shape.e1;
        result.shape[3 * to + 2] = fit.shape.e2;
        result.chi2[to] = fit.at.chi2;
        result.amplitude[to] = fit.at.amplitude;
        result.steps[to] = fit.steps;
    };
    Fit in_reference;
    for (std::int64_t band = 0; band < bands; ++band) {
        const Fit fit = fit_shape(starts[static_cast<std::size_t>(band)], settings.spheroid, covariance_of(band),
                                  share_of(band), gaussians, settings, work.bands[static_cast<std::size_t>(band)],
                                  work.components);
        record(band, fit);
        if (band == problem.reference) in_reference = fit;
    }
    const std::int64_t reference = problem.reference;
    const Fit disc = fit_shape(starts[static_cast<std::size_t>(reference)], settings.disc, covariance_of(reference),
                               share_of(reference), gaussians, settings,
                               work.bands[static_cast<std::size_t>(reference)], work.components);
    record(bands, disc);

    const bool is_disc = disc.at.chi2 < in_reference.at.chi2;
    const Shape& chosen = is_disc ? disc.shape : in_reference.shape;
    for (std::int64_t band = 0; band < bands; ++band) {
        Pixels<T>& pixels = work.bands[static_cast<std::size_t>(band)];
        components_of(chosen, is_disc ? settings.disc : settings.spheroid, covariance_of(band), share_of(band),
                      gaussians, work.components);
        render<false>(work.components, pixels);
        double norm = 0;
        result.flux[row_of(band)] = amplitude_of(pixels, norm);
    }
}

template <typename T>
void fit_profiles(const ProfileFitProblem<T>& problem, const ProfileFitSettings& settings,
                  const ProfileFitResult& result, int threads) {
    parallel_for(problem.count, threads, 4, [&](std::int64_t begin, std::int64_t end) noexcept {
        Workspace<T> work;
        work.bands.resize(static_cast<std::size_t>(problem.bands));
        for (Pixels<T>& pixels : work.bands) pixels.reserve(problem.size * problem.size);
        for (std::int64_t object = begin; object < end; ++object) {
            fit_object(problem, settings, result, object, work);
        }
    });
}

}  // namespace MF_TARGET
