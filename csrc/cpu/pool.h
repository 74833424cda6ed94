// Our own threads: a call borrows a team, its members meet at barriers, nobody outside waits for them.
//
// Not OpenMP: libgomp hangs in a forked child after a parallel region and mixes its settings with PyTorch's. A call that
// finds the pool busy, or comes from inside a team, runs on its own thread alone; results do not depend on it.
#pragma once

namespace rnnkernels::cpu {

class Barrier;

struct Team {
  int rank;
  int size;
  Barrier* barrier;
};

// Waits until every member of the team has come here; what they wrote before is then visible to all. Not inline, so that no
// ISA's code for it can replace another's.
void sync(const Team& team);

using TeamFunction = void (*)(void* context, const Team& team);

// Runs body on `size` threads, the caller among them, and returns when all have ended. body must not throw.
void run_team(int size, TeamFunction body, void* context);

// The same for two teams side by side (the directions of a bidirectional layer).
using TwinFunction = void (*)(void* context, int which, const Team& team);
void run_twin_teams(int size, TwinFunction body, void* context);

}  // namespace rnnkernels::cpu
