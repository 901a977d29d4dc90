// sam2.cpp: loads SAM 2, knows what its stages take, and runs them.

#include "sam2/sam2.h"

#include "sam2/cpu_attention.h"
#include "sam2/encoder.h"
#include "sam2/track.h"

#include <algorithm>
#include <cmath>
#include <mutex>

namespace ub {

namespace {

// All weights, each part's own.
struct parts {
    trunk_weights   trunk;
    neck_weights    neck;
    prompt_weights  prompt;
    decoder_weights decoder;
    memory_weights  memory;

    parts(weights & w, const sam2_hparams & h)
        : trunk(load_trunk(w, h)), neck(load_neck(w, h)), prompt(load_prompt(w, h)), decoder(load_decoder(w, h)), memory(load_memory(w, h)) {
        w.finish();
    }
};

// {C, W, H} <-> [C, H, W] on the host.
std::vector<float> channels_last(const float * chw, int64_t C, int64_t pixels) {
    std::vector<float> out(size_t(C * pixels));
    for (int64_t c = 0; c < C; ++c) {
        for (int64_t i = 0; i < pixels; ++i) out[size_t(i * C + c)] = chw[c * pixels + i];
    }
    return out;
}

} // namespace

class sam2_features {
  public:
    sam2_features(std::shared_ptr<const device> dev, const sam2 * owner, const sam2_hparams & h)
        : dev(std::move(dev)), owner(owner), maps(*this->dev, h) {
        maps.set.allocate();
    }

    const std::shared_ptr<const device> dev;  // outlives the buffer
    const sam2 * const owner;
    feature_maps maps;
};

class sam2_track {
  public:
    sam2_track(const sam2 * owner, const float * hidden, const sam2_hparams & h)
        : owner(owner), hidden(hidden, hidden + h.input), bank(h.slice_count, h.pointer_count) {}

    const sam2 * const       owner;
    std::mutex               mutex;
    const std::vector<float> hidden;  // [H]
    memory_bank              bank;
};

void sam2_deleter::operator()(sam2_features * f) const { delete f; }
void sam2_deleter::operator()(sam2_track * t) const { delete t; }

// ----------------------------------------------------------------------------------------------------------- loaded

namespace {

int batch_of(const device & dev, int mask_batch) { return mask_batch > 0 ? mask_batch : dev.is_cpu() ? 4 : 16; }

// Memories and object pointers that a step is planned for, and memories that it takes at most: an application may prompt more
// slices than the model is made for, but not without end.
int planned_memories(const sam2_hparams & h) { return h.prompted_slices + h.slice_count - 1; }
int planned_pointers(const sam2_hparams & h) { return h.prompted_slices + h.pointer_count - 1; }
int most_memories(const sam2_hparams & h) { return 8 * planned_memories(h); }

// Bounds of the stages' graphs.
size_t masks_nodes(const device & dev, const sam2_hparams & h, int batch) {
    const int64_t tokens = 2 + h.n_masks + 3, N = int64_t(h.feature_side()) * h.feature_side();
    const size_t to_image = attention_nodes(dev, tokens * batch, N, h.decoder_heads, 1) + attention_nodes(dev, tokens, N, h.decoder_heads, batch);
    const size_t others = attention_nodes(dev, N, tokens, h.decoder_heads, batch) + attention_nodes(dev, tokens, tokens, h.decoder_heads, batch);
    return 2048 + 32 * size_t(h.n_masks) + size_t(h.decoder_blocks + 1) * (256 + to_image + others);
}

size_t memory_nodes(const device & dev, const sam2_hparams & h) {
    const int64_t N = int64_t(h.feature_side()) * h.feature_side();
    const int64_t K = N * most_memories(h) + int64_t(h.pointer_tokens()) * (most_memories(h) + planned_pointers(h));
    return 2048 + 32 * size_t(h.fuser_blocks) +
           size_t(h.memory_blocks) * (256 + attention_nodes(dev, N, N, h.memory_heads, 1) + attention_nodes(dev, N, K, h.memory_heads, 1));
}

// The mask decoder up to its tokens, for prompts of one image: what masks are chosen by.
struct prompt_results {
    int64_t n, n_tokens;
    std::vector<float> embedding;     // [n, D], empty without a prompt
    std::vector<float> sparse;        // [n, 2 or 3, D]
    std::vector<float> hs;            // [n, tokens, D]
    std::vector<float> src;           // [n, N, D]
    std::vector<float> iou;           // [n, n_masks]
    std::vector<float> object_score;  // [n]
    std::vector<int>   selected;      // [n]

