// graph.cpp: see graph.h.

#include "graph.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>

namespace ub {

// -------------------------------------------------------------------------------------------------- building a graph

namespace {

ggml_context * new_graph_context(size_t max_nodes) {
    ggml_init_params params = {ggml_tensor_overhead() * max_nodes + ggml_graph_overhead_custom(max_nodes, false), nullptr, /*no_alloc=*/true};
    ggml_context * ctx = ggml_init(params);
    if (ctx == nullptr) throw std::bad_alloc();
    return ctx;
}

} // namespace

graph::graph(const device & dev, size_t max_nodes, bool traced)
    : ctx(new_graph_context(max_nodes)), gf(ggml_new_graph_custom(ctx, max_nodes, false)), score_bytes(dev.score_bytes()),
      accelerated(dev.is_cpu() && accel::enabled()),
      gpu(dev.is_cpu() ? nullptr : dev.main()), cuda(dev.is_cuda()), owner(ctx), traced(traced) {}

ggml_tensor * graph::input(ggml_type type, std::initializer_list<int64_t> ne, const void * data) {
    ggml_tensor * t = ggml_new_tensor(ctx, type, int(ne.size()), ne.begin());
    ggml_set_input(t);
    inputs.push_back({t, data});
    return t;
}

void graph::output(ggml_tensor * t, float * dst) {
    // A view's memory belongs to its source, which the allocator may reuse before the result is copied out.
    if (!ggml_is_contiguous(t) || t->op == GGML_OP_NONE || t->view_src != nullptr) t = ggml_cont(ctx, t);
    ggml_set_output(t);
    outputs.push_back({expand(t), dst});
}

ggml_tensor * graph::expand(ggml_tensor * t) {
    ggml_build_forward_expand(gf, t);
    return t;
}

ggml_tensor * graph::block(ggml_tensor * t) {
    marks[expand(t)].block = true;
    ++n_blocks;
    return t;
}

ggml_tensor * graph::tap(const std::string & name, ggml_tensor * t, std::vector<int64_t> shape, layout l) {
    if (!traced) return t;
    int64_t n = 1;
    for (int64_t s : shape) n *= s;
    if (n != ggml_nelements(t) || t->type != GGML_TYPE_F32) {
        fail(UB_E_INTERNAL, "trace %s has %lld values of %s, its shape wants %lld", name.c_str(), (long long) ggml_nelements(t),
             ggml_type_name(t->type), (long long) n);
    }
    ggml_tensor * kept = l == layout::channels_last ? ggml_permute(ctx, t, 2, 0, 1, 3) : t;  // {W, H, C, B}
    if (!ggml_is_contiguous(kept) || kept->op == GGML_OP_NONE) kept = ggml_cont(ctx, kept);
    expand(kept);
    marks[kept].traces.push_back(traces.size());
    traces.push_back({name, kept, std::move(shape)});
    return t;
}

namespace {

// W x on a GPU, where a matrix of all rows is faster than a batch of one for each item. CUDA's products of 16-bit weights round
// their results to 16 bits and widen them again, unless they are a batch that asks for f32: so the rows become a few items.
ggml_tensor * gpu_product(const graph & g, ggml_tensor * w, ggml_tensor * x) {
    if (!ggml_is_contiguous(x)) return ggml_mul_mat(g.ctx, w, x);
    constexpr int64_t many = 1024;  // below, kernels for few rows take them
    const int64_t rows = ggml_nrows(x);
    int64_t items = 1;
    if (g.cuda && (w->type == GGML_TYPE_F16 || w->type == GGML_TYPE_BF16) && rows >= many) {
        for (int64_t n : {5, 3, 2}) items = rows % n == 0 ? n : items;
    }
    ggml_tensor * y = ggml_mul_mat(g.ctx, w, ggml_reshape_3d(g.ctx, x, x->ne[0], rows / items, items));
    if (items > 1) ggml_mul_mat_set_prec(y, GGML_PREC_F32);
    return ggml_reshape_4d(g.ctx, y, y->ne[0], x->ne[1], x->ne[2], x->ne[3]);
}

} // namespace

ggml_tensor * linear(const graph & g, const linear_weights & w, ggml_tensor * x, accel::epilogue after) {
    after.bias = w.bias;
    x = g.gpu != nullptr ? gpu_product(g, w.weight, x) : ggml_mul_mat(g.ctx, w.weight, x);
    if (g.accelerated && accel::fuse(x, after)) return x;
    if (after.bias != nullptr) x = ggml_add(g.ctx, x, after.bias);
    if (after.gelu) x = gelu(g, x);
    if (after.scale != nullptr) x = ggml_mul(g.ctx, x, after.scale);
    return after.residual != nullptr ? ggml_add(g.ctx, x, after.residual) : x;
}

ggml_tensor * layer_norm(const graph & g, const norm_weights & w, float eps, ggml_tensor * x) {
    x = ggml_norm(g.ctx, x, eps);
    if (g.accelerated && accel::fuse_norm(x, w.weight, w.bias)) return x;
    return ggml_add(g.ctx, ggml_mul(g.ctx, x, w.weight), w.bias);
}

ggml_tensor * gelu(const graph & g, ggml_tensor * x) { return ggml_gelu_erf(g.ctx, x); }
ggml_tensor * relu(const graph & g, ggml_tensor * x) { return ggml_relu(g.ctx, x); }

ggml_tensor * gelu_mlp(const graph & g, const linear_weights & fc1, const linear_weights & fc2, ggml_tensor * x, ggml_tensor * scale,
                       ggml_tensor * residual) {
    x = linear(g, fc1, x, {nullptr, /*gelu=*/true, nullptr, nullptr});
    return linear(g, fc2, x, {nullptr, /*gelu=*/false, scale, residual});
}

ggml_tensor * relu_mlp(const graph & g, const std::vector<linear_weights> & layers, ggml_tensor * x) {
    for (size_t i = 0; i < layers.size(); ++i) {
        x = linear(g, layers[i], x);
        if (i + 1 < layers.size()) x = relu(g, x);
    }
    return x;
}

ggml_tensor * split_heads(const graph & g, ggml_tensor * x, int64_t heads) {
    const int64_t width = x->ne[0] / heads;
    x = ggml_view_4d(g.ctx, x, width, heads, x->ne[1], x->ne[2], size_t(width) * x->nb[0], x->nb[1], x->nb[2], 0);  // {C, heads, N, B}
    return ggml_permute(g.ctx, x, 0, 2, 1, 3);                                                                    // {C, N, heads, B}
}

namespace {

// [from, from + count) of an axis, a view.
ggml_tensor * slice(const graph & g, ggml_tensor * t, int axis, int64_t from, int64_t count) {
    if (count == t->ne[axis]) return t;
    int64_t ne[4] = {t->ne[0], t->ne[1], t->ne[2], t->ne[3]};
    ne[axis] = count;
    return ggml_view_4d(g.ctx, t, ne[0], ne[1], ne[2], ne[3], t->nb[1], t->nb[2], t->nb[3], size_t(from) * t->nb[axis]);
}

// q {C, Nq, H, B}, k {C, Nk, H, B}, vt {Nk, Cv, H, B} -> {Cv, Nq, H, B}, as one product after another.
ggml_tensor * attend(const graph & g, ggml_tensor * q, ggml_tensor * k, ggml_tensor * vt, float scale) {
    ggml_tensor * scores = ggml_mul_mat(g.ctx, k, q);  // {Nk, Nq, H, B}
    ggml_mul_mat_set_prec(scores, GGML_PREC_F32);
    scores = ggml_soft_max_ext(g.ctx, scores, nullptr, scale, 0.0f);
    ggml_tensor * x = ggml_mul_mat(g.ctx, vt, scores);
    ggml_mul_mat_set_prec(x, GGML_PREC_F32);
    return x;
}

// Cuts the first axis of `axes` that has room to be cut, and attends part by part.
ggml_tensor * attend_in_parts(graph & g, ggml_tensor * q, ggml_tensor * k, ggml_tensor * vt, float scale, int axis) {
    const int64_t all = ggml_row_size(GGML_TYPE_F32, k->ne[1]) * q->ne[1] * q->ne[2] * q->ne[3];
    if (all <= int64_t(g.score_bytes) || axis == 0) return g.expand(attend(g, q, k, vt, scale));

    const int64_t count = q->ne[axis], one = all / count;
    const int64_t step = std::clamp<int64_t>(int64_t(g.score_bytes) / one, 1, count);
    ggml_tensor * x = nullptr;
    for (int64_t from = 0; from < count; from += step) {
        const int64_t n = std::min(step, count - from);
        ggml_tensor * qi = slice(g, q, axis, from, n);
        ggml_tensor * ki = axis == 1 ? k : slice(g, k, axis, from, n), * vi = axis == 1 ? vt : slice(g, vt, axis, from, n);
        ggml_tensor * part = attend_in_parts(g, qi, ki, vi, scale, axis - 1);
        x = x == nullptr ? part : g.expand(ggml_concat(g.ctx, x, part, axis));
    }
    return x;
}

} // namespace

ggml_tensor * attention(graph & g, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, float scale, precision products) {
    const int64_t n = q->ne[1], batch = q->ne[3];
    if (g.accelerated || (g.gpu != nullptr && products == precision::coarse)) {
        ggml_tensor * x = ggml_flash_attn_ext(g.ctx, q, k, v, nullptr, scale, 0.0f, 0.0f);  // {Cv, heads, Nq, B}
        ggml_flash_attn_ext_set_prec(x, products == precision::coarse && g.accelerated ? GGML_PREC_DEFAULT : GGML_PREC_F32);
        if (products == precision::levels) accel::allow_levels(x);
        // GPUs have it for some head sizes
        if (g.accelerated || ggml_backend_dev_supports_op(g.gpu, x)) return ggml_reshape_3d(g.ctx, x, x->ne[0] * x->ne[1], n, batch);
    }
    q = ggml_cont(g.ctx, q);                                              // the CPU's fast product wants this
    ggml_tensor * vt = ggml_cont(g.ctx, ggml_permute(g.ctx, v, 1, 0, 2, 3));  // {Nk, Cv, heads, B}
    ggml_tensor * x = attend_in_parts(g, q, k, vt, scale, 3);             // {Cv, Nq, heads, B}
    x = ggml_cont(g.ctx, ggml_permute(g.ctx, x, 0, 2, 1, 3));             // {Cv, heads, Nq, B}
    return ggml_reshape_3d(g.ctx, x, x->ne[0] * x->ne[1], n, batch);
}

precision precision_of(const graph & g, const ggml_tensor * weight) {
    return (g.gpu != nullptr ? weight->type != GGML_TYPE_F32 : accel::is_int8(weight)) ? precision::coarse : precision::f32;
}

size_t attention_nodes(const device & dev, int64_t nq, int64_t nk, int64_t heads, int64_t batch) {
    // a cut is at least half full, or a single item, head or query; a part takes three views, five operations and a concat
    const double all = 4.0 * double(nq) * double(nk) * double(heads) * double(batch);
    const double limit = double(dev.score_bytes());
    if (all <= limit) return 16;
    const double most = double(nq) * double(heads) * double(batch);
    return 16 + size_t(9 * std::min(most, 2 * all / limit + double(heads * batch)));
}

uint64_t count_flop(ggml_cgraph * gf) {
    uint64_t total = 0;
    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        const ggml_tensor * t = ggml_graph_node(gf, i);
        const uint64_t out = uint64_t(ggml_nelements(t));
        switch (t->op) {
            case GGML_OP_MUL_MAT:     total += 2 * out * uint64_t(t->src[0]->ne[0]); break;
            case GGML_OP_OUT_PROD:    total += 2 * out * uint64_t(t->src[0]->ne[1]); break;
            case GGML_OP_CONV_2D:     total += 2 * out * uint64_t(t->src[0]->ne[0] * t->src[0]->ne[1] * t->src[0]->ne[2]); break;
            case GGML_OP_CONV_2D_DW:  total += 2 * out * uint64_t(t->src[0]->ne[0] * t->src[0]->ne[1]); break;
            case GGML_OP_FLASH_ATTN_EXT:  // q {C, Nq, heads, B}, k {C, Nk, ..}, v {Cv, Nk, ..}
                total += 2 * uint64_t(t->src[0]->ne[1] * t->src[0]->ne[2] * t->src[0]->ne[3]) * uint64_t(t->src[1]->ne[1]) *
                         uint64_t(t->src[1]->ne[0] + t->src[2]->ne[0]);
                break;
            default: break;
        }
    }
    return total;
}

