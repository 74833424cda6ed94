// A function with a stack of its own that the scheduler resumes and that suspends itself. To ThreadSanitizer every
// fiber is a thread, and a switch synchronises nothing: what orders two fibers is what the kernel does.
#pragma once

#include "sanitizers.h"

#if !defined(__x86_64__) || !defined(__linux__) || defined(EMU_UCONTEXT)
#define EMU_USE_UCONTEXT
#include <ucontext.h>
#endif

namespace emu {

class Fiber {
 public:
  explicit Fiber(void (*entry)());  // which must not return: it ends with leave()
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  void resume();              // by the scheduler; comes back when the fiber suspends or leaves
  static void suspend();      // by the running fiber
  static void end_of_grid();  // what has happened is ordered before all that follows
  [[noreturn]] static void leave();

  // Charges what `act` does to this suspended fiber, in the eyes of ThreadSanitizer.
  template <class Act>
  void impersonate(Act act);

 private:
#ifdef EMU_USE_UCONTEXT
  using Context = ucontext_t;
#else
  using Context = void*;  // the stack pointer; everything else lies on the stack
#endif
  static void enter();
  static void back(bool for_good);
  static void swap(Context& from, Context& to);

  static Fiber* running_;
  static Context scheduler_;

  void (*entry_)();
  Context context_;
  char* stack_;
  void* thread_;                // ThreadSanitizer's name for this fiber
  void* fake_stack_ = nullptr;  // AddressSanitizer's
};

template <class Act>
void Fiber::impersonate(Act act) {
#ifdef EMU_THREAD_SANITIZER
  constexpr unsigned no_synchronisation = 1;
  void* self = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(thread_, no_synchronisation);
  act();
  __tsan_switch_to_fiber(self, no_synchronisation);
#else
  act();
#endif
}

}  // namespace emu
