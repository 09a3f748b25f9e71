// Reading many small FITS files: paths in, a caller-owned buffer out, the interpreter lock released.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/host.hpp"
#include "core/error.hpp"
#include "core/fits_image.hpp"
#include "cpu/read_cutouts.hpp"

namespace py = pybind11;

namespace margformer::bindings {
namespace {

using DenseBytes = py::array_t<std::uint8_t, py::array::c_style>;

// Paths as the system has them. Names that no file can have become the empty one, which cannot be opened
// either: the system would take a name to end at a null byte.
std::vector<std::string> encoded(const py::list& paths) {
    std::vector<std::string> result;
    result.reserve(paths.size());
    for (const py::handle path : paths) {
        const auto bytes = py::reinterpret_steal<py::bytes>(PyUnicode_EncodeFSDefault(path.ptr()));
        if (!bytes && !PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) throw py::error_already_set();
        PyErr_Clear();
        result.emplace_back(bytes ? std::string(bytes) : std::string());
        if (result.back().find('\0') != std::string::npos) result.back().clear();
    }
    return result;
}

std::int64_t read_cutouts(const py::list& list, std::int64_t begin,
                          std::vector<std::int64_t> hdus, int bitpix, const std::vector<std::int64_t>& shape,
                          double bscale, double bzero, std::optional<std::int64_t> blank, bool decode,
                          std::size_t max_file_size, DenseBytes& out, int threads) {
    if (shape.empty() || shape.size() > fits::kMaxImageAxes) {
        throw DataError("images have " + std::to_string(shape.size()) + " axes", "", "1 to 3");
    }
    const std::vector<std::string> paths = encoded(list);
    cpu::CutoutPlan plan;
    plan.hdus = std::move(hdus);
    plan.expected.bitpix = bitpix;
    plan.expected.num_axes = static_cast<int>(shape.size());
    std::copy(shape.begin(), shape.end(), plan.expected.shape.begin());
    plan.expected.scaling = {bscale, bzero, blank.value_or(0), blank.has_value()};
    plan.decode = decode;
    plan.max_file_size = max_file_size;
    const std::size_t wanted = paths.size() * plan.row_size();
    if (begin < 0 || static_cast<std::size_t>(out.size()) != wanted) {
        throw DataError("out has " + std::to_string(out.size()) + " bytes", "", std::to_string(wanted));
    }
    unsigned char* bytes = out.mutable_data();
    const py::gil_scoped_release unlocked;
    return cpu::read_cutouts(paths, begin, plan, bytes, std::max(threads, 1));
}

}  // namespace

void define_cutouts(py::module_& module) {
    module.def("read_cutouts", &read_cutouts, py::arg("paths"), py::kw_only(), py::arg("begin"),
               py::arg("hdus"), py::arg("bitpix"), py::arg("shape"), py::arg("bscale"), py::arg("bzero"),
               py::arg("blank"), py::arg("decode"), py::arg("max_file_size"), py::arg("out").noconvert(),
               py::arg("threads"));
}

}  // namespace margformer::bindings
