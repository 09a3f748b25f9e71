// NT-Xent on NumPy arrays.
#include "cpu/nt_xent/nt_xent.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "bindings/host.hpp"

namespace py = pybind11;

namespace margformer::bindings {
namespace {

template <typename T>
using Dense = py::array_t<T, py::array::c_style>;

using Group = std::optional<Dense<std::int32_t>>;

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

template <typename T>
cpu::NtXentProblem<T> problem_of(const Dense<T>& z, const Group& group, std::int64_t first_row, std::int64_t num_own,
                                 double temperature, bool halves) {
    require(z.ndim() == 2 && z.shape(0) % 2 == 0, "z is (2N, D)");
    require(!group || (group->ndim() == 1 && 2 * group->shape(0) == z.shape(0)), "group is (N,)");
    require(first_row >= 0 && num_own >= 0 && first_row % 2 == 0 && num_own % 2 == 0 &&
                num_own <= z.shape(0) - first_row,
            "own rows are pairs of z");
    require(temperature > 0, "temperature is above 0");
    cpu::NtXentProblem<T> problem;
    problem.z = z.data();
    problem.group = group ? group->data() : nullptr;
    problem.num_rows = z.shape(0);
    problem.dim = z.shape(1);
    problem.first_row = first_row;
    problem.num_own = num_own;
    problem.temperature = temperature;
    problem.halves = halves;
    return problem;
}

constexpr std::size_t kAlignment = 64;

// Where to work.
template <typename T>
void* room_in(Dense<std::uint8_t>& workspace, const cpu::NtXentProblem<T>& problem, bool backward, int threads,
              const std::string& target) {
    void* room = workspace.mutable_data();
    auto size = static_cast<std::size_t>(workspace.size());
    const std::size_t needed = cpu::nt_xent_workspace(problem, backward, threads, target);
    require(std::align(kAlignment, needed, room, size) != nullptr, "the workspace is too small");
    return room;
}

template <typename T>
std::size_t workspace(const Dense<T>& z, std::int64_t num_own, bool halves, bool backward, int threads,
                      const std::string& target) {
    const auto problem = problem_of<T>(z, std::nullopt, 0, num_own, 1, halves);
    return cpu::nt_xent_workspace(problem, backward, threads, target) + kAlignment;
}

template <typename T>
void sums(const Dense<T>& z, const Group& group, Dense<T>& out, Dense<std::uint8_t>& space, std::int64_t first_row,
          double temperature, bool halves, int threads, const std::string& target) {
    const auto problem = problem_of(z, group, first_row, out.size(), temperature, halves);
    T* to = out.mutable_data();
    void* in = room_in(space, problem, false, threads, target);
    const py::gil_scoped_release unlocked;
    cpu::log_sum_of_negatives(problem, to, in, threads, target);
}

template <typename T>
void gradient(const Dense<T>& z, const Group& group, const Dense<T>& log_total, Dense<T>& dz,
              Dense<std::uint8_t>& space, std::int64_t first_row, double temperature, bool halves, int threads,
              const std::string& target) {
    require(dz.ndim() == 2, "dz has two axes");
    const auto problem = problem_of(z, group, first_row, dz.shape(0), temperature, halves);
    const std::int64_t columns = (problem.dim + cpu::kGradientColumns - 1) / cpu::kGradientColumns;
    require(dz.shape(1) == columns * cpu::kGradientColumns, "rows of dz are padded");
    require(log_total.size() == problem.num_rows, "log_total is (2N,)");
    T* to = dz.mutable_data();
    void* in = room_in(space, problem, true, threads, target);
    const py::gil_scoped_release unlocked;
    cpu::gradient_of_negatives(problem, log_total.data(), to, in, threads, target);
}

template <typename T>
void define(py::module_& module) {
    // No conversion: a converted copy would be written instead of what was given.
    module.def("nt_xent_workspace", &workspace<T>, py::arg("z").noconvert(), py::kw_only(), py::arg("num_own"),
               py::arg("halves"), py::arg("backward"), py::arg("threads"), py::arg("target"));
    module.def("nt_xent_sums", &sums<T>, py::arg("z").noconvert(), py::arg("group").noconvert(),
               py::arg("out").noconvert(), py::arg("workspace").noconvert(), py::kw_only(), py::arg("first_row"),
               py::arg("temperature"), py::arg("halves"), py::arg("threads"), py::arg("target"));
    module.def("nt_xent_gradient", &gradient<T>, py::arg("z").noconvert(), py::arg("group").noconvert(),
               py::arg("log_total").noconvert(), py::arg("dz").noconvert(), py::arg("workspace").noconvert(),
               py::kw_only(), py::arg("first_row"), py::arg("temperature"), py::arg("halves"), py::arg("threads"),
               py::arg("target"));
}

}  // namespace

void define_nt_xent(py::module_& module) {
    define<float>(module);
    define<double>(module);
}

}  // namespace margformer::bindings
