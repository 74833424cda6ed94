// Linear layer, softmax cross-entropy, and the two fused so that a block of logits at a time exists.
//
// Rows are shared by the team and every sum has one owner and a fixed order. Sums over a row's columns go through 16 partial
// sums whatever the ISA's width, so that AVX2 and AVX-512 give the same bits.
#pragma once

#include <math.h>

#include "layer.h"

RNNKERNELS_BEGIN_NAMESPACE

constexpr int64_t head_rows = 256;  // rows of a block: of weight gradients, and of logits

template <class Real>
inline Real* writable(void* p) {
  return static_cast<Real*>(p);
}

template <class Real>
inline const Real* readable(const void* p) {
  return static_cast<const Real*>(p);
}

template <class Real>
inline void add_column_sums(const Real* dy, int64_t rows, int64_t O, Range own, Real* db) {
  for_each_column_sum<Real>(dy, O, rows, own, [&](int64_t column, Real sum) { db[column] += sum; });
}

struct Sum {
  template <class T>
  T operator()(T a, T b) const {
    return a + b;
  }
};

template <class Real>
struct Maximum {
  Real operator()(Real a, Real b) const { return a > b ? a : b; }
  Vec<Real> operator()(Vec<Real> a, Vec<Real> b) const { return max(a, b); }
};

// Reduces term(v) over the columns of a row: column v goes to partial v % 16, then a fixed tree.
template <class Real, class Term, class Merge>
inline Real reduce_row(int64_t columns, Real neutral, const Merge& merge, const Term& term) {
  using V = Vec<Real>;
  constexpr int partials = 16;
  V partial[partials / V::lanes];
  for (V& p : partial) p = V(neutral);
  int64_t v = 0;
  for (; v + partials <= columns; v += partials) {
    for (int p = 0; p < partials; p += V::lanes)
      partial[p / V::lanes] = merge(partial[p / V::lanes], term(v + p, V::lanes));
  }
  Real lane[partials];
  for (int p = 0; v < columns; p += V::lanes, v += V::lanes) {
    const int n = static_cast<int>(smaller(V::lanes, columns - v));
    term(v, n).store(lane);
    for (int l = n; l < V::lanes; ++l) lane[l] = neutral;
    partial[p / V::lanes] = merge(partial[p / V::lanes], V::load(lane));
  }
  for (int p = 0; p < partials; p += V::lanes) partial[p / V::lanes].store(lane + p);
  for (int half = partials / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lane[l] = merge(lane[l], lane[l + half]);
  }
  return lane[0];
}

inline float logarithm(float x) { return ::logf(x); }
inline double logarithm(double x) { return ::log(x); }

// log(sum(exp(row))), shifted by the greatest logit. NaN passes through; a greatest that is infinite gives NaN, as in PyTorch.
template <class Real>
inline Real log_sum_exp(const Real* row, int64_t columns) {
  using V = Vec<Real>;
  const auto logits = [&](int64_t v, int n) { return V::load(row + v, n); };
  const Real greatest = reduce_row<Real>(columns, row[0], Maximum<Real>(), logits);
  const Real sum =
      reduce_row<Real>(columns, 0, Sum(), [&](int64_t v, int n) { return exp(logits(v, n) - V(greatest)); });
  return greatest + logarithm(sum);
}

template <class Real>
inline void cross_entropy_row(const Real* logits, int64_t V, int64_t target, int64_t ignore_index, Real* loss,
                              Real* lse) {
  *lse = log_sum_exp(logits, V);
  *loss = target == ignore_index ? Real(0) : *lse - logits[target];
}

// dlogits of one row; it may stand where the logits do.
template <class Real>
inline void cross_entropy_row_backward(const Real* logits, int64_t columns, int64_t target, int64_t ignore_index,
                                       Real lse, Real dloss, Real* dlogits) {
  using V = Vec<Real>;
  if (target == ignore_index) return fill_zero(dlogits, columns);
  for_each_vector<Real>(columns, 0, columns, [&](int64_t, int64_t v, int n) {
    (V(dloss) * exp(V::load(logits + v, n) - V(lse))).store(dlogits + v, n);
  });
  dlogits[target] -= dloss;
}

// ---- the kernels ----

template <class Real>
struct LinearForward {
  using Args = LinearArgs;
  static size_t scratch(const Args& args, int) { return Layout(args, nullptr).arena.used; }

  static void run(const Args& args, char* scratch, const Team& team) {
    const PackedMatrix<Real> w = Layout(args, scratch).w;
    w.pack_transposed(share(w.panels(), team), readable<Real>(args.w));
    cpu::sync(team);
    multiply<Real>({readable<Real>(args.x), args.I}, w, share(args.N, team),
                   {writable<Real>(args.y), readable<Real>(args.b)});
  }

