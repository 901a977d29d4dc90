// trunk.cpp: Hiera, the image encoder's trunk.
//
// Reference: sam2/modeling/backbones/hieradet.py (Hiera, MultiScaleBlock, MultiScaleAttention).

#include "sam2/parts.h"

#include <algorithm>
#include <cmath>

namespace ub {

std::vector<hiera_block> hiera_blocks(const sam2_hparams & h) {
    std::vector<hiera_block> out;
    for (int s = 0; s < int(h.stages.size()); ++s) {
        for (int i = 0; i < h.stages[size_t(s)].blocks; ++i) {
            hiera_block b;
            b.stage      = s;
            b.heads      = h.stages[size_t(s)].heads;
            b.pool       = i == 0 && s > 0;
            // The first block of a stage still works in the windows of the stage before.
            const auto & windows = h.stages[size_t(b.pool ? s - 1 : s)];
            b.window_in  = windows.window;
            b.window_out = b.pool ? windows.window / 2 : windows.window;
            b.windows    = windows.side / windows.window;
            b.global     = std::find(h.global_blocks.begin(), h.global_blocks.end(), int(out.size())) != h.global_blocks.end();
            out.push_back(b);
        }
    }
    return out;
}

trunk_weights load_trunk(weights & w, const sam2_hparams & h) {
    trunk_weights t;
    w.may_pack("trunk.blocks.");
    w.may_pack("trunk.blocks.");
    const auto & first = h.stages[0];

    // The kernel's side is the patch embedding's own; padding of half a kernel makes the map image_size / stride.
    const std::string patch = "trunk.patch_embed";
    const auto * p = w.file().find(patch + ".weight");
    const int64_t row = p != nullptr ? p->ne[0] : 0;
    const int stride = h.image_size / first.side;
    while (int64_t(t.patch_kernel) * t.patch_kernel * 3 < row && t.patch_kernel < 64) ++t.patch_kernel;
    const int side = (h.image_size + 2 * (t.patch_kernel / 2) - t.patch_kernel) / stride + 1;
    if (p != nullptr && (int64_t(t.patch_kernel) * t.patch_kernel * 3 != row || side != first.side)) {
        fail(UB_E_FORMAT, "%s: '%s.weight' has rows of %lld, want 3*k*k for a kernel that makes a map of side %d", w.file().path().c_str(),
             patch.c_str(), (long long) row, first.side);
    }
    t.patch_embed = w.linear_f32(patch, row, first.width);
    t.pos_embed   = w.f32("trunk.pos_embed", {first.width, first.side, first.side});

    int64_t in = first.width;
    for (const hiera_block & b : hiera_blocks(h)) {
        const std::string name = "trunk.blocks." + std::to_string(t.blocks.size());
        const int64_t out = h.stages[size_t(b.stage)].width, hidden = out * h.mlp_ratio;
        hiera_block_weights k;
        k.norm1 = w.norm(name + ".norm1", in);
        k.qkv   = w.linear(name + ".attn.qkv", in, 3 * out);
        k.proj  = w.linear(name + ".attn.proj", out, out);
        k.norm2 = w.norm(name + ".norm2", out);
        k.mlp_0 = w.linear(name + ".mlp.0", out, hidden);
        k.mlp_1 = w.linear(name + ".mlp.1", hidden, out);
        if (in != out || b.pool) k.shortcut = w.linear(name + ".proj", in, out);
        t.blocks.push_back(k);
        in = out;
    }
    return t;
}

ggml_tensor * to_windows(const graph & g, ggml_tensor * x, int window) {
    const int64_t C = x->ne[0], W = x->ne[1], H = x->ne[2];
    x = ggml_reshape_4d(g.ctx, x, C * window, W / window, window, H / window);                    // {C*w, W/w, w, H/w}
    x = ggml_cont(g.ctx, ggml_permute(g.ctx, x, 0, 2, 1, 3));                                     // {C*w, w, W/w, H/w}
    return ggml_reshape_3d(g.ctx, x, C, window * window, (W / window) * (H / window));            // {C, w*w, windows}
}

ggml_tensor * from_windows(const graph & g, ggml_tensor * x, int window, int side) {
    const int64_t C = x->ne[0];
    if (window == side) return ggml_reshape_3d(g.ctx, x, C, side, side);
    x = ggml_reshape_4d(g.ctx, x, C * window, window, side / window, side / window);              // {C*w, w, W/w, H/w}
    x = ggml_cont(g.ctx, ggml_permute(g.ctx, x, 0, 2, 1, 3));                                     // {C*w, W/w, w, H/w}
    return ggml_reshape_3d(g.ctx, x, C, side, side);
}

ggml_tensor * patch_embed(const graph & g, const trunk_weights & w, const sam2_hparams & h, ggml_tensor * image) {
    const int k = w.patch_kernel, stride = h.image_size / h.stages[0].side;
    ggml_tensor * kernel = ggml_new_tensor_4d(g.ctx, GGML_TYPE_F32, k, k, 3, 1);  // im2col reads its shape only
    ggml_tensor * x = ggml_im2col(g.ctx, kernel, image, stride, stride, k / 2, k / 2, 1, 1, true, GGML_TYPE_F32);  // {k*k*3, W, H}
    return ggml_add(g.ctx, linear(g, w.patch_embed, x), w.pos_embed);                              // {C, W, H}
}

// The largest of each 2x2 tokens inside a window: x {C, T, n} -> {C, T/4, n}. Channels are the width of the first pooling,
// channels and columns that of the second, so no map is turned.
static ggml_tensor * max_pool(const graph & g, ggml_tensor * x, int window) {
    const int64_t C = x->ne[0], n = x->ne[2], half = window / 2;
    auto pairs = [&](ggml_tensor * t) { return ggml_pool_2d(g.ctx, t, GGML_OP_POOL_MAX, 1, 2, 1, 2, 0, 0); };
    x = pairs(ggml_reshape_3d(g.ctx, x, C, window, window * n));                                   // {C, w/2, w*n}
    x = pairs(ggml_reshape_3d(g.ctx, x, C * half, window, n));                                     // {C*w/2, w/2, n}
    return ggml_reshape_3d(g.ctx, x, C, half * half, n);
}

ggml_tensor * hiera_forward(graph & g, const hiera_block_weights & w, const hiera_block & b, ggml_tensor * x) {
    ggml_tensor * n = layer_norm(g, w.norm1, eps_trunk, x);
    ggml_tensor * shortcut = x;
    if (w.shortcut.weight != nullptr) {
        shortcut = linear(g, w.shortcut, n);
        if (b.pool) shortcut = max_pool(g, shortcut, b.window_in);                                 // {Cout, T', n}
    }

    ggml_tensor * qkv = linear(g, w.qkv, n);                                                       // {3*Cout, T, n}
    if (b.global) qkv = ggml_reshape_3d(g.ctx, qkv, qkv->ne[0], qkv->ne[1] * qkv->ne[2], 1);
    const int64_t C = qkv->ne[0] / 3, T = qkv->ne[1], N = qkv->ne[2];
    auto part = [&](int i) { return ggml_view_3d(g.ctx, qkv, C, T, N, qkv->nb[1], qkv->nb[2], size_t(i * C) * sizeof(float)); };
    ggml_tensor * q = part(0);
    if (b.pool) q = max_pool(g, ggml_cont(g.ctx, q), b.window_in);                                 // {Cout, T/4, n}
    ggml_tensor * residual = b.global ? ggml_reshape_3d(g.ctx, shortcut, C, T, 1) : shortcut;
    x = multi_head(g, w.proj, q, part(1), part(2), b.heads, residual, precision_of(g, w.proj.weight));  // {Cout, T', n}
    x = ggml_reshape_3d(g.ctx, x, C, shortcut->ne[1], shortcut->ne[2]);
    return gelu_mlp(g, w.mlp_0, w.mlp_1, layer_norm(g, w.norm2, eps_trunk, x), nullptr, x);
}

} // namespace ub
