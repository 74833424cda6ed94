// What this machine has: instruction sets (CPU and operating system together), CPUs given to this process, cache.
#include <thread>

#include "dispatch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace rnnkernels::cpu {

#if defined(__x86_64__)
// __builtin_cpu_supports knows it in recent compilers only.
static bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

#if defined(RNNKERNELS_EMULATE_AMX)
static bool has_amx() { return true; }
#elif defined(__x86_64__) && defined(__linux__)
// Tiles are 8 KiB of state that Linux saves for threads of processes that asked to use them (its
// Documentation/arch/x86/xstate.rst); once asked, all of this process' threads may.
static bool has_amx() {
  constexpr unsigned bf16 = 1u << 22, tiles = 1u << 24, int8 = 1u << 25, all = bf16 | tiles | int8;
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & all) != all) return false;
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#else
static bool has_amx() { return false; }
#endif

// The features named here are those of cmake/CpuKernels.cmake.
static bool supported(Isa isa) {
  switch (isa) {
    case Isa::scalar: return true;
#if defined(__x86_64__)
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
             __builtin_cpu_supports("bmi2") && has_f16c();
    case Isa::avx512:
      return supported(Isa::avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
    case Isa::avx512bf16: return supported(Isa::avx512) && __builtin_cpu_supports("avx512bf16");
    case Isa::amx: return supported(Isa::avx512) && has_amx();
#elif defined(__aarch64__)
    case Isa::neon: return true;
#endif
    default: return false;
  }
}

bool isa_available(Isa isa) {
  static const bool available[] = {supported(Isa::scalar), supported(Isa::neon),       supported(Isa::avx2),
                                   supported(Isa::avx512), supported(Isa::avx512bf16), supported(Isa::amx)};
  return isa_compiled(isa) && available[static_cast<int>(isa)];
}

bool has_vnni() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

const char* isa_name(Isa isa) {
  static const char* const names[] = {"scalar", "neon", "avx2", "avx512", "avx512bf16", "amx"};
  return names[static_cast<int>(isa)];
}

Isa best_isa() {
  for (Isa isa : {Isa::amx, Isa::avx512bf16, Isa::avx512, Isa::avx2, Isa::neon}) {
    if (isa_available(isa)) return isa;
  }
  return Isa::scalar;
}

static int count_cpus() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count ? static_cast<int>(count) : 1;
}

int usable_cpus() {
  static const int cpus = count_cpus();
  return cpus;
}

static int64_t find_l2_bytes() {
  int64_t bytes = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
  bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#elif defined(__APPLE__)
  size_t size = sizeof bytes;
  if (sysctlbyname("hw.l2cachesize", &bytes, &size, nullptr, 0) != 0) bytes = 0;
#endif
  constexpr int64_t likely = 512 * 1024;  // where the system does not tell
  return bytes > 0 ? bytes : likely;
}

int64_t l2_bytes() {
  static const int64_t bytes = find_l2_bytes();
  return bytes;
}

}  // namespace rnnkernels::cpu
