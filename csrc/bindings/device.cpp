// Device functions: addresses, shapes, strides and a stream in; compiled with CUDA only. Nothing here knows a
// framework: whoever owns the memory passes where it lies, and has checked that the layout stays inside.
#include "bindings/device.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>

#include "core/pixels.hpp"
#include "core/view_block.hpp"
#include "cuda/launch.hpp"

namespace py = pybind11;

namespace margformer::bindings {
namespace {

using Axes = std::array<std::int64_t, kAxes>;

PixelLayout layout_of(char kind, std::size_t item_size, bool swapped, const Axes& shape,
                      const Axes& strides) {
    PixelLayout layout;
    layout.type = pixel_type(kind, item_size);
    layout.swapped = swapped;
    std::copy(shape.begin(), shape.end(), layout.shape);
    std::copy(strides.begin(), strides.end(), layout.strides);
    return layout;
}

void decode_cuda(std::uintptr_t first, char kind, std::size_t item_size, bool swapped, const Axes& shape,
                 const Axes& strides, std::uintptr_t rows, std::int64_t num_rows, std::uintptr_t out,
                 double bscale, double bzero, std::optional<std::int64_t> blank, int device,
                 std::uintptr_t stream) {
    const PixelLayout layout = layout_of(kind, item_size, swapped, shape, strides);
    const Scaling scaling{bscale, bzero, blank.value_or(0), blank.has_value()};
    const py::gil_scoped_release unlocked;
    cuda::decode(reinterpret_cast<const unsigned char*>(first), layout, scaling,
                 reinterpret_cast<const std::int64_t*>(rows), num_rows, reinterpret_cast<float*>(out),
                 {device, stream});
}

void views_cuda(std::uintptr_t first, char kind, std::size_t item_size, bool swapped, const Axes& shape,
                const Axes& strides, std::uintptr_t rows, std::uintptr_t objid, std::int64_t num_rows,
                std::uintptr_t out, double bscale, double bzero, std::optional<std::int64_t> blank,
                const ViewSettings& settings, std::uintptr_t noise, std::uint64_t seed, std::uint32_t epoch,
                int num_views, int patch, int device, std::uintptr_t stream) {
    BlockProblem problem;
    problem.first = reinterpret_cast<const unsigned char*>(first);
    problem.layout = layout_of(kind, item_size, swapped, shape, strides);
    problem.rows = reinterpret_cast<const std::int64_t*>(rows);
    problem.objid = reinterpret_cast<const std::int64_t*>(objid);
    problem.num_rows = num_rows;
    problem.settings = settings;
    problem.key = {seed, epoch};
    problem.noise = reinterpret_cast<const float*>(noise);
    problem.num_views = num_views;
    problem.size = static_cast<int>(shape[3]);
    problem.bands = static_cast<int>(shape[1]);
    problem.patch = patch;
    problem.by_size = Divider::by(static_cast<std::uint32_t>(problem.size));
    problem.by_bands = Divider::by(static_cast<std::uint32_t>(problem.bands));
    const Scaling scaling{bscale, bzero, blank.value_or(0), blank.has_value()};
    const py::gil_scoped_release unlocked;
    cuda::views(problem, scaling, reinterpret_cast<float*>(out), {device, stream});
}

py::tuple cuda_devices() {
    const cuda::Devices devices = cuda::find_devices();
    return py::make_tuple(devices.count, devices.why_none);
}

}  // namespace

void define_device(py::module_& module) {
    module.def("cuda_devices", &cuda_devices);
    module.def("decode_cuda", &decode_cuda, py::kw_only(), py::arg("first"), py::arg("kind"),
               py::arg("item_size"), py::arg("swapped"), py::arg("shape"), py::arg("strides"),
               py::arg("rows"), py::arg("num_rows"), py::arg("out"), py::arg("bscale"), py::arg("bzero"),
               py::arg("blank"), py::arg("device"), py::arg("stream"));
    module.def("views_cuda", &views_cuda, py::kw_only(), py::arg("first"), py::arg("kind"),
               py::arg("item_size"), py::arg("swapped"), py::arg("shape"), py::arg("strides"),
               py::arg("rows"), py::arg("objid"), py::arg("num_rows"), py::arg("out"), py::arg("bscale"),
               py::arg("bzero"), py::arg("blank"), py::arg("settings"), py::arg("noise"), py::arg("seed"),
               py::arg("epoch"), py::arg("num_views"), py::arg("patch"), py::arg("device"),
               py::arg("stream"));
}

}  // namespace margformer::bindings
