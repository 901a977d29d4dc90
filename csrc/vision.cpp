// vision.cpp: see vision.h.

#include "vision.h"

#include <algorithm>
#include <cmath>

namespace ub {

vision_hparams vision_hparams::read(const gguf_file & f) {
    const char * file = f.path().c_str();
    if (const std::string arch = f.str("general.architecture"); arch != "unibiomed-vision") {
        fail(UB_E_FORMAT, "%s: general.architecture is '%.64s', want 'unibiomed-vision'", file, arch.c_str());
    }
    if (const uint32_t v = f.u32("unibiomed.format_version"); v != 1) fail(UB_E_UNSUPPORTED, "%s: unibiomed.format_version is %u, want 1", file, v);

    vision_hparams h{};
    h.image_size      = f.size_of("vision.image_size", 1, 2048);
    h.patch_size      = f.size_of("vision.patch_size", 1, 256);
    h.width           = f.size_of("vision.embedding_length", 1, 1 << 16);
    h.ffn             = f.size_of("vision.feed_forward_length", 1, 1 << 18);
    h.blocks          = f.size_of("vision.block_count", 1, 512);
    h.heads           = f.size_of("vision.attention.head_count", 1, 1024);
    h.eps             = f.f32("vision.attention.layer_norm_epsilon");
    h.shuffle         = f.size_of("vision.pixel_shuffle_factor", 1, 16);
    h.shuffle_version = f.size_of("vision.pixel_shuffle_version", 1, 2);
    h.projection      = f.size_of("vision.projection_length", 1, 1 << 16);
    h.projector_eps   = f.f32("vision.projector.layer_norm_epsilon");
    h.tiles_min       = f.size_of("vision.tiles.min", 1, 1024);
    h.tiles_max       = f.size_of("vision.tiles.max", 1, 1024);
    h.thumbnail       = f.boolean("vision.tiles.thumbnail");
    const auto mean = f.f32s("vision.image_mean", 3, 3), std = f.f32s("vision.image_std", 3, 3);
    std::copy(mean.begin(), mean.end(), h.mean);
    std::copy(std.begin(), std.end(), h.std);

    auto divides = [&](const char * a, int na, const char * b, int nb) {
        if (nb % na != 0) fail(UB_E_FORMAT, "%s: %s %d does not divide %s %d", file, a, na, b, nb);
    };
    divides("vision.patch_size", h.patch_size, "vision.image_size", h.image_size);
    divides("vision.attention.head_count", h.heads, "vision.embedding_length", h.width);
    divides("vision.pixel_shuffle_factor", h.shuffle, "the number of patches of a side", h.side());
    if (h.tiles_min > h.tiles_max) fail(UB_E_FORMAT, "%s: vision.tiles.min %d is more than vision.tiles.max %d", file, h.tiles_min, h.tiles_max);
    if (!(h.eps > 0 && h.eps < 1)) fail(UB_E_FORMAT, "%s: vision.attention.layer_norm_epsilon is %g, want more than 0, less than 1", file, double(h.eps));
    if (!(h.projector_eps > 0 && h.projector_eps < 1)) {
        fail(UB_E_FORMAT, "%s: vision.projector.layer_norm_epsilon is %g, want more than 0, less than 1", file, double(h.projector_eps));
    }
    for (float s : h.std) {
        if (!(s > 0)) fail(UB_E_FORMAT, "%s: vision.image_std has %g, want more than 0", file, double(s));
    }
    return h;
}

vision_weights::vision_weights(weights & w, const vision_hparams & h) {
    const int64_t c = h.width, merged = c * h.shuffle * h.shuffle;
    patch_embed = w.linear_f32("patch_embed", int64_t(3) * h.patch_size * h.patch_size, c);
    class_embed = w.f32("class_embed", {c});
    pos_embed   = w.f32("pos_embed", {c, h.tokens()});
    blocks.resize(size_t(h.blocks));
    for (size_t i = 0; i < blocks.size(); ++i) {
        block & b = blocks[i];
        const std::string name = "blocks." + std::to_string(i) + ".";
        b.norm1 = w.norm(name + "norm1", c);
        b.norm2 = w.norm(name + "norm2", c);
        b.qkv   = w.linear(name + "attn.qkv", c, 3 * c, w.has(name + "attn.qkv.bias"));
        b.proj  = w.linear(name + "attn.proj", c, c);
        b.fc1   = w.linear(name + "mlp.fc1", c, h.ffn);
        b.fc2   = w.linear(name + "mlp.fc2", h.ffn, c);
        b.ls1   = w.f32(name + "ls1", {c});
        b.ls2   = w.f32(name + "ls2", {c});
    }
    projector_norm = w.norm("projector.norm", merged);
    projector_fc1  = w.linear("projector.fc1", merged, h.projection);
    projector_fc2  = w.linear("projector.fc2", h.projection, h.projection);
    w.finish();
}

namespace {

size_t nodes(const vision_hparams & h, const device & dev, int batch) {
    return 256 + size_t(h.blocks) * (40 + attention_nodes(dev, h.tokens(), h.tokens(), h.heads, batch));
}

} // namespace

vision::vision(std::shared_ptr<const gguf_file> f, std::shared_ptr<const device> dev, int batch)
    : hparams(vision_hparams::read(*f)), w(f), t(w, hparams), tile_batch(batch > 0 ? batch : default_batch(*dev)),
      tower(dev, nodes(hparams, *dev, tile_batch)) {
    w.may_pack("blocks.");
    w.may_pack("projector.");
}

vision::vision(std::shared_ptr<const gguf_file> f, std::shared_ptr<const device> dev, int batch, reporter & r) : vision(std::move(f), dev, batch) {
    w.load(*dev, r);
}

void vision::check(std::shared_ptr<const gguf_file> f) {
    weights w(f);
    vision_weights(w, vision_hparams::read(*f));
}

uint64_t vision::measure(std::shared_ptr<const gguf_file> f, std::shared_ptr<const device> dev, int tile_batch) {
    vision v(std::move(f), dev, tile_batch);
    v.w.pretend(*dev);
    return v.tower.measure([&](graph & g) { v.build(g, v.tile_batch, nullptr, nullptr, nullptr); });
}

void vision::build(graph & g, int n, const float * tiles, float * vit, float * embeddings) const {
    const int64_t c = hparams.width, tokens = hparams.tokens(), f = hparams.shuffle, side = hparams.side();

    // 1. patches to tokens, the class token in front, positions
    const int p = hparams.patch_size;
    ggml_tensor * x = g.input(GGML_TYPE_F32, {hparams.image_size, hparams.image_size, 3, n}, tiles);
    ggml_tensor * kernel = ggml_new_tensor_4d(g.ctx, GGML_TYPE_F32, p, p, 3, 1);                     // im2col reads its shape only
    x = ggml_im2col(g.ctx, kernel, x, p, p, 0, 0, 1, 1, true, GGML_TYPE_F32);                       // {p*p*3, W, W, n}
    x = linear(g, t.patch_embed, ggml_reshape_3d(g.ctx, x, x->ne[0], tokens - 1, n));               // {C, N, n}
    ggml_tensor * cls = ggml_repeat_4d(g.ctx, t.class_embed, c, 1, n, 1);                           // {C, 1, n}
    x = g.block(ggml_add(g.ctx, ggml_concat(g.ctx, cls, x, 1), t.pos_embed));                       // {C, 1+N, n}

    // 2. blocks
    const float scale = 1.0f / std::sqrt(float(c / hparams.heads));
    for (const auto & b : t.blocks) {
        ggml_tensor * qkv = linear(g, b.qkv, layer_norm(g, b.norm1, hparams.eps, x));               // {3C, 1+N, n}
        auto part = [&](int i) {                                                                    // {C/heads, 1+N, heads, n}
            ggml_tensor * v = ggml_view_3d(g.ctx, qkv, c, tokens, n, qkv->nb[1], qkv->nb[2], size_t(i) * size_t(c) * qkv->nb[0]);
            return split_heads(g, v, hparams.heads);
        };
        ggml_tensor * a = attention(g, part(0), part(1), part(2), scale, precision_of(g, b.proj.weight));  // {C, 1+N, n}
        x = linear(g, b.proj, a, {nullptr, /*gelu=*/false, b.ls1, x});
        x = g.block(gelu_mlp(g, b.fc1, b.fc2, layer_norm(g, b.norm2, hparams.eps, x), b.ls2, x));
    }
    if (vit != nullptr) g.output(x, vit);

    // 3. drop the class token; f x f patches become one token: their channels row by row
    x = ggml_cont(g.ctx, ggml_view_3d(g.ctx, x, c, tokens - 1, n, x->nb[1], x->nb[2], x->nb[1]));   // {C, W*W, n}
    x = ggml_reshape_4d(g.ctx, x, c * f, side / f, f, side / f * n);                                // {fC, W/f, f, W/f*n}
    x = ggml_cont(g.ctx, ggml_permute(g.ctx, x, 0, 2, 1, 3));                                       // {fC, f, W/f, W/f*n}
    if (hparams.shuffle_version == 1) {
        x = ggml_reshape_4d(g.ctx, x, c * f * f, side / f, side / f, n);                            // {ffC, X, Y, n}
        x = ggml_cont(g.ctx, ggml_permute(g.ctx, x, 0, 2, 1, 3));                                   // {ffC, Y, X, n}
    }
    x = ggml_reshape_3d(g.ctx, x, c * f * f, side / f * side / f, n);                               // {ffC, tokens of a tile, n}

    // 4. mlp1
    x = layer_norm(g, t.projector_norm, hparams.projector_eps, x);
    x = g.block(gelu_mlp(g, t.projector_fc1, t.projector_fc2, x));                                  // {H, tokens of a tile, n}
    g.output(x, embeddings);
}

void vision::encode(const float * tiles, int n, float * embeddings, reporter & r, counters & c) {
    const size_t tile = size_t(3) * hparams.image_size * hparams.image_size;
    const size_t vit_size = size_t(hparams.tokens()) * hparams.width, embedding_size = size_t(hparams.tile_tokens()) * hparams.projection;
    std::vector<float> vit(r.traced() ? size_t(n) * vit_size : 0);

    turn my_turn(queue);
    // on a CPU working memory takes a moment to get back, and hundreds of megabytes to keep
    struct give_back { stage & s; ~give_back() { if (s.dev->is_cpu()) s.release(); } } at_end{tower};
    for (int from = 0; from < n; from += tile_batch) {
        const int count = std::min(tile_batch, n - from);
        r.range(float(from) / float(n), float(from + count) / float(n));
        tower.run([&](graph & g) {
            build(g, count, tiles + size_t(from) * tile, r.traced() ? vit.data() + size_t(from) * vit_size : nullptr, embeddings + size_t(from) * embedding_size);
        }, r, c);
        c.items += uint64_t(count);
    }
    ++c.calls;

    if (r.traced()) {
        const int64_t vit_shape[] = {n, hparams.tokens(), hparams.width}, out_shape[] = {n, hparams.tile_tokens(), hparams.projection};
        r.trace("vit_output", vit.data(), vit_shape, 3);
        r.trace("mlp1_output", embeddings, out_shape, 3);
    }
}

} // namespace ub