    prompt_results(const sam2_hparams & h, int64_t n, bool prompted)
        : n(n), n_tokens(2 + h.n_masks + (prompted ? 3 : 2)), embedding(size_t(prompted ? n * h.width : 0)),
          sparse(size_t(n * (prompted ? 3 : 2) * h.width)), hs(size_t(n * n_tokens * h.width)),
          src(size_t(n * h.feature_side() * h.feature_side() * h.width)), iou(size_t(n * h.n_masks)), object_score(size_t(n)) {}

    // The best predicted overlap among all masks but the first, which is SAM 2's single-mask token. Ties: the first.
    void select(int n_masks) {
        selected.resize(size_t(n));
        for (int64_t i = 0; i < n; ++i) {
            const float * v = &iou[size_t(i * n_masks)];
            selected[size_t(i)] = int(std::max_element(v + 1, v + n_masks) - v);
        }
    }
};

} // namespace

struct sam2::impl {
    const sam2_hparams            h;
    std::shared_ptr<const device> dev;
    weights                       w;
    const parts                   p;
    const int                     mask_batch;
    stage_counters *              counters_ = nullptr;

    encoder   encode_graph;
    stage     encode_stage, masks_stage, memory_stage;
    turnstile encode_turn, masks_turn, memory_turn;  // calls of one stage, in arrival order

    // Constants of the memory: [D], [slice_count, M], [N, M], [N, D] by 0.1, and periods.
    std::vector<float> no_pointer, time, sine_memory, sine_scaled, periods;
    std::once_flag     tables;

    impl(std::shared_ptr<const gguf_file> f, std::shared_ptr<const device> d, int mask_batch)
        : h(sam2_hparams::read(*f)), dev(std::move(d)), w(std::move(f)), p(w, h), mask_batch(batch_of(*dev, mask_batch)),
          encode_graph(*dev, h, p.trunk, p.neck, p.prompt),
          encode_stage(dev, encode_graph.max_nodes(*dev)), masks_stage(dev, masks_nodes(*dev, h, this->mask_batch)),
          memory_stage(dev, memory_nodes(*dev, h)) {}

    int64_t tokens() const { return int64_t(h.feature_side()) * h.feature_side(); }  // N
    int64_t mask_pixels() const { return 16 * tokens(); }                            // L*L

    // ---- graphs, the same when they are measured (data null) as when they run

    // n prompts, or none for a tracked slice, whose image comes from memory: image {D, W, H} on the device, or [N, D].
    void transformer(graph & g, const float * hidden, int64_t n, ggml_tensor * image, const float * host_image, prompt_results * r,
                     bool trace_tables) const {
        ggml_tensor * e = nullptr;
        if (hidden != nullptr || r == nullptr) {
            e = text_hidden_fcs(g, p.prompt, g.input(GGML_TYPE_F32, {h.input, n}, hidden));
            g.output(e, r != nullptr ? r->embedding.data() : nullptr);
        }
        if (trace_tables) {
            const int64_t s = h.feature_side();
            g.tap("dense_pe", p.decoder.dense_pe, {h.width, s, s}, layout::channels_last);
            g.tap("dense_prompt_vector", p.prompt.no_mask, {h.width});
        }
        ggml_tensor * sparse = sparse_tokens(g, p.prompt, e);
        g.output(sparse, r != nullptr ? r->sparse.data() : nullptr);

        ggml_tensor * src = image != nullptr ? ggml_reshape_2d(g.ctx, image, h.width, tokens())
                                             : g.input(GGML_TYPE_F32, {h.width, tokens()}, host_image);
        src = ggml_reshape_3d(g.ctx, ggml_add(g.ctx, src, p.prompt.no_mask), h.width, tokens(), 1);
        const decoder_tokens t = decoder_transformer(g, p.decoder, h, src, sparse);
        g.output(t.hs, r != nullptr ? r->hs.data() : nullptr);
        g.output(t.src, r != nullptr ? r->src.data() : nullptr);
        g.output(t.iou, r != nullptr ? r->iou.data() : nullptr);
        g.output(t.object_score, r != nullptr ? r->object_score.data() : nullptr);
        g.block(t.object_score);
    }

