// Memory: shared arrays between red zones, copies and stores that arrive late, and device memory that knows what
// it held when the grid began.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "machine.h"

namespace emu {

constexpr unsigned char poison = 0xff;  // a NaN in every floating-point type

void copy_bytes(void* to, const void* from, size_t bytes) {
  volatile unsigned char* out = static_cast<unsigned char*>(to);
  for (size_t i = 0; i < bytes; ++i) out[i] = static_cast<const unsigned char*>(from)[i];
}

namespace {

void fill(void* to, size_t bytes) {
  volatile unsigned char* out = static_cast<unsigned char*>(to);
  for (size_t i = 0; i < bytes; ++i) out[i] = poison;
}

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// Exactly `bytes` of an aligned block, so that AddressSanitizer knows where it ends.
void* allocate(size_t bytes, size_t alignment) {
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, std::max<size_t>(bytes, 1))) throw std::bad_alloc();
  return memory;
}

bool holds(const SharedArray& array, const void* address, size_t bytes) {
  const auto* p = static_cast<const unsigned char*>(address);
  return p >= array.data && p + bytes <= array.data + array.bytes;
}

}  // namespace

// ---- shared memory

void* take_shared(unsigned index, size_t bytes, size_t alignment, Where at) {
  Unseen unseen;
  Block& block = *current->block;
  if (index < block.arrays.size()) {
    if (block.arrays[index].bytes != bytes)
      fail(at, "shared memory: array %u has %zu bytes here, and %zu at %s:%d", index, bytes, block.arrays[index].bytes,
           block.arrays[index].at.file, block.arrays[index].at.line);
    return block.arrays[index].data;
  }
  SharedArray array;
  const size_t end = block.arrays.empty() ? 0 : block.arrays.back().offset + block.arrays.back().bytes;
  array.offset = round_up(end, alignment);
  array.bytes = bytes;
  array.at = at;
  if (array.offset + bytes > machine->shape.shared_bytes)
    fail(at, "shared memory: bytes %zu to %zu, and the launch gave %zu", array.offset, array.offset + bytes,
         machine->shape.shared_bytes);
  array.padded_bytes = round_up(bytes, SharedArray::red_zone);
  const size_t zones = 2 * SharedArray::red_zone;
  auto* memory = static_cast<unsigned char*>(allocate(array.padded_bytes + zones, SharedArray::red_zone));
  fill(memory, array.padded_bytes + zones);
  array.data = memory + SharedArray::red_zone;
  forbid(memory, SharedArray::red_zone);
  forbid(array.data + bytes, array.padded_bytes - bytes + SharedArray::red_zone);
  block.arrays.push_back(array);
  return array.data;
}

void check_red_zones(Block& block, Where at) {
  for (const SharedArray& array : block.arrays) {
    const unsigned char* end = array.data + array.padded_bytes + SharedArray::red_zone;
    auto written = [](unsigned char byte) { return byte != poison; };
    if (std::any_of(array.data - SharedArray::red_zone, array.data, written))
      fail(at, "shared memory: written before the array of %s:%d", array.at.file, array.at.line);
    if (std::any_of<const unsigned char*>(array.data + array.bytes, end, written))
      fail(at, "shared memory: written behind the array of %s:%d", array.at.file, array.at.line);
  }
}

void free_shared(Block& block) {
  for (SharedArray& array : block.arrays) {
    unsigned char* memory = array.data - SharedArray::red_zone;
    allow(memory, array.padded_bytes + 2 * SharedArray::red_zone);
    std::free(memory);
  }
  block.arrays.clear();
}

void check_shared(const void* address, size_t bytes, const char* what, Where at) {
  for (const SharedArray& array : current->block->arrays)
    if (holds(array, address, bytes)) return;
  fail(at, "%s: %zu bytes that do not lie in an array of shared memory", what, bytes);
}

void* peer_shared(const void* address, size_t bytes, unsigned rank, const char* what, Where at) {
  Unseen unseen;
  Block& own = *current->block;
  check_shared(address, bytes, what, at);
  if (rank >= machine->shape.cluster) fail(at, "%s: rank %u of a cluster of %u", what, rank, machine->shape.cluster);
  Block& peer = *own.cluster->blocks[rank];
  if (peer.started && peer.live == 0) fail(at, "%s: the block of rank %u has ended", what, rank);
  for (size_t i = 0; i < own.arrays.size(); ++i) {
    if (!holds(own.arrays[i], address, bytes)) continue;
    if (i >= peer.arrays.size()) fail(at, "%s: the block of rank %u has not come to its arrays yet", what, rank);
    return peer.arrays[i].data + (static_cast<const unsigned char*>(address) - own.arrays[i].data);
  }
  std::abort();  // check_shared has found it
}

// ---- copies that a thread waits for

namespace {

bool arrives_early() { return machine->random_order() && machine->below(2); }

}  // namespace

