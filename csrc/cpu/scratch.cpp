// Blocks for Scratch: allocated with a header before them, and kept in a few slots between calls.
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
constexpr size_t kept_from = size_t(1) << 16;  // bytes of a block worth keeping
constexpr size_t most_kept = size_t(1) << 28;  // of all of them

#if defined(__SANITIZE_ADDRESS__)
constexpr int kept_blocks = 0;  // a block of another call's size would hide where this one's ends
#else
constexpr int kept_blocks = 4;
#endif

// In the line before the caller's bytes.
struct Header {
  size_t size;  // of the block, header and all
};

// Each slot holds a free block or null; exchanging the pointer takes or gives it, so neither threads nor fork need a lock.
std::atomic<Header*> kept[kept_blocks + 1];
std::atomic<size_t> kept_bytes;  // and of blocks on their way in

void release(Header* block) {
  kept_bytes -= block->size;
  std::free(block);
}

Header* take_kept(size_t size) {
  for (int i = 0; i < kept_blocks; ++i) {
    Header* block = kept[i].exchange(nullptr);
    if (!block) continue;
    if (block->size >= size && block->size / 4 <= size) {
      kept_bytes -= block->size;
      return block;
    }
    Header* none = nullptr;
    if (!kept[i].compare_exchange_strong(none, block)) release(block);
  }
  return nullptr;
}

// The newest block goes to the first slot and moves the others down; the oldest are freed, for want of slots or of room.
void keep(Header* block) {
  kept_bytes += block->size;
  for (int i = kept_blocks - 1; i >= 0 && kept_bytes > most_kept; --i) {
    if (Header* old = kept[i].exchange(nullptr)) release(old);
  }
  for (int i = 0; i < kept_blocks && block; ++i) block = kept[i].exchange(block);
  if (block) release(block);
}

bool worth_keeping(size_t size) { return size >= kept_from && size <= most_kept; }

// A page of 4 KiB every few rows of a panel would cost the recurrence some per cent.
Header* allocate(size_t size) {
  const size_t alignment = size < huge_page ? line : huge_page;
  size = (size + alignment - 1) / alignment * alignment;
  void* block = std::aligned_alloc(alignment, size);
  if (!block) throw std::bad_alloc();
#if defined(__linux__)
  if (alignment == huge_page) madvise(block, size, MADV_HUGEPAGE);
#endif
  return new (block) Header{size};
}

}  // namespace

Scratch::Scratch(size_t bytes) : data(nullptr) {
  if (bytes == 0) return;
  if (bytes > SIZE_MAX - huge_page - line) throw std::bad_alloc();
  const size_t size = bytes + line;
  Header* block = worth_keeping(size) ? take_kept(size) : nullptr;
  if (!block) block = allocate(size);
  data = reinterpret_cast<char*>(block) + line;
}

Scratch::~Scratch() {
  if (!data) return;
  Header* block = reinterpret_cast<Header*>(data - line);
  worth_keeping(block->size) ? keep(block) : std::free(block);
}

}  // namespace rnnkernels::cpu