 private:
  struct Layout {
    Arena arena;
    PackedMatrix<Real> w;
    Layout(const Args& args, char* scratch) : arena{scratch}, w(args.I, args.O) { w.data = arena.take<Real>(w.size()); }
  };
};

template <class Real>
struct LinearBackward {
  using Args = LinearBackwardArgs;
  static size_t scratch(const Args& args, int team_size) { return Layout(args, nullptr, team_size).arena.used; }

  static void run(const Args& args, char* scratch, const Team& team) {
    const Layout layout(args, scratch, team.size);
    const Real *w = readable<Real>(args.w), *dy = readable<Real>(args.dy);
    const Range outputs = share(args.O, team);
    if (args.dx) layout.w.pack(share(layout.w.panels(), team), [&](int64_t k) { return w + k * args.I; });
    if (args.dw && !args.accumulate)
      fill_zero(writable<Real>(args.dw) + outputs.begin * args.I, outputs.size() * args.I);
    if (args.db && !args.accumulate) fill_zero(writable<Real>(args.db) + outputs.begin, outputs.size());
    cpu::sync(team);
    if (args.dx) {
      multiply<Real>({dy, args.O}, layout.w, share(args.N, team), {writable<Real>(args.dx), nullptr, args.accumulate});
    }
    for (int64_t row = 0; row < args.N; row += head_rows)
      add_block(args, layout, row, smaller(head_rows, args.N - row), team);
  }

 private:
  struct Layout {
    Arena arena;
    PackedMatrix<Real> w, x;  // x of a block
    Real* copies;             // [team][..]: of dy
    Layout(const Args& args, char* scratch, int team_size)
        : arena{scratch}, w(args.O, args.I), x(smaller(head_rows, args.N), args.I) {
      w.data = arena.take<Real>(args.dx ? w.size() : 0);
      x.data = arena.take<Real>(args.dw ? x.size() : 0);
      copies = arena.take<Real>(args.dw ? team_size * x.K * transpose_rows<Real> : 0);
    }
    Real* copies_of(const Team& team) const { return copies + team.rank * x.K * transpose_rows<Real>; }
  };

  // dw and db of a block of rows.
  static void add_block(const Args& args, const Layout& layout, int64_t row, int64_t rows, const Team& team) {
    const Real* dy = readable<Real>(args.dy) + row * args.O;
    const Real* inputs = readable<Real>(args.x) + row * args.I;
    const Range own = share(args.O, team);
    if (args.dw) {
      PackedMatrix<Real> x = layout.x;
      x.K = rows;
      cpu::sync(team);
      x.pack(share(x.panels(), team), [&](int64_t k) { return inputs + k * args.I; });
      cpu::sync(team);
      multiply_transposed<Real>(dy, args.O, rows, own, {{&x, {writable<Real>(args.dw), nullptr, true}}},
                                layout.copies_of(team));
    }
    if (args.db) add_column_sums(dy, rows, args.O, own, writable<Real>(args.db));
  }
};

template <class Real>
struct CrossEntropyForward {
  using Args = CrossEntropyArgs;
  static size_t scratch(const Args&, int) { return 0; }

  static void run(const Args& args, char*, const Team& team) {
    const Range own = share(args.N, team);
    for (int64_t n = own.begin; n < own.end; ++n) {
      cross_entropy_row(readable<Real>(args.logits) + n * args.V, args.V, args.targets[n], args.ignore_index,
                        writable<Real>(args.loss) + n, writable<Real>(args.lse) + n);
    }
  }
};

template <class Real>
struct CrossEntropyBackward {
  using Args = CrossEntropyBackwardArgs;
  static size_t scratch(const Args&, int) { return 0; }

  static void run(const Args& args, char*, const Team& team) {
    const Range own = share(args.N, team);
    for (int64_t n = own.begin; n < own.end; ++n) {
      cross_entropy_row_backward(readable<Real>(args.logits) + n * args.V, args.V, args.targets[n], args.ignore_index,
                                 readable<Real>(args.lse)[n], readable<Real>(args.dloss)[n],
                                 writable<Real>(args.dlogits) + n * args.V);
    }
  }
};

template <class Real>
struct LinearCrossEntropyForward {
  using Args = LinearCrossEntropyArgs;
  static size_t scratch(const Args& args, int team_size) { return Layout(args, nullptr, team_size).arena.used; }

  static void run(const Args& args, char* scratch, const Team& team) {
    const Layout layout(args, scratch, team.size);
    layout.w.pack_transposed(share(layout.w.panels(), team), readable<Real>(args.w));
    cpu::sync(team);
    const Range own = share(args.N, team);
    Real* logits = layout.logits + team.rank * layout.block * args.V;
    for (int64_t row = own.begin; row < own.end; row += layout.block) {
      const int64_t rows = smaller(layout.block, own.end - row);
      multiply<Real>({readable<Real>(args.h) + row * args.H, args.H}, layout.w, {0, rows},
                     {logits, readable<Real>(args.b)});
      for (int64_t r = 0; r < rows; ++r) {
        cross_entropy_row(logits + r * args.V, args.V, args.targets[row + r], args.ignore_index,
                          writable<Real>(args.loss) + row + r, writable<Real>(args.lse) + row + r);
      }
    }
  }

