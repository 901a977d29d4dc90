// parts.h: the parts of SAM 2, between sam2.cpp and track.cpp, which run them, and the files that build their graphs.
//
// Each part has a struct of weights that mirrors the reference's module, load_* that expects its tensors, and functions that
// add it to a graph. Shapes are written in ggml order, fastest axis first: maps are {C, W, H}, tokens {C, N, B}.

#pragma once

#include "graph.h"
#include "sam2/sam2.h"
#include "weights.h"

#include <string>
#include <vector>

namespace ub {

// Epsilons are the reference's constants: LayerNorm2d and Hiera 1e-6, both transformers 1e-5.
constexpr float eps_trunk = 1e-6f, eps_norm2d = 1e-6f, eps_attention = 1e-5f;

// Layers of a multilayer perceptron, for relu_mlp.
using mlp_weights = std::vector<linear_weights>;
// widths has one entry more than there are layers.
mlp_weights load_mlp(weights & w, const std::string & name, const std::vector<int64_t> & widths);

// Attention, its output projection, and the residual where there is one: q {h*C, Nq, B}, k and v {h*C, Nk, B}, heads side by
// side -> {D, Nq, B}.
ggml_tensor * multi_head(graph & g, const linear_weights & out, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, int heads,
                         ggml_tensor * residual = nullptr, precision products = precision::f32);

// ------------------------------------------------------------------------------------------------------------ trunk.cpp

struct hiera_block_weights {
    norm_weights   norm1;             // {Cin}
    linear_weights qkv;               // {Cin, 3*Cout}
    linear_weights proj;              // {Cout, Cout}
    norm_weights   norm2;             // {Cout}
    linear_weights mlp_0, mlp_1;      // {Cout, R*Cout}, {R*Cout, Cout}
    linear_weights shortcut;          // {Cin, Cout}, of pooling blocks
};

struct trunk_weights {
    linear_weights patch_embed;       // {k*k*3, C}
    int            patch_kernel = 0;  // k
    ggml_tensor *  pos_embed = nullptr;  // {C, W, H}
    std::vector<hiera_block_weights> blocks;
};

// What a block of the trunk does. Tokens of a stage lie window by window: {C, window*window, windows}. Everything but
// attention works token by token, and global attention does not mind the order, so maps are put in rows only for the neck.
struct hiera_block {
    int  stage;
    int  heads;
    int  window_in;   // side of the windows of the input
    int  window_out;  // of the output: half after pooling
    int  windows;     // along a side of the map
    bool global, pool;
};

std::vector<hiera_block> hiera_blocks(const sam2_hparams & h);
trunk_weights load_trunk(weights & w, const sam2_hparams & h);

// {C, W, H} to windows of `window` tokens along a side {C, window*window, (W/window)*(H/window)}, and back to side W = H.
ggml_tensor * to_windows(const graph & g, ggml_tensor * x, int window);
ggml_tensor * from_windows(const graph & g, ggml_tensor * x, int window, int side);

// image {S, S, 3} -> {C, W, H} with positions.
ggml_tensor * patch_embed(const graph & g, const trunk_weights & w, const sam2_hparams & h, ggml_tensor * image);
// x {Cin, T, n} -> {Cout, T or T/4, n} for n whole windows; all windows when the block is global.
ggml_tensor * hiera_forward(graph & g, const hiera_block_weights & w, const hiera_block & b, ggml_tensor * x);

// ------------------------------------------------------------------------------------------------------------- neck.cpp

struct neck_weights {
    std::vector<linear_weights> convs;  // convs[3 - level]: {C of the stage, D}
    linear_weights conv_s0, conv_s1;    // {D, D/8}, {D, D/4}, of the mask decoder
};

neck_weights  load_neck(weights & w, const sam2_hparams & h);
// x {D, W, H} -> {D, 2W, 2H}, each token four times.
ggml_tensor * upsample_nearest(const graph & g, ggml_tensor * x);

// ----------------------------------------------------------------------------------------------------------- prompt.cpp

struct prompt_weights {
    linear_weights fc_0, fc_2;                               // {H, H}, {H, D}
    ggml_tensor * not_a_point = nullptr, * no_mask = nullptr;  // {D}
    ggml_tensor * no_mem = nullptr;                          // {D}, added to P2 where no memory is used
};

prompt_weights load_prompt(weights & w, const sam2_hparams & h);
// hidden {H, n} -> {D, n}
ggml_tensor * text_hidden_fcs(const graph & g, const prompt_weights & w, ggml_tensor * hidden);
// embedding {D, n}, or null without a prompt -> {D, 3 or 2, n}: two points that are none, then the prompt
ggml_tensor * sparse_tokens(const graph & g, const prompt_weights & w, ggml_tensor * embedding);

// ---------------------------------------------------------------------------------------------------------- decoder.cpp

struct decoder_attention_weights { linear_weights q, k, v, out; };  // {D, I}, {D, I}, {D, I}, {I, D}

struct decoder_layer_weights {
    decoder_attention_weights self_attn, token_to_image, image_to_token;
    norm_weights   norm1, norm2, norm3, norm4;
    linear_weights mlp_0, mlp_1;
};

struct decoder_weights {
    ggml_tensor * dense_pe = nullptr;                                    // {D, W, H}
    ggml_tensor * iou_token = nullptr, * obj_score_token = nullptr;      // {D}
    ggml_tensor * mask_tokens = nullptr;                                 // {D, n_masks}
    std::vector<decoder_layer_weights> layers;
    decoder_attention_weights final_attn;
    norm_weights   norm_final;
    linear_weights upscale_0, upscale_3;                                 // {D, 4*D/4}, {D/4, 4*D/8}: rows (dy, dx, channel)
    norm_weights   upscale_1;
    std::vector<mlp_weights> hyper;                                      // n_masks of D -> D/8
    mlp_weights    iou_head, obj_score_head;
};

decoder_weights load_decoder(weights & w, const sam2_hparams & h);

struct decoder_tokens {
    ggml_tensor * hs;            // {D, tokens, n}
    ggml_tensor * src;           // {D, W*H, n}
    ggml_tensor * iou;           // {n_masks, n}, after the sigmoid
    ggml_tensor * object_score;  // {1, n}
};

// src {D, W*H, 1 or n}, sparse {D, 2 or 3, n}. While src is one image's, what depends on it alone is computed once.
decoder_tokens decoder_transformer(graph & g, const decoder_weights & w, const sam2_hparams & h, ggml_tensor * src, ggml_tensor * sparse);
// src {D, W*H}, f0 {D/8, 4W, 4H}, f1 {D/4, 2W, 2H} -> {D/8, 4W*4H}
ggml_tensor * decoder_upscale(const graph & g, const decoder_weights & w, const sam2_hparams & h,
                              ggml_tensor * src, ggml_tensor * f0, ggml_tensor * f1);
// Mask logits {4W*4H, 1} of mask token k, hs {D, tokens}.
ggml_tensor * decoder_mask(const graph & g, const decoder_weights & w, ggml_tensor * upscaled, ggml_tensor * hs, int k);

// ----------------------------------------------------------------------------------------------------------- memory.cpp

struct memory_encoder_weights {
    struct down { ggml_tensor * weight, * bias; norm_weights norm; };    // {3, 3, in, out}, {out}
    struct fuse { ggml_tensor * dw_weight, * dw_bias, * scale; norm_weights norm; linear_weights pw_0, pw_1; };
    std::vector<down> downs;
    linear_weights    down_out, pix_feat_proj, out_proj;
    std::vector<fuse> fusers;
};

struct memory_attention_weights {
    struct layer {
        linear_weights self_q, self_k, self_v, self_out;      // {D, D}
        linear_weights cross_q, cross_k, cross_v, cross_out;  // {D, D}, {M, D}, {M, D}, {D, D}
        linear_weights linear1, linear2;
        norm_weights   norm1, norm2, norm3;
    };
    std::vector<layer> layers;
    norm_weights       norm;
};

struct memory_weights {
    memory_encoder_weights   encoder;
    memory_attention_weights attention;
    mlp_weights              pointer;             // D -> D
    ggml_tensor *            no_pointer = nullptr;  // {D}
    ggml_tensor *            time = nullptr;        // {M, slice_count}
};

memory_weights load_memory(weights & w, const sam2_hparams & h);

// SAM 2's sine positions of a map: [side*side, channels], row-major tokens, sines and cosines of y, then those of x.
std::vector<float> sine_positions(int side, int channels);
// Positions for the turns of memory_attention: for each token and head the column, then the row. Zero turns nothing.
std::vector<int32_t> turn_positions(int side, int heads, int maps, int pointers);

// Tokens a radian, for each pair of channels of half a head: theta^(4i / channels of a head).
std::vector<float> turn_periods(const sam2_hparams & h);

// p2 {D, W, H}, logits {L, L} -> {M, W, H}
ggml_tensor * memory_encode(const graph & g, const memory_encoder_weights & w, const sam2_hparams & h, ggml_tensor * p2, ggml_tensor * logits);

struct memory_inputs {
    ggml_tensor * x;         // {D, N}: P2 + 0.1 positions
    ggml_tensor * memory;    // {M, K}
    ggml_tensor * keys;      // {M, K}: memory with positions
    ggml_tensor * x_turns;   // {2*heads*N}, i32
    ggml_tensor * k_turns;   // {2*heads*K}, i32
    ggml_tensor * periods;   // {pairs of half a head}, see turn_periods
    precision     products;  // of attention; next to coarser weights they are as coarse
};

// -> {D, N}, in place of F2.
ggml_tensor * memory_attention(graph & g, const memory_attention_weights & w, const sam2_hparams & h, const memory_inputs & in);

} // namespace ub
