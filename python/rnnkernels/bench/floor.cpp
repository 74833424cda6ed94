// The floor under a benchmark: how many floating-point operations a second all threads together do in registers, and how
// many bytes a second they read of working sets of given sizes.  floor.py compiles it on the machine it measures, and
// runs it within the rounds: THREADS BYTES... -> {"flops": ..., "bytes": [...]}.  The best of a few tries counts; a floor
// has no bad luck.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

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

double fma_chains() {
  constexpr int repeats = 1 << 20;
  volatile Vec sink = chained([](Vec* sums) {
    const Vec scale = Vec{} + 0.999F, shift = Vec{} + 1e-3F;
    for (int repeat = 0; repeat < repeats; ++repeat) {
      for (int i = 0; i < chains; ++i) sums[i] = sums[i] * scale + shift;  // one FMA: GCC and Clang contract it
    }
  });
  (void)sink;
  return 2.0 * lanes * chains * repeats;
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
  if (count < 3) {
    std::fprintf(stderr, "%s: expected THREADS BYTES...\n", arguments[0]);
    return 2;
  }
  const int threads = std::atoi(arguments[1]);
  std::printf("{\"flops\": %.4g, \"bytes\": [", rate(threads, [](size_t) { return fma_chains(); }));
  for (int i = 2; i < count; ++i) {
    // Each thread reads its share, in whole rows of chains.
    const double rows = std::atof(arguments[i]) / threads / (chains * sizeof(Vec));
    const size_t share = chains * std::max(size_t{1}, static_cast<size_t>(rows));
    const std::vector<std::vector<Vec>> data(static_cast<size_t>(threads), std::vector<Vec>(share));
    std::printf("%s%.4g", i == 2 ? "" : ", ", rate(threads, [&](size_t thread) { return read_all(data[thread]); }));
  }
  std::printf("]}\n");
}
