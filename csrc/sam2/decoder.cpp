// decoder.cpp: the mask decoder: a two-way transformer between a few tokens and the image, upscaling, and heads.
//
// Reference: sam2/modeling/sam/mask_decoder.py and transformer.py (TwoWayTransformer). n prompts are n batches; what depends
// on the image alone stays one batch until the first layer has written to the image side.

#include "sam2/parts.h"

#include <cmath>

namespace ub {

namespace {

decoder_attention_weights load_attention(weights & w, const std::string & name, int64_t D, int64_t inner) {
    return {w.linear_f32(name + ".q_proj", D, inner), w.linear_f32(name + ".k_proj", D, inner),
            w.linear_f32(name + ".v_proj", D, inner), w.linear_f32(name + ".out_proj", inner, D)};
}

// The hidden width of a head whose width no key gives: that of its first layer.
int64_t hidden_width(const weights & w, const std::string & name) {
    const auto * t = w.file().find(name + ".0.weight");
    return t != nullptr ? t->ne[1] : 1;
}

} // namespace

mlp_weights load_mlp(weights & w, const std::string & name, const std::vector<int64_t> & widths) {
    mlp_weights layers;
    for (size_t i = 0; i + 1 < widths.size(); ++i) layers.push_back(w.linear_f32(name + "." + std::to_string(i), widths[i], widths[i + 1]));
    return layers;
}

decoder_weights load_decoder(weights & w, const sam2_hparams & h) {
    const int64_t D = h.width, inner = D / h.decoder_downsample, side = h.feature_side();
    decoder_weights d;
    d.dense_pe        = w.f32("decoder.dense_pe", {D, side, side});
    d.iou_token       = w.f32("decoder.iou_token", {D});
    d.obj_score_token = w.f32("decoder.obj_score_token", {D});
    d.mask_tokens     = w.f32("decoder.mask_tokens", {D, h.n_masks});
    for (int i = 0; i < h.decoder_blocks; ++i) {
        const std::string name = "decoder.layers." + std::to_string(i);
        decoder_layer_weights l;
        l.self_attn      = load_attention(w, name + ".self_attn", D, D);
        l.token_to_image = load_attention(w, name + ".cross_attn_token_to_image", D, inner);
        l.image_to_token = load_attention(w, name + ".cross_attn_image_to_token", D, inner);
        l.norm1 = w.norm(name + ".norm1", D);
        l.norm2 = w.norm(name + ".norm2", D);
        l.norm3 = w.norm(name + ".norm3", D);
        l.norm4 = w.norm(name + ".norm4", D);
        l.mlp_0 = w.linear_f32(name + ".mlp.0", D, h.decoder_ffn);
        l.mlp_1 = w.linear_f32(name + ".mlp.1", h.decoder_ffn, D);
        d.layers.push_back(l);
    }
    d.final_attn = load_attention(w, "decoder.final_attn_token_to_image", D, inner);
    d.norm_final = w.norm("decoder.norm_final_attn", D);
    d.upscale_0  = {w.f32("decoder.upscale.0.weight", {D, 4 * (D / 4)}), w.f32("decoder.upscale.0.bias", {D / 4})};
    d.upscale_1  = w.norm("decoder.upscale.1", D / 4);
    d.upscale_3  = {w.f32("decoder.upscale.3.weight", {D / 4, 4 * (D / 8)}), w.f32("decoder.upscale.3.bias", {D / 8})};
    for (int i = 0; i < h.n_masks; ++i) d.hyper.push_back(load_mlp(w, "decoder.hyper." + std::to_string(i), {D, D, D, D / 8}));
    const int64_t hidden = hidden_width(w, "decoder.iou_head");
    d.iou_head       = load_mlp(w, "decoder.iou_head", {D, hidden, hidden, h.n_masks});
    d.obj_score_head = load_mlp(w, "decoder.obj_score_head", {D, D, D, 1});
    return d;
}

namespace {

// q {D, Nq, B}, k and v {D, Nk, B or 1} -> {D, Nq, B}. Where keys are shared, the queries of all items are queries of one.
ggml_tensor * cross(graph & g, const decoder_attention_weights & w, int heads, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v) {
    const int64_t D = q->ne[0], Nq = q->ne[1], B = q->ne[2];
    if (k->ne[2] < B) q = ggml_reshape_3d(g.ctx, q, D, Nq * B, 1);
    q = multi_head(g, w.out, linear(g, w.q, q), linear(g, w.k, k), linear(g, w.v, v), heads);
    return ggml_reshape_3d(g.ctx, q, D, Nq, B);
}

// The image as queries, x {D, N, B or 1} with positions, and tokens k and v {D, Nk, B} -> {D, N, B}
ggml_tensor * cross_image(graph & g, const decoder_attention_weights & w, int heads, ggml_tensor * x, ggml_tensor * k, ggml_tensor * v) {
    x = linear(g, w.q, x);
    if (x->ne[2] < k->ne[2]) x = ggml_repeat_4d(g.ctx, x, x->ne[0], x->ne[1], k->ne[2], 1);
    return multi_head(g, w.out, x, linear(g, w.k, k), linear(g, w.v, v), heads);
}

} // namespace

decoder_tokens decoder_transformer(graph & g, const decoder_weights & w, const sam2_hparams & h, ggml_tensor * src, ggml_tensor * sparse) {
    const int64_t D = h.width, n = sparse->ne[2];
    const int heads = h.decoder_heads;

    // obj_score_token, iou_token, mask tokens, then the prompt's
    ggml_tensor * own = ggml_concat(g.ctx, ggml_reshape_2d(g.ctx, w.obj_score_token, D, 1), ggml_reshape_2d(g.ctx, w.iou_token, D, 1), 1);
    own = ggml_concat(g.ctx, own, w.mask_tokens, 1);                                               // {D, 2+n_masks}
    own = ggml_repeat_4d(g.ctx, own, D, own->ne[1], n, 1);
    ggml_tensor * q_pe = ggml_concat(g.ctx, own, sparse, 1);                                       // {D, tokens, n}
    ggml_tensor * k_pe = ggml_reshape_3d(g.ctx, w.dense_pe, D, src->ne[1], 1);                     // {D, W*H}

    ggml_tensor * q = q_pe, * k = src;
    for (size_t i = 0; i < w.layers.size(); ++i) {
        const decoder_layer_weights & l = w.layers[i];
        if (i == 0) {  // no positions and no residual
            q = cross(g, l.self_attn, heads, q, q, q);
        } else {
            ggml_tensor * p = ggml_add(g.ctx, q, q_pe);
            q = ggml_add(g.ctx, q, cross(g, l.self_attn, heads, p, p, q));
        }
        q = layer_norm(g, l.norm1, eps_attention, q);

        ggml_tensor * k_pos = ggml_add(g.ctx, k, k_pe);                                               // {D, W*H, 1 or n}
        q = ggml_add(g.ctx, q, cross(g, l.token_to_image, heads, ggml_add(g.ctx, q, q_pe), k_pos, k));
        q = layer_norm(g, l.norm2, eps_attention, q);

        q = ggml_add(g.ctx, q, linear(g, l.mlp_1, relu(g, linear(g, l.mlp_0, q))));
        q = layer_norm(g, l.norm3, eps_attention, q);

        k = ggml_add(g.ctx, cross_image(g, l.image_to_token, heads, k_pos, ggml_add(g.ctx, q, q_pe), q), k);  // {D, W*H, n}
        k = layer_norm(g, l.norm4, eps_attention, k);
    }
    q = ggml_add(g.ctx, q, cross(g, w.final_attn, heads, ggml_add(g.ctx, q, q_pe), ggml_add(g.ctx, k, k_pe), k));
    q = layer_norm(g, w.norm_final, eps_attention, q);

    auto token = [&](int i) { return ggml_cont(g.ctx, ggml_view_2d(g.ctx, q, D, n, q->nb[2], size_t(i) * q->nb[1])); };  // {D, n}
    decoder_tokens out;
    out.hs           = q;
    out.src          = k;
    out.object_score = relu_mlp(g, w.obj_score_head, token(0));
    out.iou          = ggml_sigmoid(g.ctx, relu_mlp(g, w.iou_head, token(1)));
    return out;
}

// A transposed convolution of 2x2, stride 2, without its bias: one product, then each token's four pixels to their places.
// x {Cin, W, H} -> {Cout, 2W, 2H}
static ggml_tensor * double_side(const graph & g, ggml_tensor * weight, ggml_tensor * x) {
    const int64_t W = x->ne[1], H = x->ne[2], C = weight->ne[1] / 4;
    x = ggml_mul_mat(g.ctx, weight, x);                                                            // {4*C: dy dx c, W, H}
    x = ggml_reshape_4d(g.ctx, x, 2 * C, 2, W, H);                                                 // {dx c, dy, W, H}
    x = ggml_cont(g.ctx, ggml_permute(g.ctx, x, 0, 2, 1, 3));                                      // {dx c, W, dy, H}
    return ggml_reshape_3d(g.ctx, x, C, 2 * W, 2 * H);
}

ggml_tensor * decoder_upscale(const graph & g, const decoder_weights & w, const sam2_hparams & h,
                              ggml_tensor * src, ggml_tensor * f0, ggml_tensor * f1) {
    const int64_t side = h.feature_side();
    ggml_tensor * u = ggml_reshape_3d(g.ctx, src, h.width, side, side);
    u = ggml_add(g.ctx, double_side(g, w.upscale_0.weight, u), w.upscale_0.bias);                  // {D/4, 2W, 2H}
    u = layer_norm(g, w.upscale_1, eps_norm2d, ggml_add(g.ctx, u, f1));
    u = gelu(g, u);
    u = ggml_add(g.ctx, double_side(g, w.upscale_3.weight, u), w.upscale_3.bias);                  // {D/8, 4W, 4H}
    u = gelu(g, ggml_add(g.ctx, u, f0));
    return ggml_reshape_2d(g.ctx, u, u->ne[0], u->ne[1] * u->ne[2]);
}

ggml_tensor * decoder_mask(const graph & g, const decoder_weights & w, ggml_tensor * upscaled, ggml_tensor * hs, int k) {
    ggml_tensor * token = ggml_view_2d(g.ctx, hs, hs->ne[0], 1, hs->nb[1], size_t(2 + k) * hs->nb[1]);
    return ggml_mul_mat(g.ctx, upscaled, relu_mlp(g, w.hyper[size_t(k)], token));                       // {4W*4H, 1}
}

} // namespace ub
