// sam2_fixture.h: grounding files written on the spot, with random weights or with those of the golden checkpoint.

#pragma once

#include "fixtures.h"

namespace fixture {

// Sizes of SAM 2 that the tests vary. The defaults make a model that runs in milliseconds.
struct sam2_sizes {
    int input = 24, image = 64, embd = 8, heads = 1, width = 32, memory = 8, n_masks = 4, iou_hidden = 16;
    std::vector<uint32_t> stages{1, 2, 2, 1}, windows{4, 2, 4, 2}, global_blocks{4}, top_down{2, 3};
    int decoder_heads = 4, decoder_ffn = 48, memory_ffn = 40, slice_count = 3, pointer_count = 4;
};

inline void u32s(gguf_builder & b, const char * key, const std::vector<uint32_t> & v) {
    gguf_set_arr_data(b.g.get(), key, GGUF_TYPE_UINT32, v.data(), v.size());
}

inline void add_sam2_keys(gguf_builder & b, const sam2_sizes & s) {
    b.str("general.architecture", "unibiomed-grounding");
    b.u32("unibiomed.format_version", 1);
    b.u32("grounding.input_length", uint32_t(s.input));
    b.u32("sam2.image_size", uint32_t(s.image));
    b.u32("sam2.backbone_stride", 16);
    b.f32s("sam2.image_mean", {0.485f, 0.456f, 0.406f});
    b.f32s("sam2.image_std", {0.229f, 0.224f, 0.225f});
    b.u32("sam2.trunk.embedding_length", uint32_t(s.embd));
    b.u32("sam2.trunk.head_count", uint32_t(s.heads));
    u32s(b, "sam2.trunk.stages", s.stages);
    u32s(b, "sam2.trunk.window_spec", s.windows);
    u32s(b, "sam2.trunk.global_blocks", s.global_blocks);
    b.u32("sam2.trunk.q_pool", 3);
    b.u32("sam2.trunk.q_stride", 2);
    b.u32("sam2.trunk.dim_mul", 2);
    b.u32("sam2.trunk.head_mul", 2);
    b.u32("sam2.trunk.mlp_ratio", 4);
    u32s(b, "sam2.neck.top_down_levels", s.top_down);
    b.u32("sam2.embedding_length", uint32_t(s.width));
    b.u32("sam2.decoder.block_count", 2);
    b.u32("sam2.decoder.head_count", uint32_t(s.decoder_heads));
    b.u32("sam2.decoder.feed_forward_length", uint32_t(s.decoder_ffn));
    b.u32("sam2.decoder.attention_downsample", 2);
    b.u32("sam2.decoder.mask_count", uint32_t(s.n_masks));
    b.u32("sam2.memory.embedding_length", uint32_t(s.memory));
    b.u32("sam2.memory.attention_block_count", 2);
    b.u32("sam2.memory.attention_head_count", 1);
    b.u32("sam2.memory.feed_forward_length", uint32_t(s.memory_ffn));
    b.f32("sam2.memory.rope_theta", 10000);
    b.u32("sam2.memory.fuser_block_count", 2);
    b.u32("sam2.memory.slice_count", uint32_t(s.slice_count));
    b.u32("sam2.memory.object_pointer_count", uint32_t(s.pointer_count));
    b.f32("sam2.memory.mask_scale", 20);
    b.f32("sam2.memory.mask_bias", -10);
    b.u32("sam2.prompted_slices", 5);
}

// All tensors of a grounding file, random.
inline void add_sam2_tensors(gguf_builder & b, const sam2_sizes & s) {
    const int64_t D = s.width, M = s.memory, side = s.image / 16, H = s.input;
    b.linear("text_hidden_fcs.0", H, H);
    b.linear("text_hidden_fcs.2", D, H);
    b.linear("trunk.patch_embed", s.embd, 3 * 7 * 7);
    b.random("trunk.pos_embed", {4 * side, 4 * side, s.embd}, 1);
    int64_t in = s.embd;
    int block = 0;
    for (size_t stage = 0; stage < s.stages.size(); ++stage) {
        const int64_t out = int64_t(s.embd) << stage;
        for (uint32_t i = 0; i < s.stages[stage]; ++i, ++block) {
            const std::string p = "trunk.blocks." + std::to_string(block) + ".";
            b.norm(p + "norm1", in);
            b.linear(p + "attn.qkv", 3 * out, in);
            b.linear(p + "attn.proj", out, out);
            b.norm(p + "norm2", out);
            b.linear(p + "mlp.0", 4 * out, out);
            b.linear(p + "mlp.1", out, 4 * out);
            if (in != out) b.linear(p + "proj", out, in);
            in = out;
        }
        b.linear("neck." + std::to_string(3 - stage), D, out);
    }
    for (const char * name : {"prompt.not_a_point", "prompt.no_mask", "decoder.iou_token", "decoder.obj_score_token", "no_mem_embed", "no_obj_ptr"}) b.random(name, {D}, 1);
    b.random("decoder.mask_tokens", {s.n_masks, D}, 1);
    b.random("decoder.dense_pe", {side, side, D}, 1);
    const auto attention = [&](const std::string & p, int64_t inner) {
        for (const char * x : {"q_proj", "k_proj", "v_proj"}) b.linear(p + "." + x, inner, D);
        b.linear(p + ".out_proj", D, inner);
    };
    for (int i = 0; i < 2; ++i) {
        const std::string p = "decoder.layers." + std::to_string(i) + ".";
        attention(p + "self_attn", D);
        attention(p + "cross_attn_token_to_image", D / 2);
        attention(p + "cross_attn_image_to_token", D / 2);
        for (int n = 1; n <= 4; ++n) b.norm(p + "norm" + std::to_string(n), D);
        b.linear(p + "mlp.0", s.decoder_ffn, D);
        b.linear(p + "mlp.1", D, s.decoder_ffn);
    }
    attention("decoder.final_attn_token_to_image", D / 2);
    b.norm("decoder.norm_final_attn", D);
    b.random("decoder.upscale.0.weight", {D, D}, 0.3f);
    b.random("decoder.upscale.0.bias", {D / 4}, 0.1f);
    b.norm("decoder.upscale.1", D / 4);
    b.random("decoder.upscale.3.weight", {D / 2, D / 4}, 0.3f);
    b.random("decoder.upscale.3.bias", {D / 8}, 0.1f);
    b.linear("decoder.conv_s0", D / 8, D);
    b.linear("decoder.conv_s1", D / 4, D);
    const auto mlp = [&](const std::string & p, std::vector<int64_t> w) {
        for (size_t i = 0; i + 1 < w.size(); ++i) b.linear(p + "." + std::to_string(i), w[i + 1], w[i]);
    };
    for (int i = 0; i < s.n_masks; ++i) mlp("decoder.hyper." + std::to_string(i), {D, D, D, D / 8});
    mlp("decoder.iou_head", {D, s.iou_hidden, s.iou_hidden, s.n_masks});
    mlp("decoder.obj_score_head", {D, D, D, 1});
    mlp("obj_ptr_proj", {D, D, D, D});
    b.random("maskmem_tpos_enc", {s.slice_count, M}, 1);
    for (int i = 0; i < 2; ++i) {
        const std::string p = "memory_attention.layers." + std::to_string(i) + ".";
        for (const char * x : {"q", "k", "v", "out"}) {
            b.linear(p + "self_attn." + x + "_proj", D, D);
            b.linear(p + "cross_attn_image." + x + "_proj", D, x[0] == 'k' || x[0] == 'v' ? M : D);
        }
        b.linear(p + "linear1", s.memory_ffn, D);
        b.linear(p + "linear2", D, s.memory_ffn);
        for (int n = 1; n <= 3; ++n) b.norm(p + "norm" + std::to_string(n), D);
    }
    b.norm("memory_attention.norm", D);
    int64_t channels = 1;
    int index = 0;
    for (; channels < 256; channels *= 4, index += 3) {
        const std::string p = "memory_encoder.mask_downsampler.";
        b.random(p + std::to_string(index) + ".weight", {4 * channels, channels, 3, 3}, std::sqrt(1.0f / (3 * float(channels))));
        b.random(p + std::to_string(index) + ".bias", {4 * channels}, 0.1f);
        b.norm(p + std::to_string(index + 1), 4 * channels);
    }
    b.linear("memory_encoder.mask_downsampler." + std::to_string(index), D, channels);
    b.linear("memory_encoder.pix_feat_proj", D, D);
    b.linear("memory_encoder.out_proj", M, D);
    for (int i = 0; i < 2; ++i) {
        const std::string p = "memory_encoder.fuser." + std::to_string(i) + ".";
        b.random(p + "dwconv.weight", {D, 1, 7, 7}, 0.2f);
        b.random(p + "dwconv.bias", {D}, 0.1f);
        b.norm(p + "norm", D);
        b.linear(p + "pwconv1", 4 * D, D);
        b.linear(p + "pwconv2", D, 4 * D);
        b.random(p + "g_weight", {D}, 0.1f, 0.5f);
    }
}

inline void add_sam2(gguf_builder & b, const sam2_sizes & s = {}) {
    add_sam2_keys(b, s);
    add_sam2_tensors(b, s);
}

inline ub_model_files grounding_files(const std::string & path) {
    ub_model_files f = files(nullptr, nullptr);
    f.grounding = path.c_str();
    return f;
}

// ------------------------------------------------------------------------------------------------------------ the C ABI

struct features_deleter { void operator()(ub_features * f) { ub_features_free(f); } };
using features_ptr = std::unique_ptr<ub_features, features_deleter>;
struct track_deleter { void operator()(ub_track * t) { ub_track_close(t); } };
using track_ptr = std::unique_ptr<ub_track, track_deleter>;

// Collects what a call traces.
struct tracer {
    std::map<std::string, array> all;
    ub_call call{};
    tracer() {
        call.size = sizeof call;
        call.user = this;
        call.trace = [](const char * name, const float * data, const int64_t * shape, int32_t n_dims, void * user) {
            array a{{shape, shape + n_dims}, {}};
            int64_t n = 1;
            for (int64_t s : a.shape) n *= s;
            a.data.assign(data, data + n);
            static_cast<tracer *>(user)->all[name] = a;
        };
    }
};

// Results of a decoder call with room for n prompts.
struct masks {
    std::vector<float>   logits, iou, object_score, embedding;
    std::vector<int32_t> selected;
    ub_masks out;
    masks(const ub_model_info & i, int n)
        : logits(size_t(n) * i.mask_size * i.mask_size), iou(size_t(n) * i.n_masks), object_score(size_t(n)), embedding(size_t(n) * i.mask_embd), selected(size_t(n)) {
        ub_masks_init(&out);
        out.logits       = logits.data();
        out.iou          = iou.data();
        out.object_score = object_score.data();
        out.selected     = selected.data();
        out.embedding    = embedding.data();
    }
};

// Every stride-th element of each axis, as the golden files cut tensors.
inline array cut(const array & a, const std::vector<int64_t> & strides) {
    array out;
    std::vector<int64_t> at(a.shape.size(), 0);
    for (size_t i = 0; i < a.shape.size(); ++i) out.shape.push_back((a.shape[i] + strides[i] - 1) / strides[i]);
    for (;;) {
        int64_t offset = 0;
        for (size_t i = 0; i < at.size(); ++i) offset = offset * a.shape[i] + at[i];
        out.data.push_back(a.data[size_t(offset)]);
        size_t i = at.size();
        while (i > 0 && (at[i - 1] += strides[i - 1]) >= a.shape[i - 1]) at[--i] = 0;
        if (i == 0) return out;
    }
}

} // namespace fixture
