// What callers and backends alike must know of a cell and of a dtype: their sizes, and what they are called.
#pragma once

#include "api.h"

namespace rnnkernels {

const CellTraits& traits(Cell cell);

bool is_half(Dtype dtype);       // bf16 or f16
Dtype computed_in(Dtype dtype);  // f32 for those, and for c, gradients of c, losses and log-sum-exps; else itself
std::size_t size_of(Dtype dtype);
const char* name_of(Dtype dtype);  // "bfloat16"

}  // namespace rnnkernels
