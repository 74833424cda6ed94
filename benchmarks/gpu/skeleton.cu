// The skeleton of a persistent LSTM forward, bf16: what a whole step takes, product, cell and exchange together.
//
// A group of N blocks holds w_hh for `batch` sequences (at most 8, the columns of one mma); block `rank` owns U = H / N
// units, 4 U rows of w_hh. Its warps split k into slices and the rows into groups: the weights of a warp are mma
// fragments that stay in registers (some in shared memory where registers do not hold all). The order of k inside a slice is free, so lane
// (n, q) takes its B fragment for sequence n as whole vectors, straight from what block 4 * slice + q has published:
// h needs no staging and a step needs a single barrier of the block, before the sum over slices.
// Each step: wait for the slice, product, partial sums through shared memory, cells (c stays in a register), publish.
// The pre-activations of x are read `kAhead` steps early, y is written, and the result is compared with a plain kernel's.
//   skeleton [cluster|grid]
#include "probe.h"

#include <cuda_bf16.h>

#include <cmath>
#include <string>

constexpr int kSteps = 1024;
#ifndef AHEAD
#define AHEAD 4
#endif
constexpr int kAhead = AHEAD;
constexpr int kMarks = 6;
constexpr const char* kParts[kMarks] = {"wait and fetch", "product", "store sums",
                                        "barrier",        "cells",   "publish and rest"};
using bf16 = __nv_bfloat16;

// Blocks of a group, units a block, sequences a group, producers a lane reads from, groups of rows among the warps, and
// k-tiles of a warp whose weights stand in registers (of the rest in shared memory).
template <int blocks_, int units_, int batch_, int producers_ = 1, int row_groups_ = 1, int in_registers_ = 1000>
struct Shape {
  static constexpr int blocks = blocks_, units = units_, batch = batch_, producers = producers_,
                       row_groups = row_groups_;
  static constexpr int hidden = blocks * units, rows = units * 4, slices = blocks / (4 * producers);
  static constexpr int row_tiles = rows / 16 / row_groups;  // of a warp
  static constexpr int k_tiles = producers * units / 4;     // of a warp
  static constexpr int in_registers = in_registers_ < k_tiles ? in_registers_ : k_tiles;
  static constexpr int warps = slices * row_groups, threads = warps * 32;
  static constexpr int part_stride = rows + 4;  // padded against bank conflicts
  static constexpr int together = 32 / units;   // sequences whose cells a warp computes at a time, a unit a lane
  static constexpr int passes = (batch + together * warps - 1) / (together * warps);
  static constexpr size_t part_bytes = size_t(2) * slices * batch * part_stride * 4,
                          weight_bytes = size_t(warps) * (k_tiles - in_registers) * row_tiles * 512;
  static_assert(blocks % (4 * producers) == 0 && rows % (16 * row_groups) == 0 && units <= 32 && batch <= 8);
};

struct Arguments {
  int batch;         // of all groups
  const bf16* w;     // [4][H][H]
  const uint2* pre;  // [T][batch][H], four bf16 each: the gates of a unit
  bf16* y;           // [T][batch][H]
  uint4* buffers;    // [groups][2][blocks][vectors][8]
  uint32_t* marks;   // [kMarks]: the clocks of each part of a step, over all steps, of the first warp
};

__device__ inline float sigmoid(float x) { return __fdividef(1, 1 + __expf(-x)); }
__device__ inline float hyperbolic(float x) { return 2 * sigmoid(2 * x) - 1; }

__device__ inline float cell(const float (&gate)[4], float& c) {
  c = sigmoid(gate[1]) * c + sigmoid(gate[0]) * hyperbolic(gate[2]);
  return sigmoid(gate[3]) * hyperbolic(c);
}

template <class S>
struct Place {
  int group, rank;
  uint4* h;            // in shared memory: [2][blocks][vectors][8]
  uint64_t* mbarrier;  // [2][slices]
  Arguments a;
};

