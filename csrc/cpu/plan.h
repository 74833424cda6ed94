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
  double panel_bytes;   // of the weights that a step's tiles share, of input and state
  double row_bytes;     // of a sequence's input and state
  bool fusible;         // a dense input in the order of work, and a single product of the state
};

// Measured on Zen 4 and rounded: what one core does in a microsecond; what a step must take for each of up to eight threads that
// meet after it (a barrier of two takes 0.15 us where they share an L3 and 0.7 where not); waking a worker that sleeps.
constexpr double flops_per_us = 5e4, meeting_us = 0.45, wake_us = 10;

// Rows of a batch that fill tiles well; that hide the reading of weights from L3, as long as those are a few times as large
// as L2 (measured on Zen 3); and that hide it whatever their size.
constexpr int64_t rows_that_fill = 16, rows_that_hide_l3 = 24, rows_that_hide_memory = 96;
constexpr double l2_sizes_near = 4;

// Below so many rows a step's tiles read the input's weights too often. And the tiles of a panel read all rows again: they
// should stay in L2 beside the panel and what is brought of the next (0.25 of it fused is 2 % faster than not, 0.5 8 % slower,
// 1 a quarter; measured on Emerald Rapids).
constexpr int64_t fused_rows = 32;
constexpr double l2_share_of_tiles = 0.4;

inline Plan plan_layer(const LayerWork& work, int max_threads, double l2_bytes) {
  const double total_us = work.total_flops / flops_per_us, step_us = work.step_flops / flops_per_us;
  const auto choose = [&](int64_t threads, bool split_batch, const char* why) {
    const double rows = static_cast<double>(split_batch ? work.rows / threads : work.rows);
    const bool stays = work.panel_bytes + rows * work.row_bytes <= l2_share_of_tiles * l2_bytes;
    return Plan{static_cast<int>(threads), split_batch, work.fusible && work.rows >= fused_rows && stays, why};
  };
  if (max_threads <= 1) return choose(1, false, "there is but one");
  if (total_us < 1.5 * wake_us) return choose(1, false, "waking a worker takes longer");

  const int64_t by_units = std::min<int64_t>(max_threads, work.panels);
  const int64_t by_rows = std::min<int64_t>(max_threads, work.rows / 2);
  if (by_rows >= by_units && by_rows > 1) {
    const int64_t each = work.rows / by_rows;
    if (each >= rows_that_fill && work.weight_bytes <= l2_bytes) return choose(by_rows, true, "the weights fit in L2");
    if (each >= (work.weight_bytes <= l2_sizes_near * l2_bytes ? rows_that_hide_l3 : rows_that_hide_memory))
      return choose(by_rows, true, "each has rows enough");
  }
  if (by_units > 1 && step_us > meeting_us * static_cast<double>(std::min<int64_t>(by_units, 8)))
    return choose(by_units, false, "each keeps its weights in cache");
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
