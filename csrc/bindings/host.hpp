// What the module offers on the host.
#pragma once

#include <pybind11/pybind11.h>

namespace margformer::bindings {

void define_host(pybind11::module_& module);
void define_cutouts(pybind11::module_& module);
void define_encoder(pybind11::module_& module);
void define_nt_xent(pybind11::module_& module);
void define_profile_fit(pybind11::module_& module);

}  // namespace margformer::bindings
