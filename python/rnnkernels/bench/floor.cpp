// The floor under a benchmark: how many operations a second all threads together do in registers, on numbers of a dtype that
// are multiplied and added, and how many bytes a second they read of working sets of given sizes.  floor.py compiles it on the
// machine it measures, and runs it within the rounds: THREADS DTYPE BYTES... -> {"flops": ..., "bytes": [...]}.  The best of a
// few tries counts; a floor has no bad luck.  flops is null where this program has no instruction for the dtype.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif
using Vec __attribute__((vector_size(lanes * sizeof(float)))) = float;

constexpr int chains = 12;  // two FMA units of five cycles are busy with ten; AVX2 has sixteen registers

template <typename Step>
Vec chained(Step step) {
  volatile float zero = 0;
  Vec sums[chains];
  for (Vec& sum : sums) sum = Vec{} + zero;  // read anew each time, else equal chains would be computed once
  step(sums);
  Vec total = sums[0];
  for (int i = 1; i < chains; ++i) total += sums[i];
  return total;
}

// Operations done by `repeats` times step(sum) on each chain, of so many a lane.
template <typename Step>
double chained_steps(int operations, Step step) {
  constexpr int repeats = 1 << 20;
  volatile Vec sink = chained([&](Vec* sums) {
    for (int repeat = 0; repeat < repeats; ++repeat) {
      for (int i = 0; i < chains; ++i) sums[i] = step(sums[i]);
    }
  });
  (void)sink;
  return static_cast<double>(operations) * lanes * chains * repeats;
}

double float32() {
  const Vec scale = Vec{} + 0.999F, shift = Vec{} + 1e-3F;
  return chained_steps(2, [&](Vec sum) { return sum * scale + shift; });  // one FMA: GCC and Clang contract it
}

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
double bfloat16() {
  const __m512bh pairs = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3c003c00));
  return chained_steps(4, [&](Vec sum) { return reinterpret_cast<Vec>(_mm512_dpbf16_ps(sum, pairs, pairs)); });
}
#endif

#if defined(__AVX512VNNI__) && !defined(__AMX_INT8__)
double int8() {
  const __m512i fours = _mm512_set1_epi32(0x01010101);
  return chained_steps(8, [&](Vec sum) {
    return reinterpret_cast<Vec>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), fours, fours));
  });
}
#endif

// Of a dtype's instruction; null where there is none, or a faster one that is not measured here.
double (*operations(const char* dtype))() {
#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
  if (std::strcmp(dtype, "bfloat16") == 0) return bfloat16;
#endif
#if defined(__AVX512VNNI__) && !defined(__AMX_INT8__)
  if (std::strcmp(dtype, "int8") == 0) return int8;
#endif
  return std::strcmp(dtype, "float32") == 0 ? float32 : nullptr;
}

double read_all(const std::vector<Vec>& data) {
  constexpr size_t enough = size_t{64} << 20;
  const size_t bytes = data.size() * sizeof(Vec), repeats = 1 + enough / bytes;
  volatile Vec sink = chained([&](Vec* sums) {
    for (size_t repeat = 0; repeat < repeats; ++repeat) {
      for (size_t at = 0; at < data.size(); at += chains) {
        for (int i = 0; i < chains; ++i) sums[i] += data[at + static_cast<size_t>(i)];
      }
      asm volatile("" ::: "memory");  // every pass reads again
    }
  });
  (void)sink;
  return static_cast<double>(bytes * repeats);
}

// Work a second of `threads` threads that begin together, each on its own `task(thread)`.
template <typename Task>
double rate(int threads, Task task) {
  using Clock = std::chrono::steady_clock;
  double best = 0;
  for (int tries = 0; tries < 5; ++tries) {
    std::atomic<int> waiting{threads};
    std::vector<double> work(static_cast<size_t>(threads));
    std::vector<Clock::time_point> starts(work.size()), ends(work.size());
    std::vector<std::thread> team;
    for (size_t thread = 0; thread < work.size(); ++thread) {
      team.emplace_back([&, thread] {
        for (--waiting; waiting > 0;) std::this_thread::yield();
        starts[thread] = Clock::now();
        work[thread] = task(thread);
        ends[thread] = Clock::now();
      });
    }
    double total = 0;
    for (std::thread& member : team) member.join();
    for (double part : work) total += part;
    const std::chrono::duration<double> span =
        *std::max_element(ends.begin(), ends.end()) - *std::min_element(starts.begin(), starts.end());
    best = std::max(best, total / span.count());
  }
  return best;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 4) {
    std::fprintf(stderr, "%s: expected THREADS DTYPE BYTES...\n", arguments[0]);
    return 2;
  }
  const int threads = std::atoi(arguments[1]);
  if (const auto task = operations(arguments[2])) {
    std::printf("{\"flops\": %.4g, \"bytes\": [", rate(threads, [&](size_t) { return task(); }));
  } else {
    std::printf("{\"flops\": null, \"bytes\": [");
  }
  for (int i = 3; i < count; ++i) {
    // Each thread reads its share, in whole rows of chains.
    const double rows = std::atof(arguments[i]) / threads / (chains * sizeof(Vec));
    const size_t share = chains * std::max(size_t{1}, static_cast<size_t>(rows));
    const std::vector<std::vector<Vec>> data(static_cast<size_t>(threads), std::vector<Vec>(share));
    std::printf("%s%.4g", i == 3 ? "" : ", ", rate(threads, [&](size_t thread) { return read_all(data[thread]); }));
  }
  std::printf("]}\n");
}
