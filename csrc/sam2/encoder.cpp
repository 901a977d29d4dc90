// encoder.cpp: see encoder.h.
//
// Reference: sam2/modeling/backbones/image_encoder.py, and forward_image of sam2/modeling/sam2_base.py.
//
// A block works on some windows at a time and writes its tokens where it read them, so that what it needs beside the map is
// a fraction of the map, and stays in the cache. What the neck makes of a stage is made when the stage ends.

#include "sam2/encoder.h"

#include <algorithm>

namespace ub {

namespace {

ggml_tensor * write(graph & g, ggml_tensor * x, ggml_tensor * to) { return g.expand(ggml_cpy(g.ctx, x, to)); }

} // namespace

encoder::encoder(const device & dev, const sam2_hparams & h, const trunk_weights & trunk, const neck_weights & neck, const prompt_weights & prompt)
    : h(h), trunk(trunk), neck(neck), prompt(prompt), budget(int64_t(dev.score_bytes())), blocks(hiera_blocks(h)) {}

// Windows that a pass of a block takes: as many as keep its widest rows, the hidden ones of the MLP, within the budget.
int64_t encoder::pass(const hiera_block & b) const {
    const int64_t all = int64_t(b.windows) * b.windows;
    const int64_t row = int64_t(h.stages[size_t(b.stage)].width) * h.mlp_ratio * int64_t(sizeof(float));
    return b.global ? all : std::clamp<int64_t>(budget / (row * b.window_in * b.window_in), 1, all);
}

size_t encoder::max_nodes(const device & dev) const {
    size_t n = 4096;
    for (const hiera_block & b : blocks) {
        const int64_t all = int64_t(b.windows) * b.windows, step = pass(b), items = b.global ? 1 : step;
        const int64_t T = int64_t(b.window_in) * b.window_in * (b.global ? all : 1);
        n += size_t((all + step - 1) / step) * (96 + attention_nodes(dev, T, T, b.heads, items));
    }
    for (const auto & s : h.stages) n += 32 * size_t(s.side / s.window);
    return n;
}

void encoder::build(graph & g, const trunk_state & state, const feature_maps & out, const float * image, bool traced) const {
    ggml_tensor * x = g.input(GGML_TYPE_F32, {h.image_size, h.image_size, 3}, image);
    x = patch_embed(g, trunk, h, x);
    int window = blocks[0].window_in;  // of the map as it lies in state
    write(g, to_windows(g, x, window), state.windows(g, h, 0, window, 0, x->ne[1] * x->ne[2] / (window * window)));

    for (size_t i = 0; i < blocks.size(); ++i) {
        const hiera_block & b = blocks[i];
        const int from_stage = b.pool ? b.stage - 1 : b.stage;
        const int64_t all = int64_t(b.windows) * b.windows, step = pass(b);
        if (window != b.window_in) {
            const int side = h.stages[size_t(from_stage)].side;
            x = from_windows(g, state.windows(g, h, from_stage, window, 0, int64_t(side / window) * (side / window)), window, side);
            write(g, to_windows(g, x, b.window_in), state.windows(g, h, from_stage, b.window_in, 0, all));
        }
        ggml_tensor * done = nullptr;
        for (int64_t w = 0; w < all; w += step) {
            const int64_t n = std::min(step, all - w);
            x = hiera_forward(g, trunk.blocks[i], b, state.windows(g, h, from_stage, b.window_in, w, n));
            done = write(g, x, state.windows(g, h, b.stage, b.window_out, w, n));
        }
        window = b.window_out;
        g.block(done);
        if (i + 1 == blocks.size() || blocks[i + 1].stage != b.stage) finish_stage(g, state, out, b.stage, window, traced);
    }
}

// f(tokens of a stage) to a map in rows, some rows of windows at a time.
template <class F> void encoder::to_map(graph & g, const trunk_state & state, int stage, int window, ggml_tensor * map, F && f) const {
    const int64_t side = h.stages[size_t(stage)].side, across = side / window, C = map->ne[0];
    const int64_t step = std::clamp<int64_t>(budget / (side * window * h.width * int64_t(sizeof(float))), 1, across);
    for (int64_t y = 0; y < across; y += step) {
        const int64_t n = std::min(step, across - y);
        ggml_tensor * x = f(state.windows(g, h, stage, window, y * across, n * across));
        x = ggml_reshape_4d(g.ctx, x, C * window, window, across, n);                          // {C*w, w, W/w, n}
        ggml_tensor * to = ggml_view_4d(g.ctx, map, C * window, across, window, n, size_t(C * window) * sizeof(float), map->nb[2],
                                        map->nb[2] * size_t(window), map->nb[2] * size_t(window * y));
        write(g, x, ggml_permute(g.ctx, to, 0, 2, 1, 3));
    }
}

// What the neck makes of a stage's map.
void encoder::finish_stage(graph & g, const trunk_state & state, const feature_maps & out, int stage, int window, bool traced) const {
    const int64_t D = h.width, side = h.stages[size_t(stage)].side;
    const linear_weights & conv = neck.convs[size_t(3 - stage)];
    auto lateral = [&](ggml_tensor * x) { return linear(g, conv, x); };
    auto whole = [&] { return state.windows(g, h, stage, window, 0, (side / window) * (side / window)); };
    auto tap = [&](char letter, int level, ggml_tensor * map) {
        g.tap(letter + std::to_string(level), map, {map->ne[0], map->ne[2], map->ne[1]}, layout::channels_last);
    };
    if (traced) {
        tap('C', stage, from_windows(g, whole(), window, int(side)));
        if (stage < 2) tap('P', stage, from_windows(g, lateral(whole()), window, int(side)));
    }
    if (stage < 2) {
        const linear_weights & conv_s = stage == 0 ? neck.conv_s0 : neck.conv_s1;
        ggml_tensor * map = stage == 0 ? out.f0 : out.f1;
        to_map(g, state, stage, window, map, [&](ggml_tensor * x) { return linear(g, conv_s, lateral(x)); });
        if (traced) tap('F', stage, map);
    } else if (stage == 2) {
        to_map(g, state, stage, window, out.p2, lateral);
    } else {
        if (std::find(h.top_down.begin(), h.top_down.end(), 2) != h.top_down.end()) {
            ggml_tensor * p3 = from_windows(g, lateral(whole()), window, int(side));           // {D, W/2, H/2}
            write(g, ggml_add(g.ctx, upsample_nearest(g, p3), out.p2), out.p2);
        }
        write(g, ggml_add(g.ctx, out.p2, ggml_reshape_3d(g.ctx, prompt.no_mem, D, 1, 1)), out.f2);
        if (traced) {
            tap('P', 2, out.p2);
            tap('F', 2, out.f2);
        }
    }
}

} // namespace ub
