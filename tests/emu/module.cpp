// The order in which the extension module of emulated kernels runs them; programs.py links it with the sources of _cuda.
#include <emulator/emulator.h>

#include <cstdlib>

namespace {

const bool chosen = [] {
  const char* seed = std::getenv("EMU_SEED");
  emu::options().order = emu::Order::random;
  emu::options().seed = seed ? std::strtoull(seed, nullptr, 10) : 1;
  return true;
}();

}  // namespace
