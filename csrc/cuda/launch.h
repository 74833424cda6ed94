// How the host launches a kernel: every call is checked, and an error names the kernel and the shape of its grid.
#pragma once

#include <stdexcept>
#include <string>

#include "device.cuh"

namespace rnnkernels::cuda {

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  unsigned cluster = 1;      // blocks
  bool cooperative = false;  // all blocks are there at once
  cudaStream_t stream = nullptr;
};

inline void check(cudaError_t status, const std::string& what) {
  if (status != cudaSuccess) throw std::runtime_error(what + ": " + cudaGetErrorString(status));
}

inline std::string describe(const char* kernel, const LaunchShape& s) {
  auto sizes = [](dim3 d) {
    return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
  };
  std::string text = std::string(kernel) + ": grid " + sizes(s.grid) + ", block " + sizes(s.block) + ", " +
                     std::to_string(s.shared_bytes) + " bytes of shared memory";
  if (s.cluster > 1) text += ", clusters of " + std::to_string(s.cluster);
  if (s.cooperative) text += ", cooperative";
  return text;
}

template <class... P, class... A>
void launch(const char* name, const LaunchShape& shape, void (*kernel)(P...), A... arguments) {
  constexpr size_t without_asking = 48 * 1024;
  constexpr unsigned portable_cluster = 8;
  if (shape.shared_bytes > without_asking)
    check(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes)),
        describe(name, shape));
  if (shape.cluster > portable_cluster)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), describe(name, shape));
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  config.attrs = attributes;
  if (shape.cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs++].val.clusterDim = {shape.cluster, 1, 1};
  }
  if (shape.cooperative) {
    attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
    attributes[config.numAttrs++].val.cooperative = 1;
  }
  check(cudaLaunchKernelEx(&config, kernel, P(arguments)...), describe(name, shape));
}

}  // namespace rnnkernels::cuda