// ---------------------------------------------------------------------------------------------------- running a stage

stage::stage(std::shared_ptr<const device> d, size_t max_nodes) : dev(std::move(d)), max_nodes(max_nodes), backends(dev->backends()) {
    for (auto & b : backends) raw.push_back(b.get());
}

stage::~stage() = default;

void stage::release() {
    sched.reset();
    reserved = 0;
}

// Makes a scheduler that is large enough for the graph.
void stage::prepare(graph & g) {
    std::unordered_set<const ggml_tensor *> leafs;
    const int n = ggml_graph_n_nodes(g.gf);
    for (int i = 0; i < n; ++i) {
        for (const ggml_tensor * s : ggml_graph_node(g.gf, i)->src) {
            if (s != nullptr && s->op == GGML_OP_NONE) leafs.insert(s);
        }
    }
    // beside nodes and leafs a scheduler keeps the copies that it makes between backends
    const size_t need = (size_t(n) + leafs.size() + 64) * (raw.size() > 1 ? 3 : 1);
    if (!sched || sched_size < need) {
        sched.reset(ggml_backend_sched_new(raw.data(), nullptr, int(raw.size()), need, /*parallel=*/false, /*op_offload=*/false));
        if (!sched) throw std::bad_alloc();
        sched_size = need;
    }
    ggml_backend_sched_reset(sched.get());  // forgets the graph before
}

