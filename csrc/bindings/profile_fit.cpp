// Profile fits on NumPy arrays.
#include "cpu/profile_fit/profile_fit.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/host.hpp"

namespace py = pybind11;

namespace margformer::bindings {
namespace {

template <typename T>
using Dense = py::array_t<T, py::array::c_style>;

using Table = std::pair<std::vector<double>, std::vector<double>>;

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

bool has_shape(const py::array& array, const std::vector<std::int64_t>& shape) {
    return std::equal(shape.begin(), shape.end(), array.shape(), array.shape() + array.ndim());
}

cpu::ProfileTable table_of(const Table& table) {
    require(!table.first.empty() && table.first.size() == table.second.size(), "a profile has Gaussians");
    return {table.first, table.second};
}

template <typename T>
void fit_profiles(const Dense<T>& images, const Dense<double>& centre, const Dense<double>& covariance,
                  const Dense<double>& share, const Dense<double>& noise, const Dense<double>& gain,
                  std::int64_t reference, Dense<double>& flux, Dense<double>& shape, Dense<double>& chi2,
                  Dense<double>& amplitude, Dense<std::int64_t>& steps, const Table& spheroid, const Table& disc,
                  const std::vector<double>& starts, const py::dict& limits, int threads,
                  const std::string& target) {
    require(images.ndim() == 4 && images.shape(2) == images.shape(3) && share.ndim() == 3, "images are (N, B, S, S)");
    cpu::ProfileFitProblem<T> problem;
    problem.count = images.shape(0);
    problem.bands = images.shape(1);
    problem.size = images.shape(2);
    problem.gaussians = share.shape(2);
    problem.reference = reference;
    const std::int64_t n = problem.count, b = problem.bands, k = problem.gaussians;
    require(reference >= 0 && reference < b, "the reference is one of the bands");
    require(has_shape(centre, {n, b, 2}) && has_shape(covariance, {n, b, k, 3}) && has_shape(share, {n, b, k}) &&
                has_shape(noise, {n, b}) && has_shape(gain, {n, b}),
            "inputs have the shapes of the images");
    require(has_shape(flux, {n, b}) && has_shape(shape, {n, b + 1, 3}) && has_shape(chi2, {n, b + 1}) &&
                has_shape(amplitude, {n, b + 1}) && has_shape(steps, {n, b + 1}),
            "outputs have the shapes of the images");
    problem.images = images.data();
    problem.centre = centre.data();
    problem.covariance = covariance.data();
    problem.share = share.data();
    problem.noise = noise.data();
    problem.gain = gain.data();
    cpu::ProfileFitSettings settings;
    settings.spheroid = table_of(spheroid);
    settings.disc = table_of(disc);
    settings.starts = starts;
    const auto limit = [&](const char* name) { return limits[name].cast<double>(); };
    settings.fit_radius = limit("fit_radius");
    settings.large = limit("large");
    settings.min_radius = limit("min_radius");
    settings.max_radius = limit("max_radius");
    settings.max_ellipticity = limit("max_ellipticity");
    settings.model_error = limit("model_error");
    settings.max_change = limit("max_change");
    settings.tolerance = limit("tolerance");
    settings.first_damping = limit("first_damping");
    settings.max_damping = limit("max_damping");
    settings.max_steps = static_cast<std::int64_t>(limit("max_steps"));
    const cpu::ProfileFitResult result{flux.mutable_data(), shape.mutable_data(), chi2.mutable_data(),
                                       amplitude.mutable_data(), steps.mutable_data()};
    const py::gil_scoped_release unlocked;
    cpu::fit_profiles(problem, settings, result, std::max(threads, 1), target);
}

template <typename T>
void define(py::module_& module) {
    // No conversion: a converted copy would be written instead of what was given.
    module.def("fit_profiles", &fit_profiles<T>, py::arg("images").noconvert(), py::arg("centre").noconvert(),
               py::arg("covariance").noconvert(), py::arg("share").noconvert(), py::arg("noise").noconvert(),
               py::arg("gain").noconvert(), py::kw_only(), py::arg("reference"), py::arg("flux").noconvert(),
               py::arg("shape").noconvert(), py::arg("chi2").noconvert(), py::arg("amplitude").noconvert(),
               py::arg("steps").noconvert(), py::arg("spheroid"), py::arg("disc"), py::arg("starts"),
               py::arg("limits"), py::arg("threads"), py::arg("target"));
}

}  // namespace

void define_profile_fit(py::module_& module) {
    define<float>(module);
    define<double>(module);
}

}  // namespace margformer::bindings
