// Device functions: addresses, shapes, strides and a stream in; compiled with CUDA only. Nothing here knows a
// framework: whoever owns the memory passes where it lies, and has checked that the layout stays inside.
#include "bindings/device.hpp"

#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <optional>

#include "core/pixels.hpp"
#include "cuda/launch.hpp"

namespace py = pybind11;

namespace margformer::bindings {
namespace {

using Axes = std::array<std::int64_t, kAxes>;

void decode_cuda(std::uintptr_t first, char kind, std::size_t item_size, bool swapped, const Axes& shape,
                 const Axes& strides, std::uintptr_t rows, std::int64_t num_rows, std::uintptr_t out,
                 double bscale, double bzero, std::optional<std::int64_t> blank, int device,
                 std::uintptr_t stream) {
    PixelLayout layout;
    layout.type = pixel_type(kind, item_size);
    layout.swapped = swapped;
    for (int axis = 0; axis < kAxes; ++axis) {
        const auto place = static_cast<std::size_t>(axis);
        layout.shape[axis] = shape[place];
        layout.strides[axis] = strides[place];
    }
    const Scaling scaling{bscale, bzero, blank.value_or(0), blank.has_value()};
    const py::gil_scoped_release unlocked;
    cuda::decode(reinterpret_cast<const unsigned char*>(first), layout, scaling,
                 reinterpret_cast<const std::int64_t*>(rows), num_rows, reinterpret_cast<float*>(out),
                 {device, stream});
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
}

}  // namespace margformer::bindings
