// What does it cost to start a kernel: alone, cooperatively, in clusters, from a graph, and chained in a graph with
// programmatic dependent launch? The tier of one GEMM and one cell kernel a step lives on the last two.
// Also: the device's properties, and how many clusters it keeps active, by size, shared memory and threads.
//   launch [device|clusters|costs]
#include "probe.h"

#include <chrono>
#include <string>

constexpr int kKernels = 1000;

__global__ void empty(uint32_t*) {}

// Waits for the kernel before it, and lets the next one start at once.
__global__ void chained(uint32_t*) {
  asm volatile("griddepcontrol.launch_dependents;\ngriddepcontrol.wait;" ::: "memory");
}

// One thread block adds to a word that the kernel before it wrote: the dependency of a recurrence.
__global__ void dependent(uint32_t* word) {
  asm volatile("griddepcontrol.launch_dependents;\ngriddepcontrol.wait;" ::: "memory");
  if (threadIdx.x == 0 && blockIdx.x == 0) *word += 1;
}

__global__ void clocks(uint64_t* out) {
  uint64_t start, now, cycles = clock64();
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
  do asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  while (now - start < 20'000'000);
  out[0] = clock64() - cycles;
  out[1] = now - start;
}

void print_device() {
  cudaDeviceProp d;
  CHECK(cudaGetDeviceProperties(&d, 0));
  int driver, runtime;
  CHECK(cudaDriverGetVersion(&driver));
  CHECK(cudaRuntimeGetVersion(&runtime));
  uint64_t *ticks = device_zeros<uint64_t>(2), host[2];
  for (int round = 0; round < 2; round++) {
    clocks<<<1, 1>>>(ticks);
    CHECK(cudaDeviceSynchronize());
  }
  CHECK(cudaMemcpy(host, ticks, 16, cudaMemcpyDeviceToHost));
  std::printf(
      "{\"probe\": \"device\", \"name\": \"%s\", \"compute_capability\": \"%d.%d\", \"multiprocessors\": %d, "
      "\"l2_bytes\": "
      "%d, \"shared_bytes_per_block\": %zu, \"memory_bytes\": %zu, \"driver\": %d, \"runtime\": %d, "
      "\"measured_mhz\": %.0f}\n",
      d.name, d.major, d.minor, d.multiProcessorCount, d.l2CacheSize, d.sharedMemPerBlockOptin, d.totalGlobalMem,
      driver, runtime, host[0] * 1e3 / host[1]);
}

void print_active_clusters() {
  for (int cluster : {2, 4, 8, 12, 16})
    for (int threads : {256, 512, 1024})
      for (int kib : {32, 100, 164, 200, 227}) {
        size_t shared = size_t(kib) * 1024;
        CHECK(cudaFuncSetAttribute(empty, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)));
        CHECK(cudaFuncSetAttribute(empty, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
        cudaLaunchConfig_t config = {};
        config.gridDim = cluster;
        config.blockDim = threads;
        config.dynamicSmemBytes = shared;
        cudaLaunchAttribute attribute = {};
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim = {unsigned(cluster), 1, 1};
        config.attrs = &attribute;
        config.numAttrs = 1;
        int active = 0;
        cudaError_t status = cudaOccupancyMaxActiveClusters(&active, empty, &config);
        std::printf(
            "{\"probe\": \"active clusters\", \"cluster\": %d, \"threads\": %d, \"shared_kib\": %d, \"active\": %d, "
            "\"status\": \"%s\"}\n",
            cluster, threads, kib, active, cudaGetErrorName(status));
      }
}

cudaError_t launch_with(void (*kernel)(uint32_t*), int blocks, int threads, cudaLaunchAttributeID id, int value,
                        cudaStream_t stream, uint32_t* word) {
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.stream = stream;
  cudaLaunchAttribute attribute = {};
  attribute.id = id;
  if (id == cudaLaunchAttributeClusterDimension) attribute.val.clusterDim = {unsigned(value), 1, 1};
  if (id == cudaLaunchAttributeCooperative) attribute.val.cooperative = value;
  if (id == cudaLaunchAttributeProgrammaticStreamSerialization)
    attribute.val.programmaticStreamSerializationAllowed = value;
  config.attrs = &attribute;
  config.numAttrs = id == cudaLaunchAttributeIgnore ? 0 : 1;
  return cudaLaunchKernelEx(&config, kernel, word);
}

struct Kind {
  const char* name;
  void (*kernel)(uint32_t*);
  cudaLaunchAttributeID id;
  int value;
};

void print_costs() {
  uint32_t* word = device_zeros<uint32_t>(1);
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  const Kind kinds[] = {
      {"plain", empty, cudaLaunchAttributeIgnore, 0},
      {"cooperative", empty, cudaLaunchAttributeCooperative, 1},
      {"cluster of 8", empty, cudaLaunchAttributeClusterDimension, 8},
      {"programmatic dependent", chained, cudaLaunchAttributeProgrammaticStreamSerialization, 1},
      {"programmatic dependent, one word", dependent, cudaLaunchAttributeProgrammaticStreamSerialization, 1},
  };
  for (const Kind& kind : kinds)
    for (int blocks : {8, 128})
      for (int threads : {128, 512}) {
        auto run = [&](cudaStream_t where) {
          for (int i = 0; i < kKernels; i++)
            CHECK(launch_with(kind.kernel, blocks, threads, kind.id, kind.value, where, word));
        };
        double stream_us = median_us(
            [&] {
              run(stream);
              CHECK(cudaStreamSynchronize(stream));
            },
            5);
        cudaGraph_t graph;
        cudaGraphExec_t replay;
        CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        run(stream);
        CHECK(cudaStreamEndCapture(stream, &graph));
        CHECK(cudaGraphInstantiate(&replay, graph, 0));
        double graph_us = median_us(
            [&] {
              CHECK(cudaGraphLaunch(replay, stream));
              CHECK(cudaStreamSynchronize(stream));
            },
            5);
        std::printf(
            "{\"probe\": \"launch\", \"kind\": \"%s\", \"blocks\": %d, \"threads\": %d, \"stream_us\": %.3f, "
            "\"graph_us\": %.3f}\n",
            kind.name, blocks, threads, stream_us / kKernels, graph_us / kKernels);
        std::fflush(stdout);
        CHECK(cudaGraphExecDestroy(replay));
        CHECK(cudaGraphDestroy(graph));
      }
  // One kernel, from the call to the host's knowledge that it ended.
  for (int i = 0; i < 10; i++) empty<<<1, 32, 0, stream>>>(word);
  CHECK(cudaStreamSynchronize(stream));
  auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 200; i++) {
    empty<<<1, 32, 0, stream>>>(word);
    CHECK(cudaStreamSynchronize(stream));
  }
  double us = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / 200;
  std::printf("{\"probe\": \"launch and synchronize\", \"us\": %.2f}\n", us);
}

int main(int, char** argv) {
  std::string what = argv[1];
  if (what == "device") print_device();
  if (what == "clusters") print_active_clusters();
  if (what == "costs") print_costs();
}
