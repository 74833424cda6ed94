// What arrays hold.
#pragma once

#include "../traits.h"
#include "shapes.h"

namespace rnnkernels::bindings {

// The four elements that numbers come in, the two that ids come in, and everything else. bfloat16 is not NumPy's own: any
// dtype of 16 bits with that name will do (ml_dtypes has it), and results have the one that was seen first.
enum class Element { f32, f64, bf16, f16, i32, i64, other };

// Numbers come first in both, in the same order.
static_assert(static_cast<int>(Element::f32) == static_cast<int>(Dtype::f32) &&
              static_cast<int>(Element::i32) == static_cast<int>(Dtype::f16) + 1);
inline Element element_of(Dtype dtype) { return static_cast<Element>(dtype); }
inline bool is_real(Element element) { return element < Element::i32; }
inline bool is_id(Element element) { return element == Element::i32 || element == Element::i64; }

inline std::size_t size_of(Element element) {
  if (is_real(element)) return rnnkernels::size_of(static_cast<Dtype>(element));
  return element == Element::i32 ? 4 : 8;
}

}  // namespace rnnkernels::bindings
