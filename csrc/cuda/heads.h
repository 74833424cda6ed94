// The heads on the device: linear layers, softmax cross-entropy, and both fused, so that a chunk of logits at a time exists. As
// in stepwise.h, pointers are of the device, work is queued on the caller's stream, and the workspace is the caller's. Rows go
// in chunks that follow from the sizes alone. N lies below 2^31, and so do I, H, O and V.
#pragma once

#include "../api.h"
#include "heads.cuh"
#include "queue.h"

namespace rnnkernels::cuda {

// What the passes of heads queue alike.
template <class Number>
class HeadPass : protected Queue<Number> {
 protected:
  using T = typename Number::T;
  using Real = typename Number::Real;
  using Forward = typename Number::Forward;
  using Backward = typename Number::Backward;

  HeadPass(Workspace& workspace, Stream stream, int64_t chunk_bytes)
      : Queue<Number>(workspace, stream), chunk_bytes_(chunk_bytes) {}

  bool counts_only() const { return this->workspace_.counts_only(); }

  // How many of N rows a chunk has, if each takes so many numbers of the workspace.
  int64_t chunk_of(int64_t N, int64_t numbers) const {
    return rows_of_chunk(N, numbers * static_cast<int64_t>(sizeof(Real)), chunk_bytes_);
  }

  // act(first, count) for the chunks of N rows.
  template <class Act>
  static void for_chunks(int64_t N, int64_t rows, Act act) {
    for (int64_t first = 0; first < N; first += rows) act(first, std::min(rows, N - first));
  }

  // Rows of a matrix of T for a product: those of the array itself, or of a copy in `packed`, where it needs one.
  Rows<T> rows_of(const T* from, T* packed, int64_t rows, int64_t columns) const {
    if (!packed) return {from, columns, rows};
    const int64_t padded = pad_row<T>(columns);
    this->copy(packed, padded, padded, from, columns, rows, columns);
    return {packed, padded, rows};
  }
  T* take_packed(const void* data, int64_t rows, int64_t columns) const {
    const bool usable = this->usable(static_cast<const T*>(data), columns);
    return usable ? nullptr : this->template take<T>({rows, pad_row<T>(columns)});
  }

  int64_t chunk_bytes_;
};

// Gradients of a linear layer, whose dy comes a chunk of rows at a time.
template <class Number>
class LinearGradients : HeadPass<Number> {
  using Pass = HeadPass<Number>;
  using typename Pass::Backward;
  using typename Pass::Real;
  using typename Pass::T;

 public:
  // Arrays as in LinearBackwardArgs. A chunk has at most `rows`.
  LinearGradients(const LinearBackwardArgs& args, int64_t rows, Workspace& workspace, Stream stream)
      : Pass(workspace, stream, 0), args_(args), rows_(rows), stride_(pad_row<Real>(rows)) {
    const int64_t I = args.I, O = args.O;
    auto take = [&](bool wanted, std::initializer_list<int64_t> sizes) {
      return wanted ? this->template take<Real>(sizes) : nullptr;
    };
    w_t_ = take(args.dx, {I, pad_row<Real>(O)});
    dy_t_ = take(args.dw, {O, stride_});
    x_t_ = take(args.dw, {I, stride_});
    partials_ = args.dw ? this->template take_partials<Backward>(I, O, rows) : nullptr;
    dw_ = take(args.dw, {O, I});
    db_ = take(args.db, {O});
  }

  void begin() {
    constexpr int64_t size = sizeof(Real);
    const int64_t I = args_.I, O = args_.O;
    if (args_.dx)
      w_rows_ = this->transposed(w_t_, pad_row<Real>(O), PlainRows<T>{static_cast<const T*>(args_.w), I}, O, I);
    if (dw_) this->zero(dw_, O * I * size);
    if (db_) this->zero(db_, O * size);
  }

  // dy (count, dy_stride), padded with zeros, is that of rows from `first` on; x says which of its rows there are.
  template <class From>
  void add(const Real* dy, int64_t dy_stride, From x, int64_t first, int64_t count) const {
    const int64_t I = args_.I, O = args_.O, stride = pad_row<Real>(count);
    if (args_.dx)
      this->template multiply<Backward>("gradient of x", w_rows_, {dy, dy_stride, count}, O,
                                        StoreRows<T>{static_cast<T*>(args_.dx) + first * I, I, args_.accumulate});
    if (dw_) {
      const Rows<Real> dy_t = this->transposed(dy_t_, stride, PlainRows<Real>{dy, dy_stride}, count, O);
      const Rows<Real> x_t = this->transposed(x_t_, stride, x, count, I);
      this->template add_gradients_of_weights<Backward>(dw_, x_t, dy_t, O, O, GateOrder{0}, count, rows_, partials_);
    }
    if (db_) this->add_rows(db_, dy, dy_stride, count, O, 1);
  }

