// Where CUDA threads meet: barriers of blocks and clusters, operations of a warp, mbarriers.
#include <cstring>

#include "machine.h"

namespace emu {
namespace {

bool same(Where a, Where b) { return a.line == b.line && std::strcmp(a.file, b.file) == 0; }

void open(Barrier& barrier, int all) {
  barrier.votes[barrier.phase & 1].all = all;
  barrier.arrived = 0;
  ++barrier.phase;
  ++machine->changes;
  for (Thread* thread : barrier.waiting) wake(*thread);
  barrier.waiting.clear();
}

// Returns the phase that the thread has arrived in.
unsigned arrive(Barrier& barrier, const char* name, bool vote, int all, Where at) {
  const unsigned phase = barrier.phase;
  if (barrier.arrived == 0) {
    barrier.name = name;
    barrier.first = at;
    barrier.votes[phase & 1] = {};
  } else if (!same(at, barrier.first)) {
    fail(at, "%s: a divergent barrier, others have come to %s at %s:%d", name, barrier.name, barrier.first.file,
         barrier.first.line);
  }
  happens_before(&barrier.order[phase & 1]);
  barrier.votes[phase & 1].yes += vote;
  if (++barrier.arrived == all) open(barrier, all);
  return phase;
}

// The last to arrive lets others go first, as they may on a GPU.
void wait_in(Barrier& barrier, unsigned phase, const char* name, Where at) {
  if (barrier.phase == phase) {
    barrier.waiting.push_back(current);
    wait_for(name, at);
  } else {
    pass();
  }
  happens_after(&barrier.order[phase & 1]);
}

}  // namespace

Votes block_barrier(const char* name, bool vote, Where at) {
  Unseen unseen;
  Block& block = *current->block;
  check_red_zones(block, at);
  const unsigned phase = arrive(block.barrier, name, vote, block.live, at);
  wait_in(block.barrier, phase, name, at);
  return block.barrier.votes[phase & 1];
}

void cluster_arrive(Where at) {
  Unseen unseen;
  Cluster& cluster = *current->block->cluster;
  if (current->arrived_at_cluster) fail(at, "cluster barrier: arrives twice without a wait between");
  current->arrived_at_cluster = true;
  current->cluster_phase = arrive(cluster.barrier, "cluster barrier", false, cluster.live, at);
}

void cluster_wait(Where at) {
  Unseen unseen;
  if (!current->arrived_at_cluster) fail(at, "cluster barrier: waits without having arrived");
  current->arrived_at_cluster = false;
  wait_in(current->block->cluster->barrier, current->cluster_phase, "cluster barrier", at);
}

void require_cooperative(Where at) {
  if (!machine->shape.cooperative) fail(at, "a barrier over the grid, whose launch was not cooperative");
}

unsigned cluster_rank() { return current->block->rank; }
unsigned cluster_size() { return machine->shape.cluster; }

// Barriers are of the threads that are left.
void leave_barriers(Thread& thread) {
  Block& block = *thread.block;
  if (thread.arrived_at_cluster)
    fail(block.cluster->barrier.first, "cluster barrier: the thread ends before it has waited");
  if (block.live == 1) check_red_zones(block, block.barrier.first);
  if (block.barrier.arrived && block.barrier.arrived == block.live - 1) open(block.barrier, block.live - 1);
  Cluster& cluster = *block.cluster;
  if (cluster.barrier.arrived && cluster.barrier.arrived == cluster.live - 1) open(cluster.barrier, cluster.live - 1);
}

// ---- warps

namespace {

// The operation that lanes of this mask have opened, or a new one. Lanes may meet in several, one after the other;
// but two do not wait for each other in different ones.
std::shared_ptr<Collective> meet(Warp& warp, const char* name, uint32_t mask, Where at) {
  for (auto& open : warp.open) {
    if (open->mask == mask && std::strcmp(open->name, name) == 0) return open;
    if (open->mask >> current->lane & 1 && open->arrived & mask)
      fail(at, "%s with mask %08x meets %s with mask %08x at %s:%d", name, mask, open->name, open->mask,
           open->first.file, open->first.line);
  }
  warp.open.push_back(std::make_shared<Collective>());
  Collective& fresh = *warp.open.back();
  fresh.name = name;
  fresh.mask = mask;
  fresh.first = at;
  return warp.open.back();
}

void check_lanes(const Block& block, const Warp& warp, const char* name, uint32_t mask, Where at) {
  if (!(mask >> current->lane & 1)) fail(at, "%s: lane %d calls with mask %08x", name, current->lane, mask);
  for (int lane = 0; lane < warp_lanes; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const size_t thread = static_cast<size_t>(warp.first + lane);
    if (thread >= block.threads.size()) fail(at, "%s: the block has no lane %d of mask %08x", name, lane, mask);
    if (block.threads[thread]->state == State::done) fail(at, "%s: lane %d of mask %08x has ended", name, lane, mask);
  }
}

void complete(Warp& warp, Collective& operation) {
  ++machine->changes;
  for (int lane = 0; lane < warp_lanes; ++lane)
    if (operation.mask >> lane & 1 && lane != current->lane) wake(*warp.block->threads[warp.first + lane]);
  for (size_t i = 0; i < warp.open.size(); ++i) {
    if (warp.open[i].get() != &operation) continue;
    warp.open.erase(warp.open.begin() + static_cast<ptrdiff_t>(i));
    return;
  }
}

}  // namespace

void collect(const char* name, uint32_t mask, const void* in, size_t in_bytes, void* out, size_t out_bytes, int from,
             Finish finish, Where at) {
  Unseen unseen;
  Block& block = *current->block;
  Warp& warp = block.warps[current->warp];
  const int lane = current->lane;
  const bool orders_memory = std::strcmp(name, "__syncwarp") == 0;
  check_lanes(block, warp, name, mask, at);
  if (from >= 0 && !(mask >> from & 1)) fail(at, "%s: reads lane %d, which mask %08x has not", name, from, mask);
  const std::shared_ptr<Collective> operation = meet(warp, name, mask, at);
  copy_bytes(operation->slots.of_lane[lane], in, in_bytes);
  if (orders_memory) happens_before(&operation->order);
  operation->arrived |= 1u << lane;
  if (operation->arrived == mask) {
    if (finish) finish(operation->slots, mask, at);
    complete(warp, *operation);
    pass();
  } else {
    wait_for(name, at);
  }
  if (orders_memory) happens_after(&operation->order);
  copy_bytes(out, operation->slots.of_lane[from < 0 ? lane : from], out_bytes);
}

// ---- mbarriers

namespace {

Mbarrier& find(Block& block, const void* mbarrier, Where at) {
  const auto found = block.mbarriers.find(mbarrier);
  if (found == block.mbarriers.end()) fail(at, "mbarrier: used before its initialisation");
  return found->second;
}

void complete_phase(Mbarrier& barrier) {
  ++machine->changes;
  if (barrier.pending || barrier.bytes) return;
  barrier.pending = barrier.count;
  ++barrier.phase;
}

void arrive(Block& block, const void* mbarrier, int64_t expected_bytes, Where at) {
  Mbarrier& barrier = find(block, mbarrier, at);
  if (barrier.pending == 0) fail(at, "mbarrier: more arrivals in a phase than the %d it counts", barrier.count);
  happens_before(&barrier.order[barrier.phase & 1]);
  barrier.bytes += expected_bytes;
  --barrier.pending;
  complete_phase(barrier);
}

}  // namespace

void mbarrier_init(const void* mbarrier, unsigned count, Where at) {
  Unseen unseen;
  check_shared(mbarrier, 8, "mbarrier", at);
  if (count < 1) fail(at, "mbarrier: counts no arrivals");
  Mbarrier& barrier = current->block->mbarriers[mbarrier] = {};
  barrier.at = at;
  barrier.count = barrier.pending = static_cast<int>(count);
}

void mbarrier_arrive(const void* mbarrier, unsigned expected_bytes, Where at) {
  Unseen unseen;
  arrive(*current->block, mbarrier, expected_bytes, at);
}

void mbarrier_arrive_peer(const void* mbarrier, unsigned rank, Where at) {
  Unseen unseen;
  const void* there = peer_shared(mbarrier, 8, rank, "mbarrier", at);
  arrive(*current->block->cluster->blocks[rank], there, 0, at);
}

bool mbarrier_done(const void* mbarrier, unsigned parity, Where at) {
  Unseen unseen;
  if (parity > 1) fail(at, "mbarrier: a parity of %u", parity);
  Mbarrier& barrier = find(*current->block, mbarrier, at);
  if ((barrier.phase & 1) == parity) return false;
  happens_after(&barrier.order[parity]);
  return true;
}

void complete_bytes(Block& block, const void* mbarrier, size_t bytes, Where at) {
  Mbarrier& barrier = find(block, mbarrier, at);
  happens_before(&barrier.order[barrier.phase & 1]);
  barrier.bytes -= static_cast<int64_t>(bytes);
  complete_phase(barrier);
}

}  // namespace emu