    // Masks [first, first + count) of one prompt, each to its place in logits [count, L, L].
    void upscale(graph & g, const feature_maps & f, const float * src, const float * hs, int64_t n_tokens, int first, int count,
                 float * logits) const {
        ggml_tensor * u = g.input(GGML_TYPE_F32, {h.width, tokens()}, src);
        ggml_tensor * q = g.input(GGML_TYPE_F32, {h.width, n_tokens}, hs);
        u = decoder_upscale(g, p.decoder, h, u, f.f0, f.f1);
        for (int k = 0; k < count; ++k) {
            g.output(g.block(decoder_mask(g, p.decoder, u, q, first + k)), logits != nullptr ? logits + k * mask_pixels() : nullptr);
        }
    }

    // A slice's memory and, where something was found, its pointer.
    void memorise(graph & g, const feature_maps & f, const float * logits, const float * token, bool found, const std::string & name,
                   float * memory, float * pointer) const {
        const int64_t L = h.mask_side(), s = h.feature_side();
        ggml_tensor * m = memory_encode(g, p.memory.encoder, h, f.p2, g.input(GGML_TYPE_F32, {L, L}, logits));
        g.tap(name, m, {h.memory_width, s, s}, layout::channels_last);
        g.output(g.block(m), memory);
        if (found) g.output(relu_mlp(g, p.memory.pointer, g.input(GGML_TYPE_F32, {h.width, 1}, token)), pointer);
    }

    // What a tracked slice makes of n memories and some pointers, in place of its F2.
    void remember(graph & g, const feature_maps & f, int n_memories, int n_pointers, const float * memory, const float * keys,
                  const int32_t * x_turns, const int32_t * k_turns, const std::string & name, float * out) const {
        const int64_t N = tokens(), K = N * n_memories + int64_t(n_pointers) * h.pointer_tokens(), M = h.memory_width, D = h.width;
        memory_inputs in;
        in.x       = ggml_add(g.ctx, ggml_reshape_2d(g.ctx, f.p2, D, N), g.input(GGML_TYPE_F32, {D, N}, sine_scaled.data()));
        in.memory  = g.input(GGML_TYPE_F32, {M, K}, memory);
        in.keys    = g.input(GGML_TYPE_F32, {M, K}, keys);
        in.x_turns = g.input(GGML_TYPE_I32, {2 * h.memory_heads * N}, x_turns);
        in.k_turns = g.input(GGML_TYPE_I32, {2 * h.memory_heads * K}, k_turns);
        in.periods = g.input(GGML_TYPE_F32, {h.width / h.memory_heads / 4}, periods.data());
        // scores are too sharp for bf16; but levels are finer than what int8 leaves of the image's features
        in.products = g.accelerated && accel::is_int8(p.trunk.blocks.back().proj.weight) ? precision::levels : precision::f32;
        ggml_tensor * x = memory_attention(g, p.memory.attention, h, in);
        g.output(g.tap(name, x, {N, D}), out);
    }

    // ---- runs; the caller holds the stage's turn

    void run(stage & s, ub_stage which, const stage::builder & build, reporter & r) {
        counters & c = (*counters_)[which];
        uint64_t flop = 0;
        s.run([&](graph & g) {
            build(g);
            flop = cpu_attention_flop(g.gf);
        }, r, c);
        c.flop += flop;
    }

    void done(ub_stage which, uint64_t items) {
        (*counters_)[which].calls += 1;
        (*counters_)[which].items += items;
    }

