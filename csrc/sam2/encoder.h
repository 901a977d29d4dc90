// encoder.h: the image encoder as one graph: trunk, neck, and the maps that outlive it.

#pragma once

#include "sam2/parts.h"

namespace ub {

// Tensors in one buffer on the device that live longer than a graph.
class tensor_set {
  public:
    explicit tensor_set(const device & dev) : dev(dev) {
        ggml_init_params params = {ggml_tensor_overhead() * 8, nullptr, /*no_alloc=*/true};
        ctx.reset(ggml_init(params));
        if (!ctx) throw std::bad_alloc();
        type = dev.is_cpu() ? ggml_backend_cpu_buffer_type() : ggml_backend_dev_buffer_type(dev.main());
    }

    ggml_tensor * add(int64_t a, int64_t b = 1, int64_t c = 1) { return ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, a, b, c); }
    uint64_t bytes() const { return ggml_backend_alloc_ctx_tensors_from_buft_size(ctx.get(), type); }

    void allocate() {
        buffer.reset(ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), type));
        if (!buffer) fail(UB_E_NOMEM, "%llu bytes can't be allocated on device %s", (unsigned long long) bytes(), dev.name().c_str());
    }
    // Places the tensors without data, to measure graphs.
    void pretend() {
        buffer.reset(ggml_backend_buft_alloc_buffer(type, 0));
        if (!buffer) throw std::bad_alloc();
        for (ggml_tensor * t = ggml_get_first_tensor(ctx.get()); t != nullptr; t = ggml_get_next_tensor(ctx.get(), t)) t->buffer = buffer.get();
    }

  private:
    const device &             dev;
    ggml_backend_buffer_type_t type;
    ggml_context_ptr           ctx;
    ggml_backend_buffer_ptr    buffer;
};

// One image's features, channels fastest: F0 {D/8, L, L}, F1 {D/4, L/2, L/2}, F2 and P2 {D, L/4, L/4}.
struct feature_maps {
    tensor_set    set;
    ggml_tensor * f0, * f1, * f2, * p2;

    feature_maps(const device & dev, const sam2_hparams & h) : set(dev) {
        const int64_t s = h.feature_side(), D = h.width;
        f0 = set.add(D / 8, 4 * s, 4 * s);
        f1 = set.add(D / 4, 2 * s, 2 * s);
        f2 = set.add(D, s, s);
        p2 = set.add(D, s, s);
    }
};

// The trunk's map, between blocks. A stage's tokens lie in one of two places by turns; the next stage's first block reads
// the one and writes the other. All other blocks write where they read.
struct trunk_state {
    tensor_set    set;
    ggml_tensor * place[2];

    trunk_state(const device & dev, const sam2_hparams & h) : set(dev) {
        int64_t size[2] = {0, 0};
        for (size_t i = 0; i < h.stages.size(); ++i) {
            const auto & s = h.stages[i];
            size[i % 2] = std::max(size[i % 2], int64_t(s.width) * s.side * s.side);
        }
        for (int i = 0; i < 2; ++i) place[i] = set.add(size[i]);
    }

    // Windows [from, from + n) of a stage's map, {C, T, n}.
    ggml_tensor * windows(const graph & g, const sam2_hparams & h, int stage, int window, int64_t from, int64_t n) const {
        const int64_t C = h.stages[size_t(stage)].width, T = int64_t(window) * window;
        const size_t token = size_t(C) * sizeof(float);
        return ggml_view_3d(g.ctx, place[stage % 2], C, T, n, token, token * size_t(T), token * size_t(T * from));
    }
};

class encoder {
  public:
    encoder(const device & dev, const sam2_hparams & h, const trunk_weights & trunk, const neck_weights & neck, const prompt_weights & prompt);

    // A bound for stage: tensors of all passes, and of the maps in rows.
    size_t max_nodes(const device & dev) const;
    // image [3, S, S] to the features' maps.
    void build(graph & g, const trunk_state & state, const feature_maps & out, const float * image, bool traced) const;

  private:
    int64_t pass(const hiera_block & b) const;
    template <class F> void to_map(graph & g, const trunk_state & state, int stage, int window, ggml_tensor * map, F && f) const;
    void finish_stage(graph & g, const trunk_state & state, const feature_maps & out, int stage, int window, bool traced) const;

    const sam2_hparams &   h;
    const trunk_weights &  trunk;
    const neck_weights &   neck;
    const prompt_weights & prompt;
    const int64_t          budget;  // bytes that the widest rows of a pass may take
    const std::vector<hiera_block> blocks;
};

} // namespace ub