  void finish() const {
    const int64_t I = args_.I, O = args_.O;
    if (dw_) this->copy(static_cast<T*>(args_.dw), I, I, dw_, I, O, I, args_.accumulate);
    if (db_) this->copy(static_cast<T*>(args_.db), O, O, db_, O, 1, O, args_.accumulate);
  }

 private:
  const LinearBackwardArgs& args_;
  int64_t rows_, stride_;
  Real *w_t_, *dy_t_, *x_t_, *partials_, *dw_, *db_;
  Rows<Real> w_rows_ = {};
};

template <class Number>
class LinearForward : HeadPass<Number> {
  using Pass = HeadPass<Number>;
  using typename Pass::Real;
  using typename Pass::T;

 public:
  LinearForward(const LinearArgs& args, Workspace& workspace, Stream stream, int64_t chunk_bytes = usual_chunk_bytes)
      : Pass(workspace, stream, chunk_bytes), args_(args) {}

  void run() const {
    const int64_t rows = this->chunk_of(args_.N, args_.I);
    const Rows<T> w = this->operand(args_.w, args_.O, args_.I);
    T* packed = this->take_packed(args_.x, rows, args_.I);
    if (this->counts_only()) return;
    const T *x = static_cast<const T*>(args_.x), *bias = static_cast<const T*>(args_.b);
    this->for_chunks(args_.N, packed ? rows : args_.N, [&](int64_t first, int64_t count) {
      const StoreWithBias<T, T> out = {static_cast<T*>(args_.y) + first * args_.O, args_.O, bias};
      this->template multiply<typename Number::Forward>(
          "linear", w, this->rows_of(x + first * args_.I, packed, count, args_.I), args_.I, out);
    });
  }

 private:
  const LinearArgs& args_;
};

template <class Number>
class LinearBackward : HeadPass<Number> {
  using Pass = HeadPass<Number>;
  using typename Pass::Real;
  using typename Pass::T;

 public:
  LinearBackward(const LinearBackwardArgs& args, Workspace& workspace, Stream stream,
                 int64_t chunk_bytes = usual_chunk_bytes)
      : Pass(workspace, stream, chunk_bytes), args_(args) {}

  void run() const {
    const int64_t O = args_.O, padded = pad_row<Real>(O), rows = this->chunk_of(args_.N, 2 * O + args_.I);
    LinearGradients<Number> gradients(args_, rows, this->workspace_, this->stream_);
    Real* dy = this->template take<Real>({rows, padded});
    if (this->counts_only()) return;
    gradients.begin();
    const T *from = static_cast<const T*>(args_.dy), *x = static_cast<const T*>(args_.x);
    this->for_chunks(args_.N, rows, [&](int64_t first, int64_t count) {
      this->copy(dy, padded, padded, from + first * O, O, count, O);
      gradients.add(dy, padded, PlainRows<T>{x + first * args_.I, args_.I}, first, count);
    });
    gradients.finish();
  }

 private:
  const LinearBackwardArgs& args_;
};

template <class Number>
class CrossEntropyForward : HeadPass<Number> {
  using Pass = HeadPass<Number>;
  using typename Pass::Real;
  using typename Pass::T;

 public:
  CrossEntropyForward(const CrossEntropyArgs& args, Workspace& workspace, Stream stream, int64_t = 0)
      : Pass(workspace, stream, 0), args_(args) {}

  void run() const {
    if (this->counts_only() || args_.N == 0) return;
    this->queue("cross_entropy_rows", static_cast<unsigned>(args_.N), array_threads, 2 * array_warps * sizeof(Real),
                cross_entropy_rows<T>, static_cast<const T*>(args_.logits), args_.V, args_.V,
                Targets{args_.targets, args_.ignore_index}, static_cast<Real*>(args_.loss),
                static_cast<Real*>(args_.lse));
  }

 private:
  const CrossEntropyArgs& args_;
};

template <class Number>
class CrossEntropyBackward : HeadPass<Number> {
  using Pass = HeadPass<Number>;
  using typename Pass::Real;
  using typename Pass::T;

 public:
  CrossEntropyBackward(const CrossEntropyBackwardArgs& args, Workspace& workspace, Stream stream, int64_t = 0)
      : Pass(workspace, stream, 0), args_(args) {}

  void run() const {
    if (this->counts_only() || args_.N == 0) return;
    this->queue("cross_entropy_rows_backward",
                dim3(static_cast<unsigned>(args_.N), this->blocks(args_.V, array_threads)), array_threads, 0,
                cross_entropy_rows_backward<T, T>, static_cast<const T*>(args_.logits), args_.V, args_.V,
                Targets{args_.targets, args_.ignore_index}, static_cast<const Real*>(args_.lse),
                static_cast<const Real*>(args_.dloss), static_cast<T*>(args_.dlogits), args_.V);
  }