    void run_transformer(const float * hidden, ggml_tensor * image, const float * host_image, prompt_results & out, bool trace_tables, reporter & r) {
        run(masks_stage, UB_STAGE_MASKS, [&](graph & g) { transformer(g, hidden, out.n, image, host_image, &out, trace_tables); }, r);
    }

    // Computes the selected mask of prompt i, and all masks where the call is traced.
    void run_upscale(const feature_maps & f, const prompt_results & in, int64_t i, const std::string & trace_name, float * logits, reporter & r) {
        const int k = in.selected[size_t(i)], first = r.traced() ? 0 : k, count = r.traced() ? h.n_masks : 1;
        std::vector<float> all;
        if (r.traced()) all.resize(size_t(h.n_masks * mask_pixels()));
        float * to = r.traced() ? all.data() : logits;
        if (to == nullptr) return;
        const float * src = &in.src[size_t(i * tokens() * h.width)], * hs = &in.hs[size_t(i * in.n_tokens * h.width)];
        run(masks_stage, UB_STAGE_MASKS, [&](graph & g) { upscale(g, f, src, hs, in.n_tokens, first, count, to); }, r);
        if (r.traced()) {
            const int64_t shape[3] = {h.n_masks, h.mask_side(), h.mask_side()};
            r.trace(trace_name.c_str(), all.data(), shape, 3);
            if (logits != nullptr) std::copy_n(&all[size_t(k * mask_pixels())], mask_pixels(), logits);
        }
    }

    static void trace(reporter & r, const std::string & name, const std::vector<float> & data, std::vector<int64_t> shape) {
        if (r.traced()) r.trace(name.c_str(), data.data(), shape.data(), int(shape.size()));
    }

    void give(const prompt_results & in, ub_masks & out) const {
        if (out.iou != nullptr) std::copy(in.iou.begin(), in.iou.end(), out.iou);
        if (out.object_score != nullptr) std::copy(in.object_score.begin(), in.object_score.end(), out.object_score);
        if (out.selected != nullptr) std::copy(in.selected.begin(), in.selected.end(), out.selected);
        if (out.embedding != nullptr) std::copy(in.embedding.begin(), in.embedding.end(), out.embedding);
    }

    // Constants of the memory, made when the first track is opened.
    void make_tables() {
        std::call_once(tables, [&] {
            sine_memory = sine_positions(h.feature_side(), h.memory_width);
            sine_scaled = sine_positions(h.feature_side(), h.width);
            for (float & v : sine_scaled) v *= 0.1f;
            periods = turn_periods(h);
            no_pointer.resize(size_t(h.width));
            time.resize(size_t(h.slice_count) * h.memory_width);
            ggml_backend_tensor_get(p.memory.no_pointer, no_pointer.data(), 0, no_pointer.size() * sizeof(float));
            ggml_backend_tensor_get(p.memory.time, time.data(), 0, time.size() * sizeof(float));
        });
    }

    slice_memory memorise_slice(int32_t slice, const feature_maps & f, const prompt_results & in, const float * logits, reporter & r) {
        const std::string number = std::to_string(slice);
        slice_memory m;
        m.slice = slice;
        m.pointer.resize(size_t(h.width));
        std::vector<float> memory(size_t(tokens()) * h.memory_width);
        const bool found = in.object_score[0] > 0;
        if (!found) m.pointer = no_pointer;
        const float * token = &in.hs[size_t(2 + in.selected[0]) * h.width];
        {
            turn mine(memory_turn);
            run(memory_stage, UB_STAGE_MEMORY, [&](graph & g) {
                memorise(g, f, logits, token, found, "memory." + number, memory.data(), m.pointer.data());
            }, r);
        }
        m.memory.resize(memory.size());
        static_assert(sizeof(ggml_bf16_t) == sizeof(uint16_t), "bf16 is kept as its bits");
        ggml_fp32_to_bf16_row(memory.data(), reinterpret_cast<ggml_bf16_t *>(m.memory.data()), int64_t(memory.size()));
        trace(r, "slice." + number + ".obj_ptr", m.pointer, {h.width});
        return m;
    }

