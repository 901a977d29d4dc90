// graph.h: building a ggml graph in the reference's terms, and running it as a stage.
//
// Shapes are written in ggml order, fastest axis first: {C, N, B} is N tokens of C channels in B items.
// A stage's run builds its graph anew from the shapes of the call, which takes a millisecond, and reuses its buffers.
//
//     stage vision(device, max_nodes);
//     vision.run([&](graph & g) {
//         ggml_tensor * x = g.input(GGML_TYPE_F32, {3, n}, data);    // copied in before the run
//         x = g.tap("block0", g.block(linear(g, w.fc, x)), {n, 8});  // progress and cancelling after it; its trace
//         g.output(x, result);                                       // copied out after the run
//     }, reporter, counters);

#pragma once

#include "onednn/accel.h"
#include "weights.h"

#include <functional>
#include <initializer_list>
#include <string>
#include <unordered_map>
#include <vector>

namespace ub {

// What products of attention may be of, where that is faster; finer ones first.
enum class precision {
    f32,
    levels,  // levels in 16 bits on the CPU, 5e-4 relative rms
    coarse   // those or bf16, and on a GPU f16 in one operation
};

enum class layout {
    as_is,         // {.., c, b, a} is traced as [a, b, c, ..]
    channels_last  // {C, W, H, B} is traced as [B, C, H, W], the way the golden files keep maps
};

class graph {
  public:
    graph(const device & dev, size_t max_nodes, bool traced);

    ggml_context * ctx;         // for ggml_ calls; tensors have no data until the graph is allocated
    ggml_cgraph  * gf;
    const size_t   score_bytes; // what attention() may take for scores
    const bool     accelerated; // on the CPU with accel.h: products take their epilogue, attention is one operation
    const ggml_backend_dev_t gpu; // what computes, null on the CPU
    const bool     cuda;        // it is one of ggml's CUDA backend

    // An input whose data, contiguous, is copied in before the run. data is null only when a graph is measured.
    ggml_tensor * input(ggml_type type, std::initializer_list<int64_t> ne, const void * data);
    // A result that is copied to dst after the run; dst may be null. Its value survives until the end of the graph.
    void          output(ggml_tensor * t, float * dst);
    // The end of a block: progress is reported and the call can be cancelled after it. Returns t.
    ggml_tensor * block(ggml_tensor * t);
    // Puts t, and what it needs, into the graph now: the order of these calls is the order of computation.
    ggml_tensor * expand(ggml_tensor * t);
    // When the call is traced, hands t's value out under this name, with this shape, slowest axis first. Returns t.
    ggml_tensor * tap(const std::string & name, ggml_tensor * t, std::vector<int64_t> shape, layout l = layout::as_is);

  private:
    friend class stage;
    struct in  { ggml_tensor * t; const void * data; };
    struct out { ggml_tensor * t; float * dst; };
    struct trace_point { std::string name; ggml_tensor * t; std::vector<int64_t> shape; };
    struct mark { bool block = false; std::vector<size_t> traces; };

    ggml_context_ptr                          owner;
    bool                                      traced;
    std::vector<in>                           inputs;
    std::vector<out>                          outputs;
    std::vector<trace_point>                  traces;
    std::unordered_map<ggml_tensor *, mark>   marks;
    int                                       n_blocks = 0;
};

// x {in, ...} -> {out, ...}: residual + scale * gelu(W x + bias), the epilogue's bias being w's.
ggml_tensor * linear(const graph & g, const linear_weights & w, ggml_tensor * x, accel::epilogue after = {});
// Over the fastest axis: x {C, ...}. Maps whose channels are fastest take it as their LayerNorm2d, too.
ggml_tensor * layer_norm(const graph & g, const norm_weights & w, float eps, ggml_tensor * x);
// Exact, with erf.
ggml_tensor * gelu(const graph & g, ggml_tensor * x);
ggml_tensor * relu(const graph & g, ggml_tensor * x);
// residual + scale * fc2(GELU(fc1(x))), scale {out} and residual may be null
ggml_tensor * gelu_mlp(const graph & g, const linear_weights & fc1, const linear_weights & fc2, ggml_tensor * x,
                       ggml_tensor * scale = nullptr, ggml_tensor * residual = nullptr);
// Layers with ReLU between them and none after the last.
ggml_tensor * relu_mlp(const graph & g, const std::vector<linear_weights> & layers, ggml_tensor * x);
// x {C*heads, N, B}, contiguous rows -> a view {C, N, heads, B}
ggml_tensor * split_heads(const graph & g, ggml_tensor * x, int64_t heads);
// softmax(q k^T * scale) v in f32. q {C, Nq, heads, B}, k {C, Nk, heads, B}, v {Cv, Nk, heads, B}, views are fine
// -> {Cv*heads, Nq, B}. Scores are made for groups of items, heads and queries so that one buffer stays within g.score_bytes.
ggml_tensor * attention(graph & g, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, float scale, precision products = precision::f32);

// What suits a block with this weight: coarse where it computes in int8 on the CPU, and on a GPU with any type below f32.
precision precision_of(const graph & g, const ggml_tensor * weight);

// At most so many tensors does attention() add: part of a stage's max_nodes.
size_t attention_nodes(const device & dev, int64_t nq, int64_t nk, int64_t heads, int64_t batch);

// Floating-point operations of the graph's matrix products and convolutions, two a multiply-add.
uint64_t count_flop(ggml_cgraph * gf);

// A stage runs graphs of one kind on one device. Calls of one stage must not overlap: its owner has them queue.
class stage {
  public:
    using builder = std::function<void(graph &)>;

    // max_nodes bounds the tensors of a graph, views and inputs included: be generous, about 400 bytes each.
    stage(std::shared_ptr<const device> dev, size_t max_nodes);
    ~stage();

    // Builds and runs a graph. Waits for its turn on the device, offers the turn to others after each block, reports progress
    // within r's range, and adds to c.flop and c.nanoseconds (calls and items are the caller's).
    // Throws UB_E_CANCELED, UB_E_NOMEM or UB_E_DEVICE.
    void run(const builder & build, reporter & r, counters & c);

    // Bytes of working memory on the device that run would take for this graph. Allocates nothing of that size;
    // the weights must be loaded or pretended.
    uint64_t measure(const builder & build);

    // Gives the working memory back until the next run.
    void release();

    const std::shared_ptr<const device> dev;

  private:
    void prepare(graph & g);

    const size_t                       max_nodes;
    std::vector<ggml_backend_ptr>      backends;
    std::vector<ggml_backend_t>        raw;
    ggml_backend_sched_ptr             sched;
    size_t                             sched_size = 0;
    uint64_t                           reserved = 0;  // shape of the graph that memory was last reserved for
};

} // namespace ub
