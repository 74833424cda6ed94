// The contract between whoever calls (the Python bindings, another C++ program) and the backends that compute.
// Plain data only: no templates, no inline code, so that every translation unit may include it whatever its ISA flags.
//
// Sizes: T steps, B sequences, I inputs, H hidden units, G gates of the cell, L layers, D directions (1 or 2).
// Arrays are C-contiguous and of the call's dtype unless a stride or a dtype is named. A null pointer means "absent": a zero
// state, no bias, a gradient nobody asked for. Callers check every shape and range before they call; backends trust it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rnnkernels {

enum class Cell : int {
#define RNNKERNELS_CELL(name, type) name,
#include "core/cells.inc"
#undef RNNKERNELS_CELL
};
enum class Dtype : int { f32, f64, bf16, f16 };
enum class Isa : int { scalar, neon, avx2, avx512, avx512bf16, amx };  // the last two: for bfloat16, else avx512

// What a caller must know of a cell to allocate for it.
struct CellTraits {
  const char* name;  // "lstm"
  int gates;         // G: rows of w_ih and w_hh are G*H, in PyTorch's order
  int saved_gates;   // forward saves (T, B, saved_gates*H); 0: nothing but h
  bool has_c;        // the LSTM's second state
};

// One layer in one direction.
struct Weights {
  const void* w_ih;         // (G*H, I): element (j, i) at j*w_ih_row_stride + i*w_ih_col_stride, in elements
  const void* w_hh;         // (G*H, H)
  const void* b_ih;         // (G*H), or (B, G*H) when b_ih_per_sequence
  const void* b_hh;         // (G*H)
  int64_t w_ih_row_stride;  // I and 1 for an ordinary matrix; 1 and G*H for the transpose of an embedding table.
  int64_t w_ih_col_stride;  // Anything but (I, 1) is allowed with token ids only.
  bool b_ih_per_sequence;
};

// What is common to the two passes.
struct Problem {
  Cell cell;
  Dtype dtype;
  int64_t T, B, I, H;
  int layers;              // L
  int directions;          // D; the second direction runs in reverse
  bool reverse;            // D = 1 only: that one direction runs in reverse
  const int64_t* lengths;  // (B), each in [0, T]; null: all T
  const int64_t* ids;      // (T, B) token ids in [0, I), anything in padding; null: x is dense
  double dropout;          // probability, on every layer's output but the last; 0: none
  uint64_t dropout_key;    // Philox key; element e of layer l: see core/philox.h
};

struct PackedStack;  // weights packed once for inference; made by cpu::pack_stack

struct LayerForward {
  Weights weights;
  const void *h0, *c0;  // (B, H)
  void *h_n, *c_n;      // (B, H)
  void* gates;          // (T, B, saved_gates*H), activated; zeros in padding. These three are what backward needs;
  void* c;              // (T, B, H)              null for inference (all three)
  void* h;              // (T, B, H)
};

struct ForwardArgs {
  Problem problem;
  const void* x;              // (T, B, I), unless problem.ids
  const LayerForward* layer;  // [L*D], index l*D + d. The input size of layer l > 0 is D*H
  void* const* y;             // [L]: (T, B, D*H) output of each layer, dropped out where l < L-1: it is layer l+1's x
  const PackedStack* packed;  // then layer[].weights is not read
};

struct LayerBackward {
  Weights weights;
  const void *h0, *c0;                  // (B, H)
  const void *gates, *c, *h;            // as saved by forward
  const void *dh_n, *dc_n;              // (B, H)
  void *dw_ih, *dw_hh, *db_ih, *db_hh;  // like the arguments they belong to (db_ih per sequence too)
  int64_t dw_ih_row_stride;             // as w_ih's
  int64_t dw_ih_col_stride;
  void *dh0, *dc0;  // (B, H)
};

struct BackwardArgs {
  Problem problem;
  const void* const* x;        // [L]: input of each layer (x[0] is not read with token ids)
  const LayerBackward* layer;  // [L*D]
  const void* dy;              // (T, B, D*H)
  void* dx;                    // (T, B, I)
  bool accumulate;             // add to dx, dw_*, db_*, dh0, dc0 instead of overwriting them
};

// Heads. N rows (all leading dimensions of the Python arrays together).
struct LinearArgs {
  Dtype dtype;
  int64_t N, I, O;
  const void* x;  // (N, I)
  const void* w;  // (O, I)
  const void* b;  // (O)
  void* y;        // (N, O)
};

struct LinearBackwardArgs {
  Dtype dtype;
  int64_t N, I, O;
  const void *x, *w, *dy;  // (N, I), (O, I), (N, O)
  void *dx, *dw, *db;      // (N, I), (O, I), (O)
  bool accumulate;
};

struct CrossEntropyArgs {  // loss[n] = lse[n] - logits[n, target[n]], 0 where target[n] == ignore_index
  Dtype dtype;
  int64_t N, V;
  const void* logits;      // (N, V)
  const int64_t* targets;  // (N) in [0, V) or ignore_index
  int64_t ignore_index;
  void* loss;  // (N)
  void* lse;   // (N) log(sum(exp(logits)))
};

struct CrossEntropyBackwardArgs {  // dlogits[n, v] = dloss[n]*(exp(logits[n, v] - lse[n]) - (v == target[n]))
  Dtype dtype;
  int64_t N, V;
  const void* logits;
  const int64_t* targets;
  int64_t ignore_index;
  const void* lse;    // (N)
  const void* dloss;  // (N); rows whose target is ignored give exact zeros
  void* dlogits;      // (N, V)
};

struct LinearCrossEntropyArgs {  // logits = h w^T + b, a block of rows at a time
  Dtype dtype;
  int64_t N, H, V;
  const void *h, *w, *b;  // (N, H), (V, H), (V)
  const int64_t* targets;
  int64_t ignore_index;
  void *loss, *lse;  // (N), (N)
};

struct LinearCrossEntropyBackwardArgs {
  Dtype dtype;
  int64_t N, H, V;
  const void *h, *w, *b;
  const int64_t* targets;
  int64_t ignore_index;
  const void *lse, *dloss;  // (N), (N)
  void *dh, *dw, *db;       // (N, H), (V, H), (V)
  bool accumulate;
};

// What a loss is made of. Losses and their gradients have the dtype that logits are computed in.
enum class Reduction : int { none, sum, mean };

struct ReduceLossesArgs {  // count = rows whose target is not ignored; loss = the sum of losses, or its mean over those
  Dtype dtype;
  int64_t N;
  const void* losses;  // (N); null: count alone
  const int64_t* targets;
  int64_t ignore_index;
  Reduction reduction;
  void* loss;      // (1); null for Reduction::none
  int64_t* count;  // (1)
};

struct SpreadGradientArgs {  // rows[n] = the gradient of the loss, divided by count for the mean
  Dtype dtype;
  int64_t N;
  const void* each;  // (N), or null
  const void* one;   // (1), or null
  double value;      // without either
  Reduction reduction;
  const int64_t* count;  // (1)
  void* rows;            // (N)
};

}  // namespace rnnkernels