uint64_t stage::measure(const builder & build) {
    graph g(*dev, max_nodes, false);
    build(g);
    prepare(g);
    std::vector<size_t> sizes(raw.size());
    ggml_backend_sched_reserve_size(sched.get(), g.gf, sizes.data());
    uint64_t bytes = 0;
    for (size_t i = 0; i < raw.size(); ++i) {
        const bool counts = dev->is_cpu() || ggml_backend_get_device(raw[i]) == dev->main();
        bool seen = false;  // backends of one buffer type share a buffer
        for (size_t j = 0; j < i; ++j) {
            seen = seen || ggml_backend_sched_get_buffer_type(sched.get(), raw[j]) == ggml_backend_sched_get_buffer_type(sched.get(), raw[i]);
        }
        if (counts && !seen) bytes += sizes[i];
    }
    if (dev->is_cpu()) bytes += ggml_graph_plan(g.gf, dev->n_threads(), dev->pool()).work_size;
    release();
    return bytes;
}

namespace {

// A hash (FNV-1a) of the operations, types, flags and sizes of a graph: graphs that share it take the same working memory.
uint64_t shape_of(ggml_cgraph * gf) {
    uint64_t hash = 14695981039346656037ull;
    auto add = [&](uint64_t v) { hash = (hash ^ v) * 1099511628211ull; };
    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        const ggml_tensor * t = ggml_graph_node(gf, i);
        add(uint64_t(t->op));
        add(uint64_t(t->type));
        add(uint64_t(t->flags));
        for (int64_t n : t->ne) add(uint64_t(n));
    }
    return hash;
}