// The words (pairs of units) of one sequence go out as vectors; word w of a lane's sequence is in lane `first + 2 w`.
// Pieces lie [rank][vector][sequence], so that the lanes of a row of sequences read one line.
struct ClusterExchange {
  static constexpr const char* name = "st.async";
  static constexpr bool cluster = true;
  template <class S>
  static constexpr int vectors = S::units / 8;

  template <class S>
  static __device__ void begin(const Place<S>& p, int step)  // one lane for every slice
  {
    if (threadIdx.x < S::slices)
      mbarrier_expect(&p.mbarrier[step % 2 * S::slices + threadIdx.x], 4 * S::producers * S::units * S::batch * 2);
  }
  template <class S>
  static __device__ void publish(const Place<S>& p, int step, int b, int first, int unit, uint32_t pair, bool real) {
    int v = unit / 8;
    uint4 eight = {__shfl_sync(~0u, pair, first + v * 8), __shfl_sync(~0u, pair, first + v * 8 + 2),
                   __shfl_sync(~0u, pair, first + v * 8 + 4), __shfl_sync(~0u, pair, first + v * 8 + 6)};
    if (!real) return;
    uint32_t place = shared_address(p.h + ((step % 2 * S::blocks + p.rank) * vectors<S> + v) * 8 + b);
    uint32_t at = shared_address(&p.mbarrier[step % 2 * S::slices + p.rank / (4 * S::producers)]);
    for (int peer = unit % 8; peer < S::blocks; peer += 8)
      store_async_16(peer_address(place, peer), eight, peer_address(at, peer));
  }
  template <class S>
  static __device__ void collect(const Place<S>& p, int step, int slice, int n, int q,
                                 uint32_t (&words)[S::k_tiles * 2]) {
    wait_until([&] { return mbarrier_done(&p.mbarrier[step % 2 * S::slices + slice], (step - 1) / 2 % 2); });
#pragma unroll
    for (int producer = 0; producer < S::producers; producer++)
#pragma unroll
      for (int v = 0; v < vectors<S>; v++) {
        int rank = (slice * S::producers + producer) * 4 + q;
        uint4 eight = p.h[((step % 2 * S::blocks + rank) * vectors<S> + v) * 8 + n];
        uint32_t* at = words + producer * S::units / 2 + v * 4;
        at[0] = eight.x, at[1] = eight.y, at[2] = eight.z, at[3] = eight.w;
      }
  }
};

// Through L2: up to six units and the step's number in each 16 bytes, which arrive together. Words that carry no units
// carry the number too and are looked at: ptxas 13.0 splits even an atomic 16-byte load whose words are not all used, and
// the halves of a split load were seen to come from different steps.
template <bool wait>
struct TaggedExchange {
  static constexpr const char* name = wait ? "tagged" : "none";
  static constexpr bool cluster = false;
  template <class S>
  static constexpr int vectors = (S::units + 5) / 6;