    // What is computed of a slice once its image side is known, prompted or tracked: the mask, then the memory.
    slice_memory finish_slice(int32_t slice, const feature_maps & f, prompt_results & results, ub_masks & out, reporter & r) {
        const std::string prefix = "slice." + std::to_string(slice);
        results.select(h.n_masks);
        trace(r, prefix + ".hs", results.hs, {results.n_tokens, h.width});
        std::vector<float> logits(static_cast<size_t>(mask_pixels()));
        {
            turn mine(masks_turn);
            r.range(0.5f, 0.7f);
            run_upscale(f, results, 0, prefix + ".mask_logits", logits.data(), r);
        }
        r.range(0.7f, 1);
        slice_memory m = memorise_slice(slice, f, results, logits.data(), r);
        if (out.logits != nullptr) std::copy(logits.begin(), logits.end(), out.logits);
        give(results, out);
        done(UB_STAGE_MASKS, 1);
        done(UB_STAGE_MEMORY, 1);
        return m;
    }
};

sam2::sam2(std::unique_ptr<impl> p) : p(std::move(p)) {}
sam2::~sam2() = default;

const sam2_hparams & sam2::hparams() const { return p->h; }

void sam2::check(std::shared_ptr<const gguf_file> f) {
    const sam2_hparams h = sam2_hparams::read(*f);
    weights w(std::move(f));
    parts(w, h);
}

sam2::plan sam2::measure(std::shared_ptr<const gguf_file> f, std::shared_ptr<const device> dev, int mask_batch) {
    impl m(std::move(f), std::move(dev), mask_batch);
    m.w.pretend(*m.dev);
    feature_maps maps(*m.dev, m.h);
    trunk_state  state(*m.dev, m.h);
    plan out{};
    out.features = maps.set.bytes();
    out.encode   = state.set.bytes();
    maps.set.pretend();
    state.set.pretend();
    out.encode += m.encode_stage.measure([&](graph & g) { m.encode_graph.build(g, state, maps, nullptr, false); });
    const uint64_t transformer = m.masks_stage.measure([&](graph & g) { m.transformer(g, nullptr, m.mask_batch, maps.f2, nullptr, nullptr, false); });
    const uint64_t upscale = m.masks_stage.measure([&](graph & g) { m.upscale(g, maps, nullptr, nullptr, 2 + m.h.n_masks + 3, 0, 1, nullptr); });
    const uint64_t host = uint64_t(m.mask_batch) * m.tokens() * m.h.width * sizeof(float);  // the image side between the two
    out.masks = std::max(transformer, upscale) + host;

    const int memories = planned_memories(m.h), pointers = planned_pointers(m.h);
    const uint64_t keys = uint64_t(memories) * m.tokens() * m.h.memory_width;
    const uint64_t memorise = m.memory_stage.measure([&](graph & g) { m.memorise(g, maps, nullptr, nullptr, true, "", nullptr, nullptr); });
    const uint64_t remember = m.memory_stage.measure([&](graph & g) {
        m.remember(g, maps, memories, pointers, nullptr, nullptr, nullptr, nullptr, "", nullptr);
    });
    out.memory = std::max(memorise, remember + 2 * keys * sizeof(float)) + keys * sizeof(uint16_t);  // the bank, and what is made of it
    return out;
}

std::unique_ptr<sam2> sam2::load(std::shared_ptr<const gguf_file> f, std::shared_ptr<const device> dev, int mask_batch, stage_counters & counters,
                                 reporter & r) {
    auto p = std::make_unique<impl>(std::move(f), std::move(dev), mask_batch);
    p->counters_ = &counters;
    p->w.load(*p->dev, r);
    return std::unique_ptr<sam2>(new sam2(std::move(p)));
}

// ------------------------------------------------------------------------------------------------------------ image

sam2_features_ptr sam2::encode(const float * image, reporter & r) {
    turn mine(p->encode_turn);
    sam2_features_ptr f(new sam2_features(p->dev, this, p->h));
    trunk_state state(*p->dev, p->h);
    state.set.allocate();
    p->run(p->encode_stage, UB_STAGE_FEATURES, [&](graph & g) { p->encode_graph.build(g, state, f->maps, image, r.traced()); }, r);
    p->encode_stage.release();
    p->done(UB_STAGE_FEATURES, 1);
    return f;
}

sam2_features_ptr sam2::features_from(const float * f0, const float * f1, const float * f2) {
    const int64_t D = p->h.width, N = p->tokens();
    sam2_features_ptr f(new sam2_features(p->dev, this, p->h));
    auto set = [](ggml_tensor * t, const std::vector<float> & v) { ggml_backend_tensor_set(t, v.data(), 0, v.size() * sizeof(float)); };
    set(f->maps.f0, channels_last(f0, D / 8, 16 * N));
    set(f->maps.f1, channels_last(f1, D / 4, 4 * N));
    std::vector<float> v = channels_last(f2, D, N), no_mem(static_cast<size_t>(D));
    set(f->maps.f2, v);
    ggml_backend_tensor_get(p->p.prompt.no_mem, no_mem.data(), 0, no_mem.size() * sizeof(float));
    for (size_t i = 0; i < v.size(); ++i) v[i] -= no_mem[i % size_t(D)];
    set(f->maps.p2, v);
    return f;
}

void sam2::decode(const sam2_features & f, const float * hidden, int32_t n, ub_masks & out, reporter & r) {
    UB_REQUIRE(f.owner == this, "features of another model");
    const sam2_hparams & h = p->h;
    turn mine(p->masks_turn);
    std::vector<float> embeddings, sparse;  // of all, for the trace
    for (int32_t at = 0; at < n; at += p->mask_batch) {
        const int32_t b = std::min<int32_t>(p->mask_batch, n - at);
        prompt_results batch(h, b, true);
        r.range(float(at) / float(n), (float(at) + 0.5f * float(b)) / float(n));
        p->run_transformer(hidden + int64_t(at) * h.input, f.maps.f2, nullptr, batch, at == 0, r);
        batch.select(h.n_masks);
        if (r.traced()) {
            embeddings.insert(embeddings.end(), batch.embedding.begin(), batch.embedding.end());
            sparse.insert(sparse.end(), batch.sparse.begin(), batch.sparse.end());
        }
        for (int32_t i = 0; i < b; ++i) {
            const std::string number = std::to_string(at + i);
            if (r.traced()) {
                const int64_t shape[2] = {batch.n_tokens, h.width};
                r.trace(("hs." + number).c_str(), &batch.hs[size_t(i * batch.n_tokens * h.width)], shape, 2);
            }
            r.range((float(at) + 0.5f * float(b + i)) / float(n), (float(at) + 0.5f * float(b + i + 1)) / float(n));
            p->run_upscale(f.maps, batch, i, "mask_logits." + number, out.logits != nullptr ? out.logits + (at + i) * p->mask_pixels() : nullptr, r);
        }
        ub_masks part = out;
        if (part.iou != nullptr) part.iou += int64_t(at) * h.n_masks;
        if (part.object_score != nullptr) part.object_score += at;
        if (part.selected != nullptr) part.selected += at;
        if (part.embedding != nullptr) part.embedding += int64_t(at) * h.width;
        p->give(batch, part);
    }
    impl::trace(r, "seg_embedding", embeddings, {n, h.width});
    impl::trace(r, "sparse_tokens", sparse, {n, 3, h.width});
    p->done(UB_STAGE_MASKS, uint64_t(n));
}

// ------------------------------------------------------------------------------------------------------------ volume

sam2_track_ptr sam2::open_track(const float * hidden) {
    p->make_tables();
    return sam2_track_ptr(new sam2_track(this, hidden, p->h));
}

void sam2::prompt(sam2_track & t, int32_t slice, const sam2_features & f, ub_masks & out, reporter & r) {
    UB_REQUIRE(f.owner == this && t.owner == this, "features or track of another model");
    std::lock_guard<std::mutex> lock(t.mutex);
    prompt_results results(p->h, 1, true);
    {
        turn mine(p->masks_turn);
        r.range(0, 0.5f);
        p->run_transformer(t.hidden.data(), f.maps.f2, nullptr, results, true, r);
    }
    impl::trace(r, "seg_embedding", results.embedding, {1, p->h.width});
    impl::trace(r, "sparse_tokens", results.sparse, {1, 3, p->h.width});
    t.bank.keep_prompted(p->finish_slice(slice, f.maps, results, out, r));
}

void sam2::step(sam2_track & t, int32_t slice, const sam2_features & f, ub_masks & out, reporter & r) {
    UB_REQUIRE(f.owner == this && t.owner == this, "features or track of another model");
    std::lock_guard<std::mutex> lock(t.mutex);
    UB_REQUIRE(!t.bank.empty(), "slice %d can't be tracked: no slice of this track was prompted", slice);
    UB_REQUIRE(!t.bank.is_prompted(slice), "slice %d can't be tracked: it was prompted", slice);

    const sam2_hparams & h = p->h;
    const std::string prefix = "slice." + std::to_string(slice);
    const memory_bank::view view = t.bank.look(slice);
    const int64_t N = p->tokens(), M = h.memory_width, n_memories = int64_t(view.memories.size()), n_pointers = int64_t(view.pointers.size());
    const int64_t K = N * n_memories + n_pointers * h.pointer_tokens();
    UB_REQUIRE(n_memories <= most_memories(h), "slice %d would look at %lld slices, at most %d can be held", slice, (long long) n_memories,
               most_memories(h));

    // Memories, then pointers, which have no position; keys are memories with positions in the slice and in time.
    std::vector<float> memory(size_t(K * M)), keys, positions;
    keys.reserve(memory.size());
    if (r.traced()) positions.reserve(memory.size());
    float * to = memory.data();
    for (const auto & item : view.memories) {
        ggml_bf16_to_fp32_row(reinterpret_cast<const ggml_bf16_t *>(item.from->memory.data()), to, N * M);
        const float * time = &p->time[size_t(item.time * M)];
        for (int64_t i = 0; i < N * M; ++i) {
            const float position = p->sine_memory[size_t(i)] + time[i % M];
            keys.push_back(to[i] + position);
            if (r.traced()) positions.push_back(position);
        }
        to += N * M;
    }
    for (const slice_memory * m : view.pointers) to = std::copy(m->pointer.begin(), m->pointer.end(), to);
    const float * pointers = memory.data() + N * M * n_memories;
    keys.insert(keys.end(), pointers, pointers + n_pointers * h.width);
    if (r.traced()) {
        positions.resize(keys.size(), 0.0f);
        impl::trace(r, prefix + ".memory_pos", positions, {K, M});
        impl::trace(r, prefix + ".object_pointer_tokens", {pointers, pointers + n_pointers * h.width}, {n_pointers * h.pointer_tokens(), M});
    }
    const std::vector<int32_t> x_turns = turn_positions(h.feature_side(), h.memory_heads, 1, 0);
    const std::vector<int32_t> k_turns = turn_positions(h.feature_side(), h.memory_heads, int(n_memories), int(n_pointers * h.pointer_tokens()));

    std::vector<float> image(size_t(N * h.width));
    {
        turn mine(p->memory_turn);
        r.range(0, 0.4f);
        p->run(p->memory_stage, UB_STAGE_MEMORY, [&](graph & g) {
            p->remember(g, f.maps, int(n_memories), int(n_pointers), memory.data(), keys.data(), x_turns.data(), k_turns.data(),
                        prefix + ".memory_attention_out", image.data());
        }, r);
        p->memory_stage.release();
    }
    std::vector<float>().swap(keys);
    std::vector<float>().swap(memory);

    prompt_results results(h, 1, false);
    {
        turn mine(p->masks_turn);
        r.range(0.4f, 0.5f);
        p->run_transformer(nullptr, nullptr, image.data(), results, false, r);
    }
    ub_masks without = out;
    without.embedding = nullptr;
    t.bank.keep_tracked(p->finish_slice(slice, f.maps, results, without, r));
}

void sam2::rewind(sam2_track & t) {
    std::lock_guard<std::mutex> lock(t.mutex);
    t.bank.forget_tracked();
}

} // namespace ub
