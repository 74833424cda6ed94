// Blocks for Scratch, kept in a few slots between calls.
#include "scratch.h"

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace rnnkernels::cpu {
namespace {

constexpr size_t line = 64, huge_page = size_t(1) << 21;
constexpr size_t most_kept = size_t(1) << 29;  // of all of them

#if defined(__SANITIZE_ADDRESS__)
constexpr bool exact = true;  // what is too large would hide where a call's bytes end
#else
constexpr bool exact = false;
#endif
constexpr int kept_blocks = exact ? 0 : 32;  // of two training steps, since the new one begins while the old is held

// What a block holds while it is free.
struct Free {
  size_t size;  // of the block
};

// Each slot holds a free block or null; exchanging the pointer takes or gives it, so neither threads nor fork need a lock.
std::atomic<Free*> kept[kept_blocks + 1];
std::atomic<size_t> kept_bytes;  // and of blocks on their way in

void release(Free* block) {
  kept_bytes -= block->size;
  std::free(block);
}

Free* take_kept(size_t least, size_t most) {
  for (int i = 0; i < kept_blocks; ++i) {
    Free* block = kept[i].load() ? kept[i].exchange(nullptr) : nullptr;
    if (!block) continue;
    if (least <= block->size && block->size <= most) {
      kept_bytes -= block->size;
      return block;
    }
    Free* none = nullptr;
    if (!kept[i].compare_exchange_strong(none, block)) release(block);
  }
  return nullptr;
}

// Calls that repeat find the size they left; others may waste a third of a block.
Free* take_kept(size_t size) {
  Free* block = take_kept(size, size);
  return block ? block : take_kept(size, size + size / 2);
}

// The newest block goes to the first slot and moves the others down; the oldest are freed, for want of slots or of room.
void keep(Free* block) {
  kept_bytes += block->size;
  for (int i = kept_blocks - 1; i >= 0 && kept_bytes > most_kept; --i) {
    if (Free* old = kept[i].exchange(nullptr)) release(old);
  }
  for (int i = 0; i < kept_blocks && block; ++i) block = kept[i].exchange(block);
  if (block) release(block);
}

bool worth_keeping(size_t size) { return size >= kept_from && size <= most_kept; }

size_t round_up(size_t size) { return exact ? size : (size + line - 1) / line * line; }

// A page of 4 KiB every few rows of a panel would cost the recurrence some per cent. What whole huge pages leave over gets
// small ones: callers may keep many results.
void* allocate(size_t size) {
  const bool huge = size >= huge_page && !exact;
  void* block = nullptr;
  if (posix_memalign(&block, huge ? huge_page : line, size) != 0) throw std::bad_alloc();
#if defined(__linux__)
  if (huge) madvise(block, size / huge_page * huge_page, MADV_HUGEPAGE);
#endif
  return block;
}

}  // namespace

Scratch::Scratch(size_t bytes) {
  if (bytes == 0) return;
  if (bytes > SIZE_MAX - line) throw std::bad_alloc();
  size_ = round_up(bytes);
  Free* kept_block = worth_keeping(size_) ? take_kept(size_) : nullptr;
  if (kept_block) size_ = kept_block->size;
  data = static_cast<char*>(kept_block ? kept_block : allocate(size_));
}

Scratch::~Scratch() {
  if (!data) return;
  worth_keeping(size_) ? keep(new (data) Free{size_}) : std::free(data);
}

}  // namespace rnnkernels::cpu
