// Host functions: NumPy buffers in, caller-owned buffers out, the interpreter lock released while they work.
#include "bindings/host.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/error.hpp"
#include "core/fits_header.hpp"
#include "core/pixels.hpp"
#include "core/views.hpp"
#include "cpu/decode.hpp"
#include "cpu/views.hpp"

namespace py = pybind11;

namespace margformer::bindings {
namespace {

using DenseRows = py::array_t<std::int64_t, py::array::c_style>;
using DenseFloats = py::array_t<float, py::array::c_style>;

PixelLayout layout_of(const py::array& array) {
    PixelLayout layout;
    const py::dtype dtype = array.dtype();
    layout.type = pixel_type(dtype.kind(), static_cast<std::size_t>(dtype.itemsize()));
    layout.swapped = !dtype.attr("isnative").cast<bool>();
    if (array.ndim() < 1 || array.ndim() > kAxes) {
        throw DataError("pixels have " + std::to_string(array.ndim()) + " axes", "", "1 to 4");
    }
    layout.shape[0] = array.shape(0);
    layout.strides[0] = array.strides(0);
    // Axes after the rows stand at the end, so that the last one is the line.
    for (py::ssize_t axis = 1; axis < array.ndim(); ++axis) {
        const auto place = static_cast<std::size_t>(kAxes - array.ndim() + axis);
        layout.shape[place] = array.shape(axis);
        layout.strides[place] = array.strides(axis);
    }
    return layout;
}

void decode(const py::array& array, const DenseRows& rows, DenseFloats& out, double bscale, double bzero,
            std::optional<std::int64_t> blank, int threads) {
    const PixelLayout layout = layout_of(array);
    if (rows.ndim() != 1 || out.size() != rows.size() * layout.pixels_per_row()) {
        throw DataError("out has " + std::to_string(out.size()) + " pixels", "",
                        std::to_string(rows.size() * layout.pixels_per_row()));
    }
    const Scaling scaling{bscale, bzero, blank.value_or(0), blank.has_value()};
    const auto* first = static_cast<const unsigned char*>(array.data());
    const std::int64_t* row = rows.data();
    float* pixels = out.mutable_data();
    const py::gil_scoped_release unlocked;
    cpu::decode(first, layout, scaling, row, rows.size(), pixels, std::max(threads, 1));
}

void views(const std::vector<py::array>& parts, const DenseRows& rows, const std::optional<DenseRows>& objid,
           DenseFloats& out, double bscale, double bzero, std::optional<std::int64_t> blank,
           const ViewSettings& settings, const DenseFloats& noise, std::uint64_t seed, std::uint32_t epoch,
           int num_views, int patch, int threads) {
    cpu::ViewProblem problem;
    if (parts.empty()) throw DataError("there are no pixels");
    for (const py::array& part : parts) {
        problem.parts.push_back({static_cast<const unsigned char*>(part.data()), layout_of(part)});
    }
    const PixelLayout& layout = problem.parts[0].layout;
    if (rows.ndim() != 1 || (objid && objid->size() != rows.size()) ||
        out.size() != num_views * rows.size() * layout.pixels_per_row()) {
        throw DataError("out has " + std::to_string(out.size()) + " values", "",
                        std::to_string(num_views * rows.size() * layout.pixels_per_row()));
    }
    if (settings.has_noise && noise.size() != layout.shape[1]) {
        throw DataError("noise has " + std::to_string(noise.size()) + " values", "",
                        "one for each of " + std::to_string(layout.shape[1]) + " bands");
    }
    problem.scaling = {bscale, bzero, blank.value_or(0), blank.has_value()};
    problem.rows = rows.data();
    problem.objid = objid ? objid->data() : nullptr;
    problem.num_rows = rows.size();
    problem.settings = settings;
    problem.key = {seed, epoch};
    problem.noise = noise.data();
    problem.num_views = num_views;
    problem.patch = patch;
    float* tokens = out.mutable_data();
    const py::gil_scoped_release unlocked;
    cpu::views(problem, tokens, std::max(threads, 1));
}

ViewSettings view_settings(const std::string& mode, const std::string& interpolation,
                           const std::string& border, double max_angle_deg, double max_shift, bool flips,
                           double jitter, bool has_noise, bool standardise) {
    ViewSettings settings;
    settings.sampling = mode == "reference"           ? Sampling::two_step
                        : interpolation == "bilinear" ? Sampling::bilinear
                                                      : Sampling::nearest;
    settings.extends_edge = border == "edge";
    settings.max_angle_deg = max_angle_deg;
    settings.max_shift = max_shift;
    settings.flips = flips;
    settings.jitter = jitter;
    settings.has_noise = has_noise;
    settings.standardise = standardise;
    return settings;
}

// The values of a header as Python objects.
struct ToPython {
    py::object operator()(std::monostate) const { return py::none(); }
    py::object operator()(bool value) const { return py::bool_(value); }
    py::object operator()(std::int64_t value) const { return py::int_(value); }
    py::object operator()(double value) const { return py::float_(value); }
    py::object operator()(const std::string& value) const { return py::str(value); }
    py::object operator()(const fits::Malformed& value) const {
        return py::make_tuple(value.reason, value.where);
    }
};

py::tuple parse_header(const py::buffer& buffer, std::int64_t offset) {
    const py::buffer_info info = buffer.request();
    if (info.itemsize != 1 || info.ndim != 1 || (info.size > 1 && info.strides[0] != 1)) {
        throw DataError("the buffer is no dense row of bytes");
    }
    fits::Header header;
    {
        const py::gil_scoped_release unlocked;
        header = fits::parse_header(static_cast<const unsigned char*>(info.ptr),
                                    static_cast<std::size_t>(info.size), offset);
    }
    py::dict values;
    for (const fits::Entry& entry : header.entries) {
        // Of a repeated keyword the first counts.
        values.attr("setdefault")(entry.key, std::visit(ToPython{}, entry.value));
    }
    py::tuple shape(header.shape.size());
    for (std::size_t axis = 0; axis < header.shape.size(); ++axis) shape[axis] = header.shape[axis];
    return py::make_tuple(values, header.text, header.bitpix, shape, header.data_offset, header.data_size,
                          header.next_offset);
}

}  // namespace

void define_host(py::module_& module) {
    module.def("decode", &decode, py::arg("array").noconvert(), py::arg("rows").noconvert(),
               py::arg("out").noconvert(), py::arg("bscale"), py::arg("bzero"), py::arg("blank"),
               py::arg("threads"));
    py::class_<ViewSettings>(module, "ViewSettings")
        .def(py::init(&view_settings), py::kw_only(), py::arg("mode"), py::arg("interpolation"),
             py::arg("border"), py::arg("max_angle_deg"), py::arg("max_shift"), py::arg("flips"),
             py::arg("jitter"), py::arg("has_noise"), py::arg("standardise"));
    module.def("views", &views, py::kw_only(), py::arg("parts"), py::arg("rows").noconvert(),
               py::arg("objid").noconvert(), py::arg("out").noconvert(), py::arg("bscale"), py::arg("bzero"),
               py::arg("blank"), py::arg("settings"), py::arg("noise"), py::arg("seed"), py::arg("epoch"),
               py::arg("num_views"), py::arg("patch"), py::arg("threads"));
    module.def("parse_header", &parse_header, py::arg("buffer"), py::arg("offset"));
}

}  // namespace margformer::bindings
