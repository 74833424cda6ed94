#include "traits.h"

#include "core/cells/gru.h"
#include "core/cells/lstm.h"
#include "core/cells/rnn.h"

namespace rnnkernels {

const CellTraits& traits(Cell cell) {
  static const CellTraits all[] = {
#define RNNKERNELS_CELL(name, Type) {#name, Type::gates, Type::saved_gates, Type::has_c},
#include "core/cells.inc"
#undef RNNKERNELS_CELL
  };
  return all[static_cast<int>(cell)];
}

bool is_half(Dtype dtype) { return dtype == Dtype::bf16 || dtype == Dtype::f16; }

Dtype computed_in(Dtype dtype) { return is_half(dtype) ? Dtype::f32 : dtype; }

std::size_t size_of(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }

const char* name_of(Dtype dtype) {
  static const char* const names[] = {"float32", "float64", "bfloat16", "float16"};
  return names[static_cast<int>(dtype)];
}

}  // namespace rnnkernels