// What the scheduler's callback sees.
struct watch {
    const std::function<bool(ggml_tensor *)> wanted;   // observe this node?
    const std::function<bool(ggml_tensor *)> reached;  // it is computed; false: cancel
};

bool on_node(ggml_tensor * t, bool ask, void * user) {
    auto & w = *static_cast<watch *>(user);
    return ask ? w.wanted(t) : w.reached(t);
}

bool on_abort(void * user) { return !static_cast<reporter *>(user)->poll(); }

} // namespace

void stage::run(const builder & build, reporter & r, counters & c) {
    r.check();
    turn my_turn(dev->turns);
    uint64_t waited = 0;
    const uint64_t start = now_ns();

    auto made = std::make_unique<graph>(*dev, max_nodes, r.traced());
    build(*made);
    if (const uint64_t shape = shape_of(made->gf); shape != reserved) {
        // Reserved first, which leaves the graph used up: where memory runs out this fails, and the allocation below would crash.
        prepare(*made);
        if (!ggml_backend_sched_reserve(sched.get(), made->gf)) {
            release();
            fail(UB_E_NOMEM, "working memory of a stage can't be allocated on device %s", dev->name().c_str());
        }
        reserved = shape;
        made = std::make_unique<graph>(*dev, max_nodes, r.traced());
        build(*made);
    }
    graph & g = *made;
    ggml_backend_sched_reset(sched.get());
    if (!ggml_backend_sched_alloc_graph(sched.get(), g.gf)) {
        release();
        fail(UB_E_NOMEM, "working memory of a stage can't be allocated on device %s", dev->name().c_str());
    }
    for (int i = 0; i < ggml_graph_n_nodes(g.gf); ++i) c.ran.add(ggml_graph_node(g.gf, i));
    for (auto & in : g.inputs) {
        if (in.t->buffer != nullptr) ggml_backend_tensor_set(in.t, in.data, 0, ggml_nbytes(in.t));  // unused inputs have none
    }

    int blocks_done = 0;
    std::vector<float> values;
    for (const auto & p : g.traces) values.reserve(size_t(ggml_nelements(p.t)));  // nothing may throw inside ggml
    watch w{
        [&](ggml_tensor * t) { return r.canceled() || g.marks.count(t) != 0; },
        [&](ggml_tensor * t) {
            if (r.canceled()) return false;
            const auto it = g.marks.find(t);
            if (it == g.marks.end()) return true;
            for (size_t i : it->second.traces) {
                const auto & p = g.traces[i];
                values.resize(size_t(ggml_nelements(p.t)));
                ggml_backend_tensor_get(p.t, values.data(), 0, ggml_nbytes(p.t));
                r.trace(p.name.c_str(), values.data(), p.shape.data(), int(p.shape.size()));
            }
            if (!it->second.block) return true;
            const bool go_on = r.at(float(++blocks_done) / float(g.n_blocks));
            if (go_on) waited += dev->turns.yield();
            return go_on;
        }};
    ggml_backend_sched_set_eval_callback(sched.get(), on_node, &w);
    ggml_backend_cpu_set_abort_callback(raw.back(), on_abort, &r);
    const ggml_status status = ggml_backend_sched_graph_compute(sched.get(), g.gf);
    ggml_backend_cpu_set_abort_callback(raw.back(), nullptr, nullptr);
    ggml_backend_sched_set_eval_callback(sched.get(), nullptr, nullptr);

    r.check();
    if (status == GGML_STATUS_ALLOC_FAILED) fail(UB_E_NOMEM, "device %s ran out of memory", dev->name().c_str());
    if (status != GGML_STATUS_SUCCESS) fail(UB_E_DEVICE, "device %s failed with ggml status %d", dev->name().c_str(), int(status));
    for (auto & out : g.outputs) {
        if (out.dst != nullptr) ggml_backend_tensor_get(out.t, out.dst, 0, ggml_nbytes(out.t));
    }
    c.flop += count_flop(g.gf);
    c.nanoseconds += now_ns() - start - waited;
}

} // namespace ub