 private:
  const CrossEntropyBackwardArgs& args_;
};

// Logits of a chunk of rows, in Real and padded with zeros.
template <class Number>
class ChunkOfLogits : HeadPass<Number> {
  using Pass = HeadPass<Number>;
  using typename Pass::T;

 public:
  using typename Pass::Real;

  ChunkOfLogits(const void* h, const void* w, const void* b, int64_t rows, int64_t H, int64_t V, Workspace& workspace,
                Stream stream)
      : Pass(workspace, stream, 0), h_(static_cast<const T*>(h)), bias_(static_cast<const T*>(b)), H_(H) {
    w_ = this->operand(w, V, H);
    packed_ = this->take_packed(h, rows, H);
    stride_ = pad_row<Real>(V);
    data_ = this->template take<Real>({rows, stride_});
    if (!this->counts_only()) this->zero(data_, rows * stride_ * static_cast<int64_t>(sizeof(Real)));
  }

  void compute(int64_t first, int64_t count) const {
    const Rows<T> h = this->rows_of(h_ + first * H_, packed_, count, H_);
    this->template multiply<typename Number::Forward>("logits", w_, h, H_,
                                                      StoreWithBias<T, Real>{data_, stride_, bias_});
  }
  Real* data() const { return data_; }
  int64_t stride() const { return stride_; }

 private:
  const T *h_, *bias_;
  int64_t H_, stride_;
  Rows<T> w_;
  T* packed_;
  Real* data_;
};

template <class Number>
class LinearCrossEntropyForward : HeadPass<Number> {
  using Pass = HeadPass<Number>;
  using typename Pass::Real;

 public:
  LinearCrossEntropyForward(const LinearCrossEntropyArgs& args, Workspace& workspace, Stream stream,
                            int64_t chunk_bytes = usual_chunk_bytes)
      : Pass(workspace, stream, chunk_bytes), args_(args) {}

  void run() const {
    const LinearCrossEntropyArgs& a = args_;
    const int64_t rows = this->chunk_of(a.N, a.V + a.H);
    const ChunkOfLogits<Number> logits(a.h, a.w, a.b, rows, a.H, a.V, this->workspace_, this->stream_);
    if (this->counts_only()) return;
    this->for_chunks(a.N, rows, [&](int64_t first, int64_t count) {
      logits.compute(first, count);
      this->queue("cross_entropy_rows", static_cast<unsigned>(count), array_threads, 2 * array_warps * sizeof(Real),
                  cross_entropy_rows<Real>, static_cast<const Real*>(logits.data()), logits.stride(), a.V,
                  Targets{a.targets + first, a.ignore_index}, static_cast<Real*>(a.loss) + first,
                  static_cast<Real*>(a.lse) + first);
    });
  }

 private:
  const LinearCrossEntropyArgs& args_;
};

template <class Number>
class LinearCrossEntropyBackward : HeadPass<Number> {
  using Pass = HeadPass<Number>;
  using typename Pass::Real;
  using typename Pass::T;

 public:
  LinearCrossEntropyBackward(const LinearCrossEntropyBackwardArgs& args, Workspace& workspace, Stream stream,
                             int64_t chunk_bytes = usual_chunk_bytes)
      : Pass(workspace, stream, chunk_bytes), args_(args) {}

  void run() const {
    const LinearCrossEntropyBackwardArgs& a = args_;
    const int64_t rows = this->chunk_of(a.N, 2 * a.V + 2 * a.H);
    const LinearBackwardArgs linear = {a.dtype, a.N, a.H, a.V, a.h, a.w, nullptr, a.dh, a.dw, a.db, a.accumulate};
    const ChunkOfLogits<Number> logits(a.h, a.w, a.b, rows, a.H, a.V, this->workspace_, this->stream_);
    LinearGradients<Number> gradients(linear, rows, this->workspace_, this->stream_);
    if (this->counts_only()) return;
    gradients.begin();
    this->for_chunks(a.N, rows, [&](int64_t first, int64_t count) {
      const Targets targets = {a.targets + first, a.ignore_index};
      logits.compute(first, count);
      this->queue("cross_entropy_rows_backward", dim3(static_cast<unsigned>(count), this->blocks(a.V, array_threads)),
                  array_threads, 0, cross_entropy_rows_backward<Real, Real>, static_cast<const Real*>(logits.data()),
                  logits.stride(), a.V, targets, static_cast<const Real*>(a.lse) + first,
                  static_cast<const Real*>(a.dloss) + first, logits.data(), logits.stride());
      gradients.add(logits.data(), logits.stride(),
                    RowsWithTarget<T>{static_cast<const T*>(a.h) + first * a.H, a.H, targets}, first, count);
    });
    gradients.finish();
  }

 private:
  const LinearCrossEntropyBackwardArgs& args_;
};

}  // namespace rnnkernels::cuda
