// The cost model: how many threads a layer gets and what they share. It never changes a result, only the time.
#pragma once

#include <algorithm>
#include <cstdint>

namespace rnnkernels::cpu {

struct Plan {
  int threads;
  bool split_batch;
};

struct LayerWork {
  double step_flops;   // of the recurrence, one step
  double total_flops;  // of the whole pass
  int64_t rows;        // sequences
  int64_t panels;      // groups of hidden units that threads can share
};

inline Plan plan_layer(const LayerWork& work, int max_threads) {
  // Measured on Zen 4 and rounded: what one core does in a microsecond, a barrier's price, and waking a sleeping worker's.
  constexpr double flops_per_us = 5e4, barrier_us = 0.3, wake_us = 10;
  const double total_us = work.total_flops / flops_per_us, step_us = work.step_flops / flops_per_us;
  if (max_threads <= 1 || total_us < 2 * wake_us) return {1, false};
  const int by_units = static_cast<int>(std::min<int64_t>(max_threads, work.panels));
  if (by_units > 1 && step_us > 8 * barrier_us) return {by_units, false};  // each thread's weights stay in its cache
  const int by_rows = static_cast<int>(std::min<int64_t>(max_threads, work.rows / 2));
  if (by_rows > 1) return {by_rows, true};
  return {1, false};
}

// Row-parallel work (heads): no barriers to speak of.
inline int plan_rows(double total_flops, int64_t rows, int max_threads) {
  constexpr double flops_worth_a_thread = 1e6;
  const double worth = std::min(total_flops / flops_worth_a_thread, static_cast<double>(rows));
  return std::max(1, static_cast<int>(std::min(worth, static_cast<double>(max_threads))));
}

}  // namespace rnnkernels::cpu
