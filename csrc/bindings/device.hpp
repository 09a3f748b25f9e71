// What the module offers on a CUDA device.
#pragma once

#include <pybind11/pybind11.h>

namespace margformer::bindings {

void define_device(pybind11::module_& module);

}  // namespace margformer::bindings