void copy_issue(const Copy& copy) {
  bool early;
  {
    Unseen unseen;
    check_shared(copy.to, copy.bytes, "copy_async", copy.at);
    if (reinterpret_cast<uintptr_t>(copy.to) % copy.bytes ||
        (copy.valid && reinterpret_cast<uintptr_t>(copy.from) % copy.bytes))
      fail(copy.at, "copy_async: an address is no multiple of %zu", copy.bytes);
    early = arrives_early();
    current->open_copies.push_back(copy);
    if (!early) fill(copy.to, copy.bytes);
  }
  if (early) copy.move(copy);
}

void copy_commit() {
  Unseen unseen;
  current->copy_groups.push_back(std::move(current->open_copies));
  current->open_copies.clear();
}

void copy_wait(unsigned groups_left) {
  std::vector<Copy> due;
  {
    Unseen unseen;
    auto& groups = current->copy_groups;
    for (; groups.size() > groups_left; groups.pop_front())
      due.insert(due.end(), groups.front().begin(), groups.front().end());
  }
  for (size_t i = due.size(); i > 0; --i) due[i - 1].move(due[i - 1]);
  Unseen unseen;
  due = {};
}

// ---- stores that arrive at a peer

void store_later(const Store& store, const void* mbarrier, unsigned rank) {
  Unseen unseen;
  Store there = store;
  there.to = peer_shared(store.to, store.bytes, rank, "store_async", store.at);
  const void* barrier = peer_shared(mbarrier, 8, rank, "store_async", store.at);
  if (reinterpret_cast<uintptr_t>(store.to) % store.bytes)
    fail(store.at, "store_async: the address is no multiple of %zu", store.bytes);
  machine->stores.push_back({there, barrier, current->block->cluster->blocks[rank].get(), current});
}

void deliver(const PendingStore& pending) {
  if (pending.peer->live == 0) fail(pending.store.at, "store_async: the peer has ended before this store arrives");
  auto arrive = [&] {
    {
      Seen seen;
      pending.store.move(pending.store);
    }
    complete_bytes(*pending.peer, pending.mbarrier, pending.store.bytes, pending.store.at);
  };
  if (current)
    arrive();
  else
    pending.from->fiber.impersonate(arrive);
}

void deliver_stores_of(Thread& thread) {
  for (size_t i = 0; i < machine->stores.size();) {
    if (machine->stores[i].from != &thread) {
      ++i;
      continue;
    }
    const PendingStore pending = machine->stores[i];
    machine->stores.erase(machine->stores.begin() + static_cast<ptrdiff_t>(i));
    deliver(pending);
  }
}

// ---- device memory

namespace {

struct Allocation {
  size_t bytes;
  std::vector<unsigned char> before;  // what it held when the grid began
  std::vector<uint16_t> read_at;      // by __ldg: 1 + index in `readers`, or 0
};

std::map<const unsigned char*, Allocation> allocations;
std::vector<Where> readers;

[[noreturn]] void fail_written(Where at) { fail(at, "__ldg: reads what the same kernel writes, and may get either"); }

uint16_t reader(Where at) {
  if (readers.empty() || readers.back().line != at.line || readers.back().file != at.file) readers.push_back(at);
  return static_cast<uint16_t>(std::min<size_t>(readers.size(), UINT16_MAX));
}

}  // namespace

void* device_allocate(size_t bytes) {
  void* memory = allocate(bytes, 256);
  std::memset(memory, poison, bytes);
  allocations[static_cast<unsigned char*>(memory)] = {bytes, {}, {}};
  return memory;
}

void device_free(void* address) {
  allocations.erase(static_cast<unsigned char*>(address));
  std::free(address);
}

void snapshot_device_memory() {
  readers.clear();
  for (auto& [data, allocation] : allocations) {
    allocation.before.resize(allocation.bytes);
    copy_bytes(allocation.before.data(), data, allocation.bytes);
    allocation.read_at.assign(allocation.bytes, 0);
  }
}

void check_read_only(const void* address, size_t bytes, Where at) {
  Unseen unseen;
  const auto* p = static_cast<const unsigned char*>(address);
  auto found = allocations.upper_bound(p);
  if (found == allocations.begin()) fail(at, "__ldg: not of device memory");
  --found;
  auto& [data, allocation] = *found;
  const size_t first = static_cast<size_t>(p - data);
  if (first + bytes > allocation.bytes) fail(at, "__ldg: not of device memory");
  for (size_t i = first; i < first + bytes; ++i) {
    if (p[i - first] != allocation.before[i]) fail_written(at);
    allocation.read_at[i] = reader(at);
  }
}

void check_device_memory() {
  for (const auto& [data, allocation] : allocations)
    for (size_t i = 0; i < allocation.bytes; ++i)
      if (allocation.read_at[i] && data[i] != allocation.before[i]) fail_written(readers[allocation.read_at[i] - 1u]);
}

}  // namespace emu