  template <class S>
  static __device__ bool arrived(const uint4& got, int v, uint32_t step) {
    bool all = got.w == step;
    if (v * 6 + 2 >= S::units) all = all && got.y == step;
    if (v * 6 + 4 >= S::units) all = all && got.z == step;
    return all;
  }
  template <class S>
  static __device__ uint4* buffer(const Place<S>& p, int step) {
    return p.a.buffers + (size_t(p.group) * 2 + step % 2) * (S::blocks * vectors<S> * 8);
  }
  template <class S>
  static __device__ void begin(const Place<S>&, int) {}
  template <class S>
  static __device__ void publish(const Place<S>& p, int step, int b, int first, int unit, uint32_t pair, bool real) {
    uint32_t word[3];
#pragma unroll
    for (int i = 0; i < 3; i++) word[i] = __shfl_sync(~0u, pair, first + min(unit * 6 + i * 2, S::units - 2));
#pragma unroll
    for (int i = 1; i < 3; i++)
      if (unit * 6 + i * 2 >= S::units) word[i] = step;
    if (real && unit < vectors<S>)
      store_relaxed_16(buffer(p, step) + (p.rank * vectors<S> + unit) * 8 + b,
                       {word[0], word[1], word[2], uint32_t(step)});
  }
  template <class S>
  static __device__ void collect(const Place<S>& p, int step, int slice, int n, int q,
                                 uint32_t (&words)[S::k_tiles * 2]) {
    uint4 got[S::producers][vectors<S>];
    const uint4* from = buffer(p, step) + (slice * S::producers * 4 + q) * vectors<S> * 8 + n;
    if (n < S::batch) {
#pragma unroll
      for (int producer = 0; producer < S::producers; producer++)
#pragma unroll
        for (int v = 0; v < vectors<S>; v++)
          got[producer][v] = load_relaxed_16(from + (producer * 4 * vectors<S> + v) * 8);
      wait_until([&] {
        bool all = true;
#pragma unroll
        for (int producer = 0; producer < S::producers; producer++)
#pragma unroll
          for (int v = 0; v < vectors<S>; v++)
            if (wait && !arrived<S>(got[producer][v], v, step)) {
              got[producer][v] = load_relaxed_16(from + (producer * 4 * vectors<S> + v) * 8);
              all = false;
            }
        return all;
      });
    }
#pragma unroll
    for (int producer = 0; producer < S::producers; producer++)
#pragma unroll
      for (int w = 0; w < S::units / 2; w++) {
        const uint4& v = got[producer][w / 3];
        words[producer * S::units / 2 + w] = n >= S::batch ? 0 : w % 3 == 0 ? v.x : w % 3 == 1 ? v.y : v.z;
      }
    __syncwarp();
  }
};

