#include "cuda/check.cuh"
#include "cuda/launch.hpp"

namespace margformer::cuda {

namespace {

// CUDA versions are coded as 1000 * major + 10 * minor.
std::string version_text(int version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// The runtime calls a missing driver an old one.
std::string explain_insufficient_driver() {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    if (driver == 0) return "no NVIDIA driver is installed";
    return "the NVIDIA driver supports CUDA " + version_text(driver) + ", the module was built with " +
           version_text(CUDART_VERSION);
}

}  // namespace

Devices find_devices() {
    Devices devices;
    const cudaError_t status = cudaGetDeviceCount(&devices.count);
    if (status != cudaSuccess) {
        devices.count = 0;
        devices.why_none = status == cudaErrorInsufficientDriver ? explain_insufficient_driver()
                                                                 : cudaGetErrorString(status);
        // No device is an answer, not an error: clear it, so that a later launch does not report it.
        cudaGetLastError();
    }
    return devices;
}

}  // namespace margformer::cuda
