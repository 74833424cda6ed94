// The state of a running grid, known to the emulator's own sources alone: threads, warps, blocks, clusters.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fiber.h"
#include "hooks.h"
#include "sanitizers.h"

namespace emu {

struct Block;
struct Thread;

enum class State { ready, waiting, done };

struct Thread {
  explicit Thread(void (*entry)()) : fiber(entry) {}
  Fiber fiber;
  Block* block = nullptr;
  uint3 index = {};
  int lane = 0, warp = 0;
  State state = State::ready;
  bool started = false;
  bool yielded = false;  // this turn
  const char* waits_for = "";
  Where waits_at;
  bool arrived_at_cluster = false;
  unsigned cluster_phase = 0;
  bool fenced = false;
  std::vector<const void*> relaxed_reads;  // since the last fence
  std::vector<Copy> open_copies;           // not committed yet
  std::deque<std::vector<Copy>> copy_groups;
};

// Of a block or a cluster; two phases are alive at a time, since nobody can be further ahead.
struct Barrier {
  int arrived = 0;
  unsigned phase = 0;
  const char* name = "";
  Where first;  // who came first in this phase
  std::vector<Thread*> waiting;
  Votes votes[2] = {};
  char order[2] = {};
};

struct Mbarrier {
  Where at;
  int count = 0, pending = 0;
  int64_t bytes = 0;  // that have been announced and not arrived
  unsigned phase = 0;
  char order[2] = {};
};

struct Collective {
  const char* name = "";
  uint32_t mask = 0, arrived = 0;
  Where first;
  Slots slots;
  char order = 0;
};

struct Warp {
  Block* block = nullptr;
  int first = 0;  // thread
  uint32_t ready = 0;
  int asleep = 0;  // rounds
  std::vector<std::shared_ptr<Collective>> open;
};

// An array of shared memory. Others lie beside it on a GPU; here red zones do.
struct SharedArray {
  static constexpr size_t red_zone = 128;
  unsigned char* data = nullptr;
  size_t bytes = 0, padded_bytes = 0, offset = 0;
  Where at;
};

struct Cluster;

struct Block {
  uint3 index = {};
  Cluster* cluster = nullptr;
  unsigned rank = 0;
  int live = 0;
  bool started = false;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  std::vector<SharedArray> arrays;
  std::map<const void*, Mbarrier> mbarriers;
  Barrier barrier;
};

struct Cluster {
  int live = 0;
  std::vector<std::unique_ptr<Block>> blocks;
  Barrier barrier;
};

struct PendingStore {
  Store store;
  const void* mbarrier;
  Block* peer;
  Thread* from;
};

class Machine {
 public:
  Machine(const Shape& shape, const std::function<void()>& kernel);
  void run();
  void abandon();  // unwinds what a failure has left behind

  const Shape shape;
  const std::function<void()>& kernel;
  std::string failure;
  bool abandoning = false;
  uint64_t changes = 0, ticks = 0;
  std::vector<PendingStore> stores;
  char begin = 0, end = 0;  // orders the host before and after the grid

  uint64_t random();
  unsigned below(unsigned n) { return static_cast<unsigned>(random() % n); }
  bool random_order() const { return options().order == Order::random; }

 private:
  void start_clusters();
  void start_block(Block& block);
  void retire_clusters();
  std::vector<Warp*> ready_warps();
  void take_turn(Warp& warp);
  void deliver_stores(bool nothing_else_happens);
  std::string waits() const;

  std::deque<unsigned> to_start;  // clusters
  size_t resident_limit = 0;
  std::vector<std::unique_ptr<Cluster>> resident;
  uint64_t random_state;
};

extern Machine* machine;  // null where no grid runs
extern Thread* current;   // null in the scheduler

void wait_for(const char* what, Where at);
void pass();  // stays ready, and lets others run
void wake(Thread& thread);
void leave_barriers(Thread& thread);

void open_shared(Block& block);
void check_red_zones(Block& block, Where at);
void free_shared(Block& block);
void deliver(const PendingStore& pending);
void deliver_stores_of(Thread& thread);
void complete_bytes(Block& block, const void* mbarrier, size_t bytes, Where at);
void snapshot_device_memory();
void check_device_memory();
void copy_bytes(void* to, const void* from, size_t bytes);  // as no interceptor of a sanitizer sees

}  // namespace emu
