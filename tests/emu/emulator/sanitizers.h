// What the emulator tells the sanitizers, which see compiled kernels but not the emulator (it is the hardware, and
// is compiled without them). In builds without a sanitizer all of this is nothing.
#pragma once

#include <cstddef>

#ifdef EMU_THREAD_SANITIZER
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif
#ifdef EMU_ADDRESS_SANITIZER
extern "C" {
void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t bytes);
void __sanitizer_finish_switch_fiber(void* fake_stack, const void** old_bottom, size_t* old_bytes);
void __asan_poison_memory_region(const volatile void* address, size_t bytes);
void __asan_unpoison_memory_region(const volatile void* address, size_t bytes);
}
#endif

namespace emu {

// All that the caller has done happens before what follows happens_after() of the same address.
inline void happens_before([[maybe_unused]] const void* address) {
#ifdef EMU_THREAD_SANITIZER
  __tsan_release(const_cast<void*>(address));
#endif
}

inline void happens_after([[maybe_unused]] const void* address) {
#ifdef EMU_THREAD_SANITIZER
  __tsan_acquire(const_cast<void*>(address));
#endif
}

// While one lives, ThreadSanitizer does not see the fiber's memory accesses. Library templates and operator delete
// that the emulator calls may be instrumented; fibers share the emulator's data without any synchronisation.
class Unseen {
 public:
#ifdef EMU_THREAD_SANITIZER
  Unseen() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Unseen() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Unseen() {}
  ~Unseen() {}
#endif
  Unseen(const Unseen&) = delete;
  Unseen& operator=(const Unseen&) = delete;
};

// Lifts the one Unseen that a fiber is in, for what the kernel itself would do.
class Seen {
 public:
#ifdef EMU_THREAD_SANITIZER
  Seen() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
  ~Seen() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
#else
  Seen() {}
  ~Seen() {}
#endif
  Seen(const Seen&) = delete;
  Seen& operator=(const Seen&) = delete;
};

inline void forbid([[maybe_unused]] const void* address, [[maybe_unused]] size_t bytes) {
#ifdef EMU_ADDRESS_SANITIZER
  __asan_poison_memory_region(address, bytes);
#endif
}

inline void allow([[maybe_unused]] const void* address, [[maybe_unused]] size_t bytes) {
#ifdef EMU_ADDRESS_SANITIZER
  __asan_unpoison_memory_region(address, bytes);
#endif
}

}  // namespace emu
