// Parts of a network's layers: dense NumPy buffers in, a caller-owned one out, the interpreter lock released.
#include <pybind11/numpy.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "bindings/host.hpp"
#include "core/error.hpp"
#include "cpu/gelu_dropout.hpp"

namespace py = pybind11;

namespace margformer::bindings {
namespace {

// Check that arrays are dense, of one size and type: float32, or uint16 for the bits of bfloat16.
void check_alike(const py::array& first, const py::array& other) {
    const bool is_dense = (first.flags() & other.flags() & py::array::c_style) != 0;
    const py::dtype dtype = first.dtype();
    const bool is_known = dtype.is(py::dtype::of<float>()) || dtype.is(py::dtype::of<std::uint16_t>());
    if (!is_dense || !is_known || !other.dtype().is(dtype) || first.size() != other.size()) {
        throw DataError("the arrays are not alike", "", "dense ones of one size, all float32 or all uint16");
    }
}

template <typename T>
void forward(const py::array& x, cpu::Dropout dropout, py::array& out, int threads) {
    const auto* from = static_cast<const T*>(x.data());
    auto* to = static_cast<T*>(out.mutable_data());
    const py::gil_scoped_release unlocked;
    cpu::gelu_dropout(from, x.size(), dropout, to, std::max(threads, 1));
}

template <typename T>
void backward(const py::array& grad, const py::array& x, cpu::Dropout dropout, py::array& out, int threads) {
    const auto* incoming = static_cast<const T*>(grad.data());
    const auto* from = static_cast<const T*>(x.data());
    auto* to = static_cast<T*>(out.mutable_data());
    const py::gil_scoped_release unlocked;
    cpu::gelu_dropout_backward(incoming, from, x.size(), dropout, to, std::max(threads, 1));
}

void check_threshold(std::uint32_t threshold) {
    if (threshold > 65535) {
        throw DataError("threshold is " + std::to_string(threshold), "", "0 to 65535");
    }
}

void gelu_dropout(const py::array& x, std::uint64_t key, std::uint32_t threshold, py::array& out, int threads) {
    check_alike(x, out);
    check_threshold(threshold);
    x.itemsize() == sizeof(float) ? forward<float>(x, {key, threshold}, out, threads)
                                  : forward<std::uint16_t>(x, {key, threshold}, out, threads);
}

void gelu_dropout_backward(const py::array& grad, const py::array& x, std::uint64_t key,
                           std::uint32_t threshold, py::array& out, int threads) {
    check_alike(grad, x);
    check_alike(x, out);
    check_threshold(threshold);
    x.itemsize() == sizeof(float) ? backward<float>(grad, x, {key, threshold}, out, threads)
                                  : backward<std::uint16_t>(grad, x, {key, threshold}, out, threads);
}

}  // namespace

void define_network(py::module_& module) {
    module.def("gelu_dropout", &gelu_dropout, py::arg("x").noconvert(), py::arg("key"), py::arg("threshold"),
               py::arg("out").noconvert(), py::arg("threads"));
    module.def("gelu_dropout_backward", &gelu_dropout_backward, py::arg("grad").noconvert(),
               py::arg("x").noconvert(), py::arg("key"), py::arg("threshold"), py::arg("out").noconvert(),
               py::arg("threads"));
}

}  // namespace margformer::bindings
