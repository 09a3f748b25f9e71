// The module: what it was built from and with, and how its errors reach Python.
#include <pybind11/pybind11.h>

#include <string>

#include "bindings/host.hpp"
#include "core/error.hpp"
#if MARGFORMER_WITH_CUDA
#include "bindings/device.hpp"
#endif

namespace py = pybind11;

namespace {

// Set `error` as the package's exception of this name.
void set_python_error(const char* name, const margformer::DataError& error) {
    const auto optional = [](const std::string& text) -> py::object {
        if (text.empty()) return py::none();
        return py::str(text);
    };
    const py::object type = py::module_::import("margformer_fast.errors").attr(name);
    const py::object value = type(error.problem, py::arg("where") = optional(error.where),
                                  py::arg("expected") = optional(error.expected));
    PyErr_SetObject(type.ptr(), value.ptr());
}

void translate(std::exception_ptr pointer) {
    try {
        if (pointer) std::rethrow_exception(pointer);
    } catch (const margformer::FormatError& error) {
        set_python_error("FitsFormatError", error);
    } catch (const margformer::DataError& error) {
        set_python_error("DataError", error);
    }
}

py::dict build_info() {
    using namespace py::literals;
    return py::dict("version"_a = MARGFORMER_VERSION, "source_hash"_a = MARGFORMER_SOURCE_HASH,
                    "compiler"_a = MARGFORMER_COMPILER, "build_type"_a = MARGFORMER_BUILD_TYPE,
                    "cuda"_a = static_cast<bool>(MARGFORMER_WITH_CUDA),
                    "cuda_why_not"_a = MARGFORMER_CUDA_WHY_NOT, "cuda_compiler"_a = MARGFORMER_CUDA_COMPILER,
                    "cuda_architectures"_a = MARGFORMER_CUDA_ARCHITECTURES);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
    py::register_local_exception_translator(&translate);
    module.def("build_info", &build_info);
    margformer::bindings::define_host(module);
    margformer::bindings::define_cutouts(module);
    margformer::bindings::define_encoder(module);
    margformer::bindings::define_nt_xent(module);
    margformer::bindings::define_profile_fit(module);
#if MARGFORMER_WITH_CUDA
    margformer::bindings::define_device(module);
#endif
}
