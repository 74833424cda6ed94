// Who runs when: launches, turns of warps in three orders, and reports of grids that do not go on.
#include <algorithm>
#include <cstdarg>
#include <cstdio>

#include "machine.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emu {

Machine* machine = nullptr;
Thread* current = nullptr;

Options& options() {
  static Options value;
  return value;
}

void fail(Where at, const char* format, ...) {
  char what[512], text[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  if (current) {
    const uint3 b = current->block->index, t = current->index;
    std::snprintf(text, sizeof text, "%s:%d: block (%u,%u,%u) thread (%u,%u,%u): %s", at.file, at.line, b.x, b.y, b.z,
                  t.x, t.y, t.z, what);
  } else {
    std::snprintf(text, sizeof text, "%s:%d: %s", at.file, at.line, what);
  }
  throw Failure(text);
}

namespace {

struct Abandoned {};  // unwinds fibers after a failure

unsigned count(dim3 d) { return d.x * d.y * d.z; }

uint3 unflatten(unsigned i, dim3 d) { return {i % d.x, i / d.x % d.y, i / (d.x * d.y)}; }

[[noreturn]] void refuse(const std::string& what) { throw Failure("launch: " + what); }

void check(const Shape& s) {
  const unsigned threads = count(s.block);
  if (threads < 1 || threads > 1024) refuse("blocks of " + std::to_string(threads) + " threads");
  if (count(s.grid) < 1) refuse("an empty grid");
  if (s.cluster < 1 || s.cluster > 16 || count(s.grid) % s.cluster)
    refuse("a grid of " + std::to_string(count(s.grid)) + " blocks in clusters of " + std::to_string(s.cluster));
  if (s.shared_bytes > options().shared_limit)
    refuse(std::to_string(s.shared_bytes) + " bytes of shared memory where a block can have " +
           std::to_string(options().shared_limit));
}

size_t clusters_that_fit(const Shape& s) {
  constexpr size_t threads = 2048, blocks = 32, reserved_bytes = 1024;
  const size_t by_memory = options().shared_of_multiprocessor / (s.shared_bytes + reserved_bytes);
  const size_t of_multiprocessor = std::min({threads / count(s.block), blocks, by_memory});
  return options().multiprocessors * of_multiprocessor / s.cluster;
}

void leave_grid() {
  Thread& self = *current;
  copy_commit();
  for (const auto& group : self.copy_groups)
    if (!group.empty()) fail(group.front().at, "the thread ends before it has waited for this copy");
  deliver_stores_of(self);
  leave_barriers(self);
}

void note_failure(const char* what) {
  if (machine->failure.empty()) machine->failure = what;
}

void thread_main() {
  happens_after(&machine->begin);
  try {
    machine->kernel();
    Unseen unseen;
    leave_grid();
  } catch (const Abandoned&) {
  } catch (const std::exception& failure) {
    note_failure(failure.what());
  }
  happens_before(&machine->end);
  Thread& self = *current;
  self.state = State::done;
  Block& block = *self.block;
  block.warps[self.warp].ready &= ~(1u << self.lane);
  --block.live;
  --block.cluster->live;
  ++machine->changes;
  Fiber::leave();
}

void resume(Thread& thread) {
  current = &thread;
  thread.started = thread.block->started = true;
  thread.yielded = false;
  threadIdx = thread.index;
  blockIdx = thread.block->index;
  thread.fiber.resume();
  current = nullptr;
}

void suspend() {
  Fiber::suspend();
  if (machine->abandoning) throw Abandoned();
}

}  // namespace

void wait_for(const char* what, Where at) {
  Thread& self = *current;
  self.state = State::waiting;
  self.waits_for = what;
  self.waits_at = at;
  self.block->warps[self.warp].ready &= ~(1u << self.lane);
  suspend();
}

void wake(Thread& thread) {
  thread.state = State::ready;
  thread.block->warps[thread.warp].ready |= 1u << thread.lane;
}

void pass() { suspend(); }

void yield(Where at) {
  Unseen unseen;
  current->yielded = true;
  current->waits_at = at;
  suspend();
}

void note_change() { ++machine->changes; }

void fence() {
  Unseen unseen;
  current->fenced = true;
  for (const void* address : current->relaxed_reads) happens_after(address);
  current->relaxed_reads.clear();
}

void before_relaxed_write(const void* address) {
  if (current->fenced) happens_before(address);
}

void after_relaxed_read([[maybe_unused]] const void* address) {
#ifdef EMU_THREAD_SANITIZER
  Unseen unseen;
  constexpr size_t remembered = 64;
  auto& reads = current->relaxed_reads;
  if (reads.size() == remembered) reads.erase(reads.begin());
  reads.push_back(address);
#endif
}

uint64_t clock() { return ++machine->ticks; }

unsigned lane_index() { return static_cast<unsigned>(current->lane); }

Machine::Machine(const Shape& shape_, const std::function<void()>& kernel_)
    : shape(shape_), kernel(kernel_), random_state(options().seed) {
  check(shape);
  const unsigned clusters = count(shape.grid) / shape.cluster;
  const size_t fit = clusters_that_fit(shape);
  if (fit < 1) refuse("not one cluster fits");
  if (shape.cooperative && fit < clusters)
    refuse("a cooperative grid of " + std::to_string(clusters * shape.cluster) + " blocks where " +
           std::to_string(fit * shape.cluster) + " fit");
  for (unsigned i = 0; i < clusters; ++i) to_start.push_back(i);
  if (options().order == Order::reverse) std::reverse(to_start.begin(), to_start.end());
  if (random_order())
    for (unsigned i = clusters; i > 1; --i) std::swap(to_start[i - 1], to_start[below(i)]);
  resident_limit = fit;
  if (!shape.cooperative && options().order == Order::reverse) resident_limit = 1;
  if (!shape.cooperative && random_order())
    resident_limit = 1 + below(static_cast<unsigned>(std::min<size_t>(fit, 64)));
  blockDim = shape.block;
  gridDim = shape.grid;
}

// splitmix64 (Steele, Lea & Flood 2014)
uint64_t Machine::random() {
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

void Machine::start_block(Block& block) {
  const int threads = static_cast<int>(count(shape.block));
  block.live = threads;
  block.warps.resize((threads + warp_lanes - 1) / warp_lanes);
  for (size_t w = 0; w < block.warps.size(); ++w) {
    block.warps[w].block = &block;
    block.warps[w].first = static_cast<int>(w) * warp_lanes;
  }
  for (int i = 0; i < threads; ++i) {
    block.threads.push_back(std::make_unique<Thread>(thread_main));
    Thread& thread = *block.threads.back();
    thread.block = &block;
    thread.index = unflatten(i, shape.block);
    thread.lane = i % warp_lanes;
    thread.warp = i / warp_lanes;
    wake(thread);
  }
}

void Machine::start_clusters() {
  while (!to_start.empty() && resident.size() < resident_limit) {
    auto cluster = std::make_unique<Cluster>();
    for (unsigned rank = 0; rank < shape.cluster; ++rank) {
      cluster->blocks.push_back(std::make_unique<Block>());
      Block& block = *cluster->blocks.back();
      block.index = unflatten(to_start.front() * shape.cluster + rank, shape.grid);
      block.cluster = cluster.get();
      block.rank = rank;
      start_block(block);
      cluster->live += block.live;
    }
    to_start.pop_front();
    resident.push_back(std::move(cluster));
    ++changes;
  }
}

void Machine::retire_clusters() {
  for (auto& cluster : resident)
    for (auto& block : cluster->blocks)
      if (block->live == 0) free_shared(*block);
  auto ended = [](const std::unique_ptr<Cluster>& cluster) { return cluster->live == 0; };
  resident.erase(std::remove_if(resident.begin(), resident.end(), ended), resident.end());
}

std::vector<Warp*> Machine::ready_warps() {
  std::vector<Warp*> warps;
  for (auto& cluster : resident)
    for (auto& block : cluster->blocks)
      for (Warp& warp : block->warps)
        if (warp.ready) warps.push_back(&warp);
  if (options().order == Order::reverse) std::reverse(warps.begin(), warps.end());
  if (random_order())
    for (size_t i = warps.size(); i > 1; --i) std::swap(warps[i - 1], warps[below(static_cast<unsigned>(i))]);
  return warps;
}

// Each ready lane runs until it waits or yields. A warp goes on through operations of its own; in random order it
// may be put off for many rounds, or stop early.
void Machine::take_turn(Warp& warp) {
  if (random_order()) {
    if (warp.asleep > 0 && warp.asleep--) return;
    if (below(8) == 0) {
      warp.asleep = static_cast<int>(below(64));
      return;
    }
  }
  const auto& threads = warp.block->threads;
  auto can_go_on = [&] {
    for (int lane = 0; lane < warp_lanes; ++lane)
      if (warp.ready >> lane & 1 && !threads[warp.first + lane]->yielded) return true;
    return false;
  };
  for (int lane = 0; lane < warp_lanes; ++lane)
    if (warp.ready >> lane & 1) threads[warp.first + lane]->yielded = false;
  unsigned passes = random_order() ? 1 + below(16) : ~0u;
  while (passes-- && can_go_on()) {
    const unsigned turned = random_order() ? below(warp_lanes) : 0;
    const unsigned mirrored = options().order == Order::reverse || (random_order() && below(2)) ? warp_lanes - 1 : 0;
    for (unsigned i = 0; i < warp_lanes; ++i) {
      const unsigned lane = ((i + turned) % warp_lanes) ^ mirrored;
      if (!(warp.ready >> lane & 1) || threads[warp.first + lane]->yielded) continue;
      resume(*threads[warp.first + lane]);
      if (!failure.empty()) return;
    }
  }
}

// Stores on their way arrive as late as they can (the last one first), after each round, or by chance.
void Machine::deliver_stores(bool nothing_else_happens) {
  const Order order = options().order;
  if (order == Order::reverse && !nothing_else_happens) return;
  for (size_t due = stores.size(); due > 0; --due) {
    if (order == Order::random && !nothing_else_happens && below(4)) continue;
    const size_t i = order == Order::round_robin ? 0
                     : order == Order::reverse   ? stores.size() - 1
                                                 : below(static_cast<unsigned>(stores.size()));
    const PendingStore store = stores[i];
    stores.erase(stores.begin() + static_cast<ptrdiff_t>(i));
    deliver(store);
    if (nothing_else_happens) return;
  }
}

void Machine::run() {
  uint64_t seen = 0;
  int idle = 0;
  while (start_clusters(), !resident.empty()) {
    const std::vector<Warp*> round = ready_warps();
    if (round.empty() && stores.empty()) throw Failure("deadlock: all threads wait" + waits());
    for (Warp* warp : round) {
      if (options().turns_left >= 0 && options().turns_left-- == 0) throw Failure("aborted, as was asked for");
      take_turn(*warp);
      if (!failure.empty()) return;
    }
    deliver_stores(changes == seen);
    retire_clusters();
    idle = changes == seen ? idle + 1 : 0;
    seen = changes;
    if (idle > options().idle_rounds) throw Failure("livelock: threads run and nothing changes" + waits());
  }
}

void Machine::abandon() {
  abandoning = true;
  for (auto& cluster : resident) {
    for (auto& block : cluster->blocks) {
      for (auto& thread : block->threads)
        if (thread->started && thread->state != State::done) resume(*thread);
      free_shared(*block);
    }
  }
}

std::string Machine::waits() const {
  std::map<std::string, std::pair<int, std::string>> groups;  // what and where -> how many, who first
  for (const auto& cluster : resident) {
    for (const auto& block : cluster->blocks) {
      for (const auto& thread : block->threads) {
        if (thread->state == State::done) continue;
        char what[512], who[128];
        const bool spins = thread->state == State::ready;
        std::snprintf(what, sizeof what, "%s:%d: %s", thread->waits_at.file, thread->waits_at.line,
                      spins ? "spinning" : thread->waits_for);
        std::snprintf(who, sizeof who, "block (%u,%u,%u) thread (%u,%u,%u)", block->index.x, block->index.y,
                      block->index.z, thread->index.x, thread->index.y, thread->index.z);
        auto& group = groups[what];
        if (group.first++ == 0) group.second = who;
      }
    }
  }
  std::string text;
  for (const auto& [what, group] : groups)
    text += "\n  " + what + ": " + std::to_string(group.first) + " threads, first " + group.second;
  if (!to_start.empty())
    text +=
        "\n  " + std::to_string(to_start.size() * shape.cluster) + " blocks have not started: no room for all of them";
  return text;
}

void launch(const Shape& shape, const std::function<void()>& kernel) {
  Unseen unseen;
  if (machine) throw Failure("launch: from within a kernel");
  Fiber::end_of_grid();
  Machine grid(shape, kernel);
  machine = &grid;
  snapshot_device_memory();
  happens_before(&grid.begin);
  try {
    grid.run();
    if (grid.failure.empty()) check_device_memory();
  } catch (const std::exception& failure) {
    note_failure(failure.what());
  }
  grid.abandon();
  happens_after(&grid.end);
  machine = nullptr;
  if (!grid.failure.empty()) throw Failure(grid.failure);
}

}  // namespace emu
