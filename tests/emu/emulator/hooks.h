// What CUDA's functions and the wrappers of device.cuh call in the emulator. All of it runs on the fiber of the
// CUDA thread that calls; data that kernels own is moved by functions of cuda.h and device.h, which the sanitizers
// see.
#pragma once

#include "emulator.h"

namespace emu {

[[noreturn]] void fail(Where at, const char* format, ...) __attribute__((format(printf, 2, 3)));

// -- scheduling: others may run now; memory that others wait for has changed; a clock that counts its readings
void yield(Where at);
void note_change();
uint64_t clock();

// -- barriers. Where votes are counted, returns the number of true ones and the number of all
struct Votes {
  int yes, all;
};
Votes block_barrier(const char* name, bool vote, Where at);
void cluster_arrive(Where at);
void cluster_wait(Where at);
void require_cooperative(Where at);  // of a barrier over the whole grid
unsigned cluster_rank();
unsigned cluster_size();

// -- warps
constexpr int warp_lanes = 32, slot_bytes = 64;
struct Slots {  // what each lane brought, and what it takes with it
  alignas(16) unsigned char of_lane[warp_lanes][slot_bytes];
  template <class T>
  T& at(int lane) {
    static_assert(sizeof(T) <= slot_bytes);
    return *reinterpret_cast<T*>(of_lane[lane]);
  }
};
unsigned lane_index();
// The lanes of `mask` meet; the last one runs `finish`; each then gets slot `from`, or its own where that is
// negative. Only "__syncwarp" orders memory.
using Finish = void (*)(Slots& slots, uint32_t mask, Where at);
void collect(const char* name, uint32_t mask, const void* in, size_t in_bytes, void* out, size_t out_bytes, int from,
             Finish finish, Where at);

// -- order between accesses that are relaxed and have a fence beside them
void fence();
void before_relaxed_write(const void* address);
void after_relaxed_read(const void* address);

// -- shared memory
void* take_shared(unsigned index, size_t bytes, size_t alignment, Where at);  // index: the how manieth of this thread
void check_shared(const void* address, size_t bytes, const char* what, Where at);
void* peer_shared(const void* address, size_t bytes, unsigned rank, const char* what, Where at);

// -- copies that arrive later
struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  bool valid;  // else zeros
  void (*move)(const Copy& copy);
  Where at;
};
void copy_issue(const Copy& copy);
void copy_commit();
void copy_wait(unsigned groups_left);

struct Store {
  void* to;
  alignas(16) unsigned char value[16];
  size_t bytes;
  void (*move)(const Store& store);
  Where at;
};
// `to` and `mbarrier` are places in this block's shared memory that name the same ones in the peer's.
void store_later(const Store& store, const void* mbarrier, unsigned rank);

// -- mbarriers
void mbarrier_init(const void* mbarrier, unsigned count, Where at);
void mbarrier_arrive(const void* mbarrier, unsigned expected_bytes, Where at);
void mbarrier_arrive_peer(const void* mbarrier, unsigned rank, Where at);
bool mbarrier_done(const void* mbarrier, unsigned parity, Where at);

// -- device memory
void* device_allocate(size_t bytes);
void device_free(void* address);
void check_read_only(const void* address, size_t bytes, Where at);  // by __ldg

}  // namespace emu