// With `timed`, the first warp of the first block keeps the clocks of each part; that costs a little itself.
template <class S, class Exchange, bool timed>
__global__ void __launch_bounds__(S::threads, 1) skeleton(Arguments a) {
  extern __shared__ __align__(16) char shared[];
  __shared__ uint64_t mbarrier[2 * S::slices];
  float* part = reinterpret_cast<float*>(shared);
  uint4* more_weights = reinterpret_cast<uint4*>(shared + S::part_bytes);
  int rank = Exchange::cluster ? cluster_rank() : blockIdx.x % S::blocks;
  Place<S> place = {int(blockIdx.x) / S::blocks, rank, more_weights + S::weight_bytes / 16, mbarrier, a};
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, slice = warp % S::slices, row_group = warp / S::slices;
  int n = lane / 4, q = lane % 4;

  // Row r of the block is gate r % 4 of its unit r / 4. Word i of tile t in lane q is pair 2 t + i of its producer.
  auto weights = [&](int row_tile, int k_tile, int i) {
    int row = (row_group * S::row_tiles + row_tile) * 16 + lane / 4 + i % 2 * 8, pair = k_tile * 2 + i / 2;
    int producer = (slice * S::producers + pair / (S::units / 2)) * 4 + q;
    int k = producer * S::units + pair % (S::units / 2) * 2;
    return *reinterpret_cast<const uint32_t*>(
        a.w + (size_t(row % 4) * S::hidden + rank * S::units + row / 4) * S::hidden + k);
  };
  uint32_t held[S::in_registers][S::row_tiles][4];
#pragma unroll
  for (int t = 0; t < S::in_registers; t++)
#pragma unroll
    for (int r = 0; r < S::row_tiles; r++)
#pragma unroll
      for (int i = 0; i < 4; i++) held[t][r][i] = weights(r, t, i);
  more_weights += size_t(warp) * (S::k_tiles - S::in_registers) * S::row_tiles * 32 + lane;
  for (int t = S::in_registers; t < S::k_tiles; t++)
    for (int r = 0; r < S::row_tiles; r++)
      more_weights[((t - S::in_registers) * S::row_tiles + r) * 32] = {weights(r, t, 0), weights(r, t, 1),
                                                                       weights(r, t, 2), weights(r, t, 3)};
  if (threadIdx.x < 2 * S::slices) mbarrier_init(&mbarrier[threadIdx.x], 1);
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  __syncthreads();
  if (Exchange::cluster) cluster_barrier();

  float c[S::passes] = {};
  uint2 pre[kAhead][S::passes] = {};
  int first = lane / S::units * S::units, unit = lane % S::units;
  auto sequence = [&](int pass) { return (pass * S::warps + warp) * S::together + lane / S::units; };
  auto real = [&](int pass) { return lane < S::together * S::units && sequence(pass) < S::batch; };
  auto element = [&](int step, int pass) {  // of [T][batch][H]
    return (size_t(step) * a.batch + place.group * S::batch + sequence(pass)) * S::hidden + rank * S::units + unit;
  };
  // A ring in registers, indexed by constants alone: moving a register that is still being loaded would wait for it.
  auto prefetch = [&](int step, uint2(&ring)[S::passes]) {
#pragma unroll
    for (int pass = 0; pass < S::passes; pass++)
      if (real(pass) && step < kSteps) ring[pass] = __ldg(a.pre + element(step, pass));
  };
#pragma unroll
  for (int step = 0; step < kAhead; step++) prefetch(step, pre[step]);

  uint32_t marks[kMarks] = {}, last_mark = 0;
  auto mark = [&](int part) {
    if constexpr (timed) {
      uint32_t now;
      asm volatile("mov.u32 %0, %%clock;" : "=r"(now)::"memory");
      if (part >= 0) marks[part] += now - last_mark;
      last_mark = now;
    }
  };
  auto one_step = [&](int step, uint2(&ring)[S::passes]) {  // publishes as step + 1
    mark(-1);
    float sum[S::row_tiles][4] = {};
    if (step > 0) {
      uint32_t words[S::k_tiles * 2];
      Exchange::collect(place, step, slice, n, q, words);
      if constexpr (timed) asm volatile("" ::"r"(words[0]), "r"(words[S::k_tiles * 2 - 1]));
      mark(0);
#pragma unroll
      for (int t = 0; t < S::k_tiles; t++)
#pragma unroll
        for (int r = 0; r < S::row_tiles; r++) {
          if (t < S::in_registers) {
            mma_bf16(sum[r], held[t < S::in_registers ? t : 0][r], words[t * 2], words[t * 2 + 1]);
          } else {
            uint4 v = more_weights[((t - S::in_registers) * S::row_tiles + r) * 32];
            const Fragment w = {v.x, v.y, v.z, v.w};
            mma_bf16(sum[r], w, words[t * 2], words[t * 2 + 1]);
          }
        }
    }
    if constexpr (timed) asm volatile("mov.b32 %0, %0;" : "+f"(sum[S::row_tiles - 1][3])::"memory");
    mark(1);
    Exchange::begin(place, step + 1);
    float* half = part + step % 2 * (S::slices * S::batch * S::part_stride);
#pragma unroll
    for (int r = 0; r < S::row_tiles; r++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int b = lane % 4 * 2 + i % 2, row = (row_group * S::row_tiles + r) * 16 + lane / 4 + i / 2 * 8;
        if (b < S::batch) half[(slice * S::batch + b) * S::part_stride + row] = sum[r][i];
      }
    mark(2);
    __syncthreads();
    mark(3);
#pragma unroll
    for (int pass = 0; pass < S::passes; pass++) {
      int b = sequence(pass);
      if ((pass * S::warps + warp) * S::together >= S::batch) break;  // a whole warp
      uint2 x = ring[pass];
      float gate[4] = {__uint_as_float(x.x << 16), __uint_as_float(x.x & 0xffff0000), __uint_as_float(x.y << 16),
                       __uint_as_float(x.y & 0xffff0000)};
      if (real(pass)) {
#pragma unroll
        for (int s = 0; s < S::slices; s++) {
          float4 v = *reinterpret_cast<float4*>(half + (s * S::batch + b) * S::part_stride + unit * 4);
          gate[0] += v.x, gate[1] += v.y, gate[2] += v.z, gate[3] += v.w;
        }
      }
      bf16 h = __float2bfloat16(cell(gate, c[pass]));
      if (pass == S::passes - 1) mark(4);
      uint32_t low = __bfloat16_as_ushort(h), pair = low | __shfl_down_sync(~0u, low, 1) << 16;
      Exchange::publish(place, step + 1, b, first, unit, pair, real(pass));
      if (real(pass)) a.y[element(step, pass)] = h;
    }
    prefetch(step + kAhead, ring);
    mark(5);
  };
  for (int step = 0; step < kSteps; step += kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; i++) one_step(step + i, pre[i]);
  }
  uint32_t last[S::k_tiles * 2];
  Exchange::collect(place, kSteps, slice, n, q, last);  // nobody leaves while a peer may still reach into its memory
  if (Exchange::cluster) cluster_barrier();
  if (timed && threadIdx.x == 0 && blockIdx.x == 0)
    for (int i = 0; i < kMarks; i++) a.marks[i] = marks[i];
}

