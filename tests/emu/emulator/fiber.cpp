// Fibers: how to switch stacks, and what the sanitizers must hear about it.
#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#include "sanitizers.h"

namespace emu {
namespace {

#if defined(EMU_ADDRESS_SANITIZER) || defined(EMU_THREAD_SANITIZER)
constexpr size_t stack_bytes = 512 * 1024;  // instrumented frames are large
#else
constexpr size_t stack_bytes = 128 * 1024;
#endif
constexpr size_t guard_bytes = 4096;  // below the stack: an overflow faults

// Making a stack, or a thread of ThreadSanitizer's, takes long: both are used again. ThreadSanitizer would see two
// threads of one grid race on a stack that both have had, so that there it rests until the grid has ended.
struct Resources {
  char* stack;
  void* thread;
};
std::vector<Resources> free_resources, resting_resources;

Resources take_resources() {
  if (!free_resources.empty()) {
    const Resources taken = free_resources.back();
    free_resources.pop_back();
    return taken;
  }
  void* pages = mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) throw std::bad_alloc();
  mprotect(pages, guard_bytes, PROT_NONE);
  void* thread = nullptr;
#ifdef EMU_THREAD_SANITIZER
  thread = __tsan_create_fiber(0);
#endif
  return {static_cast<char*>(pages) + guard_bytes, thread};
}

#ifdef EMU_ADDRESS_SANITIZER
const void* scheduler_stack;
size_t scheduler_stack_bytes;
void* scheduler_fake_stack;
#endif
#ifdef EMU_THREAD_SANITIZER
constexpr unsigned no_synchronisation = 1;
void* scheduler_thread;
#endif

}  // namespace

Fiber* Fiber::running_ = nullptr;
Fiber::Context Fiber::scheduler_;

#ifdef EMU_USE_UCONTEXT

void Fiber::swap(Context& from, Context& to) { swapcontext(&from, &to); }

#else

// Pushes what a function must preserve, changes stacks, and pops the same of the other fiber.
extern "C" void emu_swap_stacks(void** save, void* load);
asm(R"(
.text
.type emu_swap_stacks, @function
emu_swap_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_swap_stacks, .-emu_swap_stacks
)");

void Fiber::swap(Context& from, Context& to) { emu_swap_stacks(&from, to); }

#endif

Fiber::Fiber(void (*entry)()) : entry_(entry) {
  const Resources taken = take_resources();
  stack_ = taken.stack;
  thread_ = taken.thread;
#ifdef EMU_USE_UCONTEXT
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = stack_bytes;
  context_.uc_link = nullptr;
  makecontext(&context_, enter, 0);
#else
  constexpr int preserved = 6;
  void** top = reinterpret_cast<void**>(stack_ + stack_bytes);
  *--top = nullptr;  // in place of a return address: unwinders stop here, and the stack is aligned as after a call
  *--top = reinterpret_cast<void*>(enter);
  for (int i = 0; i < preserved; ++i) *--top = nullptr;
  context_ = top;
#endif
}

Fiber::~Fiber() {
  allow(stack_, stack_bytes);
#ifdef EMU_THREAD_SANITIZER
  resting_resources.push_back({stack_, thread_});
#else
  free_resources.push_back({stack_, thread_});
#endif
}

void Fiber::end_of_grid() {
  free_resources.insert(free_resources.end(), resting_resources.begin(), resting_resources.end());
  resting_resources.clear();
}

void Fiber::resume() {
  running_ = this;
#ifdef EMU_THREAD_SANITIZER
  scheduler_thread = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(thread_, no_synchronisation);
#endif
#ifdef EMU_ADDRESS_SANITIZER
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, stack_, stack_bytes);
#endif
  swap(scheduler_, context_);
#ifdef EMU_ADDRESS_SANITIZER
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
  running_ = nullptr;
}

void Fiber::enter() {
#ifdef EMU_ADDRESS_SANITIZER
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
  running_->entry_();
  leave();
}

void Fiber::back([[maybe_unused]] bool for_good) {
  Fiber* self = running_;
#ifdef EMU_THREAD_SANITIZER
  __tsan_switch_to_fiber(scheduler_thread, no_synchronisation);
#endif
#ifdef EMU_ADDRESS_SANITIZER
  __sanitizer_start_switch_fiber(for_good ? nullptr : &self->fake_stack_, scheduler_stack, scheduler_stack_bytes);
#endif
  swap(self->context_, scheduler_);
#ifdef EMU_ADDRESS_SANITIZER
  __sanitizer_finish_switch_fiber(self->fake_stack_, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

void Fiber::suspend() { back(false); }

void Fiber::leave() {
  back(true);
  std::abort();  // nobody resumes a fiber that has left
}

}  // namespace emu
