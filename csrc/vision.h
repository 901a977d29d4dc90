// vision.h: the vision tower: InternViT, pixel shuffle and the projection to the language model (mlp1).
//
// Facts: shared specification of the model, sections 1 to 3; tensors and keys: docs/model-folder.md.

#pragma once

#include "graph.h"

namespace ub {

struct vision_hparams {
    int   image_size, patch_size;
    int   width, ffn, blocks, heads;        // of the ViT
    float eps, projector_eps;
    int   shuffle, shuffle_version;         // pixels of a side that become one token; 2: row-major tokens, 1: column-major
    int   projection;                       // H
    int   tiles_min, tiles_max;
    bool  thumbnail;
    float mean[3], std[3];

    int side() const { return image_size / patch_size; }  // patches
    int patches() const { return side() * side(); }
    int tokens() const { return patches() + 1; }           // in the ViT
    int tile_tokens() const { return patches() / (shuffle * shuffle); }

    // Reads and checks the keys.
    static vision_hparams read(const gguf_file & f);
};

struct vision_weights {
    struct block {
        norm_weights   norm1, norm2;
        linear_weights qkv, proj, fc1, fc2;
        ggml_tensor  * ls1, * ls2;           // {C}
    };
    linear_weights     patch_embed;          // {3*p*p, C}
    ggml_tensor      * class_embed;          // {C}
    ggml_tensor      * pos_embed;            // {C, 1+N}, row 0 the class token
    std::vector<block> blocks;
    norm_weights       projector_norm;       // {4C}
    linear_weights     projector_fc1, projector_fc2;

    // Expects all tensors and fails when one is missing, wrong or unexpected.
    vision_weights(weights & w, const vision_hparams & h);
};

class vision {
  public:
    // Checks keys, and names, shapes and types of all tensors, without reading them.
    static void check(std::shared_ptr<const gguf_file> f);
    // Bytes of working memory.
    static uint64_t measure(std::shared_ptr<const gguf_file> f, std::shared_ptr<const device> dev, int tile_batch);
    // Tiles that a pass takes when the caller does not say: batches don't speed a CPU up.
    static int default_batch(const device & dev) { return dev.is_cpu() ? 1 : dev.is_roomy() ? 16 : 4; }

    // tile_batch 0: default_batch.
    vision(std::shared_ptr<const gguf_file> f, std::shared_ptr<const device> dev, int tile_batch, reporter & r);

    // tiles [n, 3, S, S] -> embeddings [n, tile_tokens, H].
    void encode(const float * tiles, int n, float * embeddings, reporter & r, counters & c);

    const vision_hparams hparams;

  private:
    vision(std::shared_ptr<const gguf_file> f, std::shared_ptr<const device> dev, int tile_batch);
    // tiles {S, S, 3, n} -> outputs; null pointers in a measured graph.
    void build(graph & g, int n, const float * tiles, float * vit, float * embeddings) const;

    weights        w;
    vision_weights t;
    int            tile_batch;
    stage          tower;
    turnstile      queue;  // calls, in arrival order
};

} // namespace ub