// The same, one thread a cell and one launch a step.
__global__ void plain(Arguments a, int hidden, int step, float* c) {
  int index = blockIdx.x * blockDim.x + threadIdx.x, b = index / hidden, unit = index % hidden;
  if (b >= a.batch) return;
  uint2 pre = a.pre[(size_t(step) * a.batch + b) * hidden + unit];
  float gate[4] = {__uint_as_float(pre.x << 16), __uint_as_float(pre.x & 0xffff0000), __uint_as_float(pre.y << 16),
                   __uint_as_float(pre.y & 0xffff0000)};
  if (step > 0)
    for (int g = 0; g < 4; g++) {
      const bf16 *w = a.w + (size_t(g) * hidden + unit) * hidden, *h = a.y + (size_t(step - 1) * a.batch + b) * hidden;
      for (int k = 0; k < hidden; k++) gate[g] += __bfloat162float(w[k]) * __bfloat162float(h[k]);
    }
  a.y[(size_t(step) * a.batch + b) * hidden + unit] = __float2bfloat16(cell(gate, c[index]));
}

std::vector<bf16> uniform(size_t count, float bound) {
  std::vector<bf16> values(count);
  uint64_t state = 88172645463325252u + count;
  for (bf16& v : values) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    v = __float2bfloat16(bound * (int64_t(state >> 32) - (int64_t(1) << 31)) / (int64_t(1) << 31));
  }
  return values;
}

bf16* to_device(const std::vector<bf16>& values) {
  bf16* data = device_zeros<bf16>(values.size());
  CHECK(cudaMemcpy(data, values.data(), values.size() * 2, cudaMemcpyHostToDevice));
  return data;
}

template <class S, class Exchange>
void measure(int groups) {
  size_t h_bytes = Exchange::cluster ? size_t(2) * S::hidden * 8 * 2 : 0,
         shared = S::part_bytes + S::weight_bytes + h_bytes;
  if (shared < 120 << 10) shared = 120 << 10;  // one block a multiprocessor
  Arguments a = {};
  a.batch = groups * S::batch;
  size_t values = size_t(kSteps) * a.batch * S::hidden, state = size_t(a.batch) * S::hidden;
  auto bound = 1 / std::sqrt(float(S::hidden));
  bf16 *w = to_device(uniform(size_t(4) * S::hidden * S::hidden, bound)), *pre = to_device(uniform(values * 4, 1));
  a.w = w, a.pre = reinterpret_cast<uint2*>(pre), a.y = device_zeros<bf16>(values);
  size_t buffer_bytes = size_t(groups) * 2 * S::blocks * ((S::units + 5) / 6) * 8 * 16;
  a.buffers = device_zeros<uint4>(buffer_bytes / 16);
  auto clear = [&] { CHECK(cudaMemsetAsync(a.buffers, 0, buffer_bytes)); };  // a tag of the run before must not vouch
  double idle = median_us(clear, 5);
  double us = median_us(
      [&] {
        clear();
        CHECK(launch(skeleton<S, Exchange, false>, groups * S::blocks, S::threads, shared,
                     Exchange::cluster ? S::blocks : 0, a));
      },
      5);
  CHECK(cudaDeviceSynchronize());
  Arguments b = a;
  b.y = device_zeros<bf16>(values);
  float* c = device_zeros<float>(state);
  for (int step = 0; step < kSteps; step++) plain<<<int((state + 255) / 256), 256>>>(b, S::hidden, step, c);
  std::vector<bf16> y(values), expected(values);
  CHECK(cudaMemcpy(y.data(), a.y, values * 2, cudaMemcpyDeviceToHost));
  CHECK(cudaMemcpy(expected.data(), b.y, values * 2, cudaMemcpyDeviceToHost));
  double error = 0;
  for (size_t i = 0; i < values; i++) {
    double e = std::fabs(__bfloat162float(y[i]) - __bfloat162float(expected[i]));
    error = e <= error ? error : e;  // a NaN stays
  }
  a.marks = device_zeros<uint32_t>(kMarks);
  clear();
  CHECK(launch(skeleton<S, Exchange, true>, groups * S::blocks, S::threads, shared, Exchange::cluster ? S::blocks : 0,
               a));
  uint32_t marks[kMarks];
  CHECK(cudaMemcpy(marks, a.marks, sizeof(marks), cudaMemcpyDeviceToHost));
  std::printf(
      "{\"probe\": \"skeleton\", \"exchange\": \"%s\", \"hidden\": %d, \"batch\": %d, \"groups\": %d, \"blocks\": %d, "
      "\"warps\": %d, \"slices\": %d, \"us_per_step\": %.3f, \"largest_error\": %.4f, \"clocks\": {",
      Exchange::name, S::hidden, a.batch, groups, S::blocks, S::warps, S::slices, (us - idle) / kSteps, error);
  for (int i = 0; i < kMarks; i++) std::printf("%s\"%s\": %.0f", i ? ", " : "", kParts[i], marks[i] / double(kSteps));
  std::printf("}}\n");
  std::fflush(stdout);
  for (void* p : {(void*)w, (void*)pre, (void*)a.y, (void*)b.y, (void*)c, (void*)a.buffers, (void*)a.marks})
    CHECK(cudaFree(p));
}

