// The cost model: how many threads a layer gets, what they share, and how the input is projected. It never changes a result,
// only the time. RNNKERNELS_EXPLAIN=1 prints each choice to standard error.
#pragma once

#include <algorithm>
#include <cstdint>

namespace rnnkernels::cpu {

struct Plan {
  int threads;
  bool split_batch;  // threads share sequences and never wait; else they share hidden units and meet every step
  bool fused;        // the input's products run in the step's tiles, not by chunks of steps before them
  const char* why;   // so many threads, sharing that
};

struct LayerWork {
  double step_flops;    // of the recurrence, one step
  double total_flops;   // of the whole pass
  double weight_bytes;  // that a step reads
  int64_t rows;         // sequences
  int64_t panels;       // groups of hidden units that threads can share
  bool fusible;         // a dense input in the order of work, and a single product of the state
};

// Measured on Zen 4 and rounded: what one core does in a microsecond, a barrier's price, and waking a sleeping worker's.
constexpr double flops_per_us = 5e4, barrier_us = 0.3, wake_us = 10;

// Rows of a batch that fill tiles well; that hide the reading of weights from L3, as long as those are a few times as large
// as L2 (measured on Zen 3); and that hide it whatever their size.
constexpr int64_t rows_that_fill = 16, rows_that_hide_l3 = 24, rows_that_hide_memory = 96;
constexpr double l2_sizes_near = 4;

// Below so many rows a step's tiles read the input's weights too often.
constexpr int64_t fused_rows = 32;

inline Plan plan_layer(const LayerWork& work, int max_threads, double l2_bytes) {
  Plan plan{1, false, work.fusible && work.rows >= fused_rows, "there is but one"};
  const double total_us = work.total_flops / flops_per_us, step_us = work.step_flops / flops_per_us;
  const auto choose = [&](int64_t threads, bool split_batch, const char* why) {
    plan.threads = static_cast<int>(threads), plan.split_batch = split_batch, plan.why = why;
    return plan;
  };
  if (max_threads <= 1) return plan;
  if (total_us < 2 * wake_us) return choose(1, false, "waking a worker takes longer");

  const int64_t by_units = std::min<int64_t>(max_threads, work.panels);
  const int64_t by_rows = std::min<int64_t>(max_threads, work.rows / 2);
  if (by_rows >= by_units && by_rows > 1) {
    const int64_t each = work.rows / by_rows;
    if (each >= rows_that_fill && work.weight_bytes <= l2_bytes) return choose(by_rows, true, "the weights fit in L2");
    if (each >= (work.weight_bytes <= l2_sizes_near * l2_bytes ? rows_that_hide_l3 : rows_that_hide_memory))
      return choose(by_rows, true, "each has rows enough");
  }
  if (by_units > 1 && step_us > 8 * barrier_us) return choose(by_units, false, "each keeps its weights in cache");
  if (by_rows > 1) return choose(by_rows, true, "a step is too short to meet after it");
  return choose(1, false, "a step is too short to meet after it");
}

// Row-parallel work (heads): no barriers to speak of.
inline int plan_rows(double total_flops, int64_t rows, int max_threads) {
  constexpr double flops_worth_a_thread = 1e6;
  const double worth = std::min(total_flops / flops_worth_a_thread, static_cast<double>(rows));
  return std::max(1, static_cast<int>(std::min(worth, static_cast<double>(max_threads))));
}

}  // namespace rnnkernels::cpu