 private:
  struct Layout {
    Arena arena;
    PackedMatrix<Real> w;
    int64_t block;  // rows of logits a thread holds: 64, fewer for a large vocabulary
    Real* logits;
    Layout(const Args& args, char* scratch, int team_size) : arena{scratch}, w(args.H, args.V) {
      block = larger(max_rows, smaller(64, (int64_t(1) << 18) / larger(args.V, 1)));
      w.data = arena.take<Real>(w.size());
      logits = arena.take<Real>(team_size * block * args.V);
    }
  };
};

template <class Real>
struct LinearCrossEntropyBackward {
  using Args = LinearCrossEntropyBackwardArgs;
  static size_t scratch(const Args& args, int team_size) { return Layout(args, nullptr, team_size).arena.used; }

  static void run(const Args& args, char* scratch, const Team& team) {
    const Layout layout(args, scratch, team.size);
    const Real* w = readable<Real>(args.w);
    const Range own = share(args.V, team);
    layout.w_transposed.pack_transposed(share(layout.w_transposed.panels(), team), w);
    if (args.dh) layout.w.pack(share(layout.w.panels(), team), [&](int64_t k) { return w + k * args.H; });
    if (args.dw && !args.accumulate) fill_zero(writable<Real>(args.dw) + own.begin * args.H, own.size() * args.H);
    if (args.db && !args.accumulate) fill_zero(writable<Real>(args.db) + own.begin, own.size());
    for (int64_t row = 0; row < args.N; row += layout.block) {
      const int64_t rows = smaller(layout.block, args.N - row);
      cpu::sync(team);  // the weights are packed, and nobody reads the block before
      differentiate(args, layout, row, rows, team);
      cpu::sync(team);
      if (args.dw) {
        PackedMatrix<Real> h = layout.h;
        h.K = rows;
        multiply_transposed<Real>(layout.dlogits, args.V, rows, own, {{&h, {writable<Real>(args.dw), nullptr, true}}},
                                  layout.copies_of(team));
      }
      if (args.db) add_column_sums(layout.dlogits, rows, args.V, own, writable<Real>(args.db));
    }
  }

 private:
  struct Layout {
    Arena arena;
    int64_t block;                          // rows of dlogits at a time
    PackedMatrix<Real> w_transposed, w, h;  // h of a block
    Real *dlogits, *copies;                 // and, [team][..], of dlogits
    Layout(const Args& args, char* scratch, int team_size)
        : arena{scratch},
          block(larger(max_rows, smaller(head_rows, (int64_t(1) << 22) / larger(args.V, 1)))),
          w_transposed(args.H, args.V),
          w(args.V, args.H),
          h(block, args.H) {
      w_transposed.data = arena.take<Real>(w_transposed.size());
      w.data = arena.take<Real>(args.dh ? w.size() : 0);
      h.data = arena.take<Real>(args.dw ? h.size() : 0);
      dlogits = arena.take<Real>(block * args.V);
      copies = arena.take<Real>(args.dw ? team_size * h.K * transpose_rows<Real> : 0);
    }
    Real* copies_of(const Team& team) const { return copies + team.rank * h.K * transpose_rows<Real>; }
  };

  // dlogits and dh of a block's rows, which the team shares; and the block's h, packed for dw.
  static void differentiate(const Args& args, const Layout& layout, int64_t row, int64_t rows, const Team& team) {
    const Real* h = readable<Real>(args.h) + row * args.H;
    const Range own = share(rows, team);
    multiply<Real>({h, args.H}, layout.w_transposed, own, {layout.dlogits, readable<Real>(args.b)});
    for (int64_t r = own.begin; r < own.end; ++r) {
      Real* logits = layout.dlogits + r * args.V;
      cross_entropy_row_backward(logits, args.V, args.targets[row + r], args.ignore_index,
                                 readable<Real>(args.lse)[row + r], readable<Real>(args.dloss)[row + r], logits);
    }
    if (args.dh) {
      multiply<Real>({layout.dlogits, args.V}, layout.w, own,
                     {writable<Real>(args.dh) + row * args.H, nullptr, args.accumulate});
    }
    if (args.dw) {
      PackedMatrix<Real> packed = layout.h;
      packed.K = rows;
      packed.pack(share(packed.panels(), team), [&](int64_t k) {
        return args.targets[row + k] == args.ignore_index ? nullptr : h + k * args.H;  // whatever an ignored row holds
      });
    }
  }
};

RNNKERNELS_END_NAMESPACE