template <class S>
void cluster(int groups) {
  measure<S, ClusterExchange>(1);
  measure<S, ClusterExchange>(groups);
}

template <class S>
void grid(int groups) {
  measure<S, TaggedExchange<true>>(groups);
  measure<S, TaggedExchange<false>>(groups);
}

int main(int, char** argv) {
  std::string what = argv[1];
  if (what == "cluster") {               // 15 clusters of 8 or 7 of 16 blocks are active at a time
    cluster<Shape<8, 32, 8, 1, 8>>(15);  // H 256 on 8 blocks, 16 warps
    cluster<Shape<8, 32, 8, 1, 4>>(15);  // 8 warps
    cluster<Shape<16, 16, 8, 1, 4>>(7);  // H 256 on 16 blocks, 16 warps
    cluster<Shape<16, 16, 8, 1, 2>>(7);  // 8 warps
    cluster<Shape<8, 32, 4, 1, 4>>(15);
    cluster<Shape<16, 16, 8, 1, 1>>(7);  // 4 warps
    cluster<Shape<16, 32, 8, 1, 4>>(7);  // H 512 on 16 blocks
    cluster<Shape<16, 32, 8, 1, 2>>(7);  // 8 warps
    cluster<Shape<16, 32, 2, 1, 4>>(7);
  }
  if (what == "grid") {
    grid<Shape<16, 16, 8, 1, 2>>(8);      // H 256, B 64: 8 groups of 16 blocks
    grid<Shape<32, 16, 8, 1>>(4);         // H 512, B 32: 4 groups of 32
    grid<Shape<16, 32, 8, 1, 2>>(8);      // H 512, B 64: 8 groups of 16
    grid<Shape<64, 8, 8, 2>>(2);          // H 512, B 16: 2 groups of 64
    grid<Shape<32, 24, 4>>(4);            // H 768, B 16: 4 groups of 32
    grid<Shape<64, 12, 8, 2>>(2);         // H 768, B 16: 2 groups of 64
    grid<Shape<32, 24, 8>>(4);            // H 768, B 32
    grid<Shape<64, 16, 8, 2>>(2);         // H 1024, B 16: 2 groups of 64
    grid<Shape<128, 8, 8, 4>>(1);         // H 1024, B 8: one group of 128
    grid<Shape<128, 16, 8, 2, 1, 4>>(1);  // H 2048, B 8: half of the weights in shared memory
  }
}
