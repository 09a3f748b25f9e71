// Errors of the CUDA runtime as exceptions, and a device that is current for one scope.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace margformer::cuda {

inline void check(cudaError_t status, const char* doing) {
    if (status != cudaSuccess) {
        throw std::runtime_error(std::string(doing) + " failed: " + cudaGetErrorString(status));
    }
}

class DeviceScope {
  public:
    explicit DeviceScope(int device) {
        check(cudaGetDevice(&before_), "asking for the current CUDA device");
        check(cudaSetDevice(device), "choosing the CUDA device");
    }
    ~DeviceScope() { cudaSetDevice(before_); }
    DeviceScope(const DeviceScope&) = delete;
    DeviceScope& operator=(const DeviceScope&) = delete;

  private:
    int before_ = 0;
};

}  // namespace margformer::cuda
