// memory.cpp: what SAM 2 keeps of a slice, and how a later slice looks at it.
//
// Reference: sam2/modeling/memory_encoder.py, memory_attention.py, sam/transformer.py (RoPEAttention), position_encoding.py.

#include "sam2/parts.h"

#include <algorithm>
#include <cmath>

namespace ub {

memory_weights load_memory(weights & w, const sam2_hparams & h) {
    const int64_t D = h.width, M = h.memory_width;
    memory_weights m;

    // The mask shrinks from the image's side to that of F2, channels growing by four a step.
    const std::string down = "memory_encoder.mask_downsampler.";
    int64_t in = 1;
    int index = 0;
    for (int side = h.stride; side > 1; side /= 2, index += 3) {
        memory_encoder_weights::down d;
        const std::string conv = down + std::to_string(index);
        d.weight = w.f32(conv + ".weight", {3, 3, in, 4 * in});
        d.bias   = w.f32(conv + ".bias", {4 * in});
        d.norm   = w.norm(down + std::to_string(index + 1), 4 * in);
        m.encoder.downs.push_back(d);
        in *= 4;
    }
    m.encoder.down_out      = w.linear_f32(down + std::to_string(index), in, D);
    m.encoder.pix_feat_proj = w.linear_f32("memory_encoder.pix_feat_proj", D, D);
    for (int i = 0; i < h.fuser_blocks; ++i) {
        const std::string name = "memory_encoder.fuser." + std::to_string(i);
        memory_encoder_weights::fuse f;
        f.dw_weight = w.f32(name + ".dwconv.weight", {7, 7, 1, D});
        f.dw_bias   = w.f32(name + ".dwconv.bias", {D});
        f.norm      = w.norm(name + ".norm", D);
        f.pw_0      = w.linear_f32(name + ".pwconv1", D, 4 * D);
        f.pw_1      = w.linear_f32(name + ".pwconv2", 4 * D, D);
        f.scale     = w.f32(name + ".g_weight", {D});
        m.encoder.fusers.push_back(f);
    }
    m.encoder.out_proj = w.linear_f32("memory_encoder.out_proj", D, M);

    for (int i = 0; i < h.memory_blocks; ++i) {
        const std::string name = "memory_attention.layers." + std::to_string(i), self = name + ".self_attn", cross = name + ".cross_attn_image";
        memory_attention_weights::layer l;
        l.self_q    = w.linear(self + ".q_proj", D, D);
        l.self_k    = w.linear(self + ".k_proj", D, D);
        l.self_v    = w.linear(self + ".v_proj", D, D);
        l.self_out  = w.linear(self + ".out_proj", D, D);
        l.cross_q   = w.linear(cross + ".q_proj", D, D);
        l.cross_k   = w.linear(cross + ".k_proj", M, D);
        l.cross_v   = w.linear(cross + ".v_proj", M, D);
        l.cross_out = w.linear(cross + ".out_proj", D, D);
        l.linear1   = w.linear(name + ".linear1", D, h.memory_ffn);
        l.linear2   = w.linear(name + ".linear2", h.memory_ffn, D);
        l.norm1 = w.norm(name + ".norm1", D);
        l.norm2 = w.norm(name + ".norm2", D);
        l.norm3 = w.norm(name + ".norm3", D);
        m.attention.layers.push_back(l);
    }
    m.attention.norm = w.norm("memory_attention.norm", D);

    m.pointer    = load_mlp(w, "obj_ptr_proj", {D, D, D, D});
    m.no_pointer = w.f32("no_obj_ptr", {D});
    m.time       = w.f32("maskmem_tpos_enc", {M, h.slice_count});
    return m;
}

std::vector<float> sine_positions(int side, int channels) {
    const int half = channels / 2;
    std::vector<float> rate(size_t(half), 0.0f), out(size_t(side) * side * channels);
    for (int c = 0; c < half; ++c) rate[size_t(c)] = std::pow(10000.0f, float(2 * (c / 2)) / float(half));
    const float turn = float(2 * M_PI), last = float(side) + 1e-6f;
    for (int y = 0; y < side; ++y) {
        for (int x = 0; x < side; ++x) {
            float * at = &out[(size_t(y) * side + x) * channels];
            for (int axis = 0; axis < 2; ++axis) {
                const float p = float((axis == 0 ? y : x) + 1) / last * turn;
                for (int c = 0; c < half; ++c) {
                    const float a = p / rate[size_t(c)];
                    at[axis * half + c] = c % 2 == 0 ? std::sin(a) : std::cos(a);
                }
            }
        }
    }
    return out;
}

std::vector<int32_t> turn_positions(int side, int heads, int maps, int pointers) {
    std::vector<int32_t> out;
    out.reserve((size_t(maps) * side * side + size_t(pointers)) * size_t(heads) * 2);
    for (int m = 0; m < maps; ++m) {
        for (int i = 0; i < side * side; ++i) {
            for (int k = 0; k < heads; ++k) {
                out.push_back(i % side);
                out.push_back(i / side);
            }
        }
    }
    out.resize(out.size() + size_t(pointers) * heads * 2, 0);
    return out;
}

std::vector<float> turn_periods(const sam2_hparams & h) {
    const int head = h.width / h.memory_heads;
    std::vector<float> out(size_t(head / 4), 0.0f);
    for (size_t i = 0; i < out.size(); ++i) out[i] = std::pow(h.rope_theta, float(4 * i) / float(head));
    return out;
}

ggml_tensor * memory_encode(const graph & g, const memory_encoder_weights & w, const sam2_hparams & h, ggml_tensor * p2, ggml_tensor * logits) {
    // Mask probabilities at the image's side, stretched, not thresholded.
    ggml_tensor * m = ggml_interpolate(g.ctx, ggml_reshape_3d(g.ctx, logits, logits->ne[0], logits->ne[1], 1), h.image_size, h.image_size, 1, 1,
                                       GGML_SCALE_MODE_BILINEAR);                                  // {S, S, 1}
    m = ggml_scale_bias(g.ctx, ggml_sigmoid(g.ctx, m), h.mask_scale, h.mask_bias);
    for (const auto & d : w.downs) {
        ggml_tensor * columns = ggml_im2col(g.ctx, d.weight, m, 2, 2, 1, 1, 1, 1, true, GGML_TYPE_F32);  // {9*in, W/2, H/2}
        m = ggml_mul_mat(g.ctx, ggml_reshape_2d(g.ctx, d.weight, columns->ne[0], d.bias->ne[0]), columns);
        m = gelu(g, layer_norm(g, d.norm, eps_norm2d, ggml_add(g.ctx, m, d.bias)));                // {out, W/2, H/2}
        if (&d != &w.downs.back()) m = ggml_cont(g.ctx, ggml_permute(g.ctx, m, 2, 0, 1, 3));       // {W/2, H/2, out}
    }
    m = linear(g, w.down_out, m);                                                                  // {D, W, H}

    ggml_tensor * x = ggml_add(g.ctx, linear(g, w.pix_feat_proj, p2), m);
    for (const auto & f : w.fusers) {
        ggml_tensor * y = ggml_cont(g.ctx, ggml_permute(g.ctx, x, 2, 0, 1, 3));                    // {W, H, D}
        y = ggml_conv_2d_dw_direct(g.ctx, f.dw_weight, y, 1, 1, 3, 3, 1, 1);
        y = ggml_cont(g.ctx, ggml_permute(g.ctx, y, 1, 2, 0, 3));                                  // {D, W, H}
        y = layer_norm(g, f.norm, eps_norm2d, ggml_add(g.ctx, y, f.dw_bias));
        x = ggml_add(g.ctx, x, ggml_mul(g.ctx, gelu_mlp(g, f.pw_0, f.pw_1, y), f.scale));
    }
    return linear(g, w.out_proj, x);                                                               // {M, W, H}
}

// Turns the pairs (2i, 2i+1) of each head: those of the first half by the token's column, those of the second by its row.
// Angles are position / period: the operator's own powers of a base, multiplied up pair by pair, are too coarse for
// attention as sharp as this. x {D, N}, turns {2*heads*N}
static ggml_tensor * turn(const graph & g, ggml_tensor * x, ggml_tensor * turns, ggml_tensor * periods) {
    const int64_t D = x->ne[0], N = x->ne[1], half = 2 * periods->ne[0];
    x = ggml_reshape_3d(g.ctx, x, half, 1, D / half * N);
    x = ggml_rope_ext(g.ctx, x, turns, periods, int(half), /*mode: adjacent pairs*/ 0, 0, /*base*/ 1.0f, 1.0f, 0.0f, 1.0f, 0.0f, 0.0f);
    return ggml_reshape_2d(g.ctx, x, D, N);
}

ggml_tensor * memory_attention(graph & g, const memory_attention_weights & w, const sam2_hparams & h, const memory_inputs & in) {
    ggml_tensor * x = in.x;                                                                        // {D, N}
    for (const auto & l : w.layers) {
        const precision products = std::max(in.products, precision_of(g, l.cross_out.weight));
        ggml_tensor * n = layer_norm(g, l.norm1, eps_attention, x);
        ggml_tensor * q = turn(g, linear(g, l.self_q, n), in.x_turns, in.periods);
        ggml_tensor * k = turn(g, linear(g, l.self_k, n), in.x_turns, in.periods);
        x = g.block(multi_head(g, l.self_out, q, k, linear(g, l.self_v, n), h.memory_heads, x, products));

        n = layer_norm(g, l.norm2, eps_attention, x);
        q = turn(g, linear(g, l.cross_q, n), in.x_turns, in.periods);
        k = turn(g, linear(g, l.cross_k, in.keys), in.k_turns, in.periods);                            // {D, K}
        x = multi_head(g, l.cross_out, q, k, linear(g, l.cross_v, in.memory), h.memory_heads, x, products);

        n = layer_norm(g, l.norm3, eps_attention, x);
        x = g.block(linear(g, l.linear2, relu(g, linear(g, l.linear1, n)), {nullptr, false, nullptr, x}));
    }
    return layer_norm(g, w.norm, eps_attention, x);
}

} // namespace ub
