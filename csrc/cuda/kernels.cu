// All passes on one kind of numbers, a row of numbers.inc: RNNKERNELS_PASSES is its name, RNNKERNELS_TYPE its type.
#include "heads.h"
#include "passes.h"
#include "stack.h"

namespace rnnkernels::cuda {
namespace {

using NumberOfCall = RNNKERNELS_TYPE;

template <template <class, class> class Stack, class Args>
void run_stack(const Args& args, Workspace& workspace, Stream stream) {
  switch (args.problem.cell) {
#define RNNKERNELS_CELL(name, type) \
  case Cell::name: return Stack<type, NumberOfCall>(args, workspace, stream).run();
#include "../core/cells.inc"
#undef RNNKERNELS_CELL
  }
}

template <template <class> class Head, class Args>
void run_head(const Args& args, Workspace& workspace, Stream stream) {
  Head<NumberOfCall>(args, workspace, stream).run();
}

constexpr Passes passes = {
    run_stack<StackForward>,
    run_stack<StackBackward>,
    run_head<LinearForward>,
    run_head<LinearBackward>,
    run_head<CrossEntropyForward>,
    run_head<CrossEntropyBackward>,
    run_head<LinearCrossEntropyForward>,
    run_head<LinearCrossEntropyBackward>,
};

}  // namespace

#define RNNKERNELS_JOIN(a, b) a##b
#define RNNKERNELS_NAME(name) RNNKERNELS_JOIN(passes_, name)
const Passes& RNNKERNELS_NAME(RNNKERNELS_PASSES)() { return passes; }

}  // namespace rnnkernels::cuda
