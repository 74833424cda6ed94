// The thread pool: workers sleep until a call needs them, spin for a moment after it in case another follows at once.
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "dispatch.h"

namespace rnnkernels::cpu {
namespace {

constexpr int barrier_spins = 4000;  // some 50 us; then the waiting thread gives its time away
constexpr int idle_spins = 4000;     // a worker's before it sleeps

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins while `waiting` holds, then yields between looks. With more threads than CPUs it yields from the start.
template <class Waiting>
void spin(int spins, const Waiting& waiting) {
  for (int i = 0; waiting(); ++i) i < spins ? relax() : static_cast<void>(sched_yield());
}

thread_local bool inside_team = false;

#if defined(__linux__)
int current_cpu() { return sched_getcpu(); }

// Virtual machines report a halted CPU as taken, so Linux likes to wake a worker on its caller's own CPU, and needs some 5 ms
// to see the mistake. Forbidding that CPU for a moment moves the worker at once.
void leave_cpu(int cpu) {
  cpu_set_t allowed, others;
  if (cpu < 0 || cpu >= CPU_SETSIZE || sched_getcpu() != cpu) return;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < 2) return;
  others = allowed;
  CPU_CLR(static_cast<size_t>(cpu), &others);
  if (sched_setaffinity(0, sizeof others, &others) == 0) sched_setaffinity(0, sizeof allowed, &allowed);
}
#else
int current_cpu() { return -1; }
void leave_cpu(int) {}
#endif

}  // namespace

class Barrier {
 public:
  explicit Barrier(int size) : size_(size), spins_(size > usable_cpus() ? 0 : barrier_spins) {}

  void wait() {
    const unsigned phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
    } else {
      spin(spins_, [&] { return phase_.load(std::memory_order_acquire) == phase; });
    }
  }

 private:
  const int size_, spins_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> phase_{0};
};

void sync(const Team& team) {
  if (team.size > 1) team.barrier->wait();
}

namespace {

using Job = void (*)(void* context, int rank);

// A worker waits for its turn number to move. It sleeps on a condition after spinning in vain; `asleep_` tells the caller
// that a notification is needed.
class Worker {
 public:
  Worker(int rank, std::atomic<int>& running) : rank_(rank), running_(running) {
    sigset_t all, before;  // signals belong to the application's threads
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      std::thread([this] { loop(); }).detach();
    } catch (...) {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void start(Job job, void* context, const std::fenv_t& environment, int callers_cpu) {
    job_ = job;
    context_ = context;
    environment_ = environment;
    callers_cpu_ = callers_cpu;
    turn_.fetch_add(1);
    if (asleep_.load()) {
      std::lock_guard<std::mutex> lock(mutex_);
      wake_.notify_one();
    }
  }

 private:
  void loop() {
    inside_team = true;
    for (unsigned done = 0;; ++done) {
      wait_for_turn_after(done);
      leave_cpu(callers_cpu_);
      std::fesetenv(&environment_);  // rounding, and whether subnormals are flushed, are the caller's
      job_(context_, rank_);
      running_.fetch_sub(1, std::memory_order_release);
    }
  }

  void wait_for_turn_after(unsigned done) {
    for (int i = 0; i < idle_spins; ++i) {
      if (turn_.load(std::memory_order_acquire) != done) return;
      relax();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    asleep_.store(true);
    wake_.wait(lock, [&] { return turn_.load() != done; });
    asleep_.store(false);
  }

  const int rank_;
  std::atomic<int>& running_;
  Job job_ = nullptr;
  void* context_ = nullptr;
  std::fenv_t environment_{};
  int callers_cpu_ = -1;
  std::atomic<unsigned> turn_{0};
  std::atomic<bool> asleep_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

// Never destroyed: workers may outlive static destructors, and a forked child must forget it without a trace.
class Pool {
 public:
  // Runs job(context, rank) for `size` ranks; false if another call has the pool or threads cannot be had.
  bool run(int size, Job job, void* context) {
    std::unique_lock<std::mutex> turn(busy_, std::try_to_lock);
    if (!turn.owns_lock() || !grow(static_cast<size_t>(size - 1))) return false;
    std::fenv_t environment;
    std::fegetenv(&environment);
    running_.store(size - 1, std::memory_order_relaxed);
    const int cpu = current_cpu();
    for (int i = 0; i < size - 1; ++i) workers_[static_cast<size_t>(i)]->start(job, context, environment, cpu);
    inside_team = true;
    job(context, 0);
    inside_team = false;
    spin(size > usable_cpus() ? 0 : barrier_spins, [&] { return running_.load(std::memory_order_acquire) != 0; });
    return true;
  }

 private:
  bool grow(size_t count) {
    try {
      while (workers_.size() < count) {
        workers_.reserve(workers_.size() + 1);
        workers_.push_back(new Worker(static_cast<int>(workers_.size()) + 1, running_));
      }
    } catch (const std::system_error&) {
      return false;
    }
    return true;
  }

  std::mutex busy_;
  std::vector<Worker*> workers_;
  std::atomic<int> running_{0};
};

std::atomic<Pool*> the_pool{nullptr};

Pool& pool() {
  static std::once_flag fork_handler;
  std::call_once(fork_handler, [] { pthread_atfork(nullptr, nullptr, [] { the_pool.store(nullptr); }); });
  Pool* current = the_pool.load();
  if (!current) {
    Pool* fresh = new Pool;
    if (the_pool.compare_exchange_strong(current, fresh)) return *fresh;
    delete fresh;
  }
  return *current;
}

struct TeamRun {
  TeamFunction body;
  void* context;
  int size;
  Barrier barrier;
};

struct TwinRun {
  TwinFunction body;
  void* context;
  int sizes[2];
  Barrier barriers[2];
};

}  // namespace

void run_team(int size, TeamFunction body, void* context) {
  if (size > 1 && !inside_team) {
    TeamRun run{body, context, size, Barrier(size)};
    const Job job = [](void* raw, int rank) {
      TeamRun& r = *static_cast<TeamRun*>(raw);
      r.body(r.context, {rank, r.size, &r.barrier});
    };
    if (pool().run(size, job, &run)) return;
  }
  body(context, {0, 1, nullptr});
}

void run_twin_teams(int size, TwinFunction body, void* context) {
  if (size > 1 && !inside_team) {
    const int first = (size + 1) / 2, second = size - first;
    TwinRun run{body, context, {first, second}, {Barrier(first), Barrier(second)}};
    const Job job = [](void* raw, int rank) {
      TwinRun& r = *static_cast<TwinRun*>(raw);
      const int which = rank < r.sizes[0] ? 0 : 1;
      r.body(r.context, which, {which ? rank - r.sizes[0] : rank, r.sizes[which], &r.barriers[which]});
    };
    if (pool().run(size, job, &run)) return;
  }
  for (int which = 0; which < 2; ++which) body(context, which, {0, 1, nullptr});
}

}  // namespace rnnkernels::cpu
