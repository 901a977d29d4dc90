// hparams.cpp: reads SAM 2's sizes from the keys of grounding.gguf and refuses those that contradict each other.
//
// Whatever ggml would abort on for a wrong size is a key's fault and found here, or a tensor's and found by the weights'
// loader, before any graph is built.

#include "sam2/sam2.h"

#include <algorithm>
#include <cmath>

namespace ub {

namespace {

// A wide bound for widths and counts: it keeps every product of sizes far from overflow.
constexpr uint32_t most = 1 << 16;

struct reader {
    const gguf_file & f;

    template <class... A> void want(bool ok, const char * fmt, A... args) const {
        if (!ok) fail(UB_E_FORMAT, "%s: %s", f.path().c_str(), format(fmt, args...).c_str());
    }
    template <class... A> void can(bool ok, const char * fmt, A... args) const {
        if (!ok) fail(UB_E_UNSUPPORTED, "%s: %s", f.path().c_str(), format(fmt, args...).c_str());
    }
    void divides(const char * what_a, int a, const char * what_b, int b) const {
        want(b > 0 && a % b == 0, "%s is %d, which %s %d does not divide", what_a, a, what_b, b);
    }
};

} // namespace

sam2_hparams sam2_hparams::read(const gguf_file & f) {
    const reader r{f};
    sam2_hparams h;

    const std::string architecture = f.str("general.architecture");
    r.can(architecture == "unibiomed-grounding", "general.architecture is '%s', want 'unibiomed-grounding'", architecture.c_str());
    const uint32_t version = f.u32("unibiomed.format_version");
    r.can(version == 1, "unibiomed.format_version is %u, this library reads 1", version);

    h.input      = f.size_of("grounding.input_length", 1, most);
    h.image_size = f.size_of("sam2.image_size", 1, 8192);
    h.stride     = f.size_of("sam2.backbone_stride", 1, 64);
    const std::vector<float> mean = f.f32s("sam2.image_mean", 3, 3), std = f.f32s("sam2.image_std", 3, 3);
    std::copy(mean.begin(), mean.end(), h.mean);
    std::copy(std.begin(), std.end(), h.std);
    for (float s : h.std) r.want(s > 0, "sam2.image_std has %g, want values above 0", double(s));

    // ---- trunk
    const int embd = f.size_of("sam2.trunk.embedding_length", 1, most), heads = f.size_of("sam2.trunk.head_count", 1, most);
    const int dim_mul = f.size_of("sam2.trunk.dim_mul", 1, 16), head_mul = f.size_of("sam2.trunk.head_mul", 1, 16);
    h.q_pool    = f.size_of("sam2.trunk.q_pool", 0, 16);
    h.q_stride  = f.size_of("sam2.trunk.q_stride", 1, 16);
    h.mlp_ratio = f.size_of("sam2.trunk.mlp_ratio", 1, 16);
    const std::vector<uint32_t> blocks = f.u32s("sam2.trunk.stages", 4, 4), windows = f.u32s("sam2.trunk.window_spec", 4, 4);

    // The neck adds a map to one of twice its side, and the decoder doubles F2 twice to meet F1 and F0.
    r.can(h.q_pool == 3 && h.q_stride == 2, "sam2.trunk.q_pool is %d and q_stride %d; the neck and the decoder need 3 and 2", h.q_pool, h.q_stride);
    r.divides("sam2.backbone_stride", h.stride, "q_stride * q_stride", 4);
    r.want((h.stride & (h.stride - 1)) == 0, "sam2.backbone_stride is %d, want a power of two", h.stride);
    r.divides("sam2.image_size", h.image_size, "sam2.backbone_stride", h.stride);

    int64_t width = embd, n_heads = heads;
    int     side = h.image_size / (h.stride / 4), n_blocks = 0;
    for (size_t i = 0; i < blocks.size(); ++i) {
        r.want(blocks[i] >= 1 && blocks[i] <= 1024, "sam2.trunk.stages[%zu] is %u, want 1 to 1024", i, blocks[i]);
        r.want(windows[i] >= 1 && windows[i] <= 8192, "sam2.trunk.window_spec[%zu] is %u, want 1 to 8192", i, windows[i]);
        r.want(width <= most && width % n_heads == 0, "stage %zu of the trunk has %lld channels and %lld heads", i,
               (long long) width, (long long) n_heads);
        // The reference would pad; no published model of this family does.
        r.can(side >= 1 && side % int(windows[i]) == 0, "stage %zu of the trunk has a map of side %d, which sam2.trunk.window_spec %u does not divide",
              i, side, windows[i]);
        h.stages.push_back({int(blocks[i]), int(width), int(n_heads), side, int(windows[i])});
        n_blocks += int(blocks[i]);
        if (i + 1 < blocks.size()) {
            // The first block of the next stage pools inside this stage's windows.
            r.want(windows[i] % 2 == 0, "sam2.trunk.window_spec[%zu] is %u; the next stage pools 2x2 inside these windows", i, windows[i]);
            side /= 2;
            width *= dim_mul;
            n_heads *= head_mul;
        }
    }
    for (uint32_t b : f.u32s("sam2.trunk.global_blocks", 0, 4096)) {
        r.want(b < uint32_t(n_blocks), "sam2.trunk.global_blocks has %u, the trunk has %d blocks", b, n_blocks);
        int first = 0;
        for (const stage & s : h.stages) {
            r.want(first == 0 || int(b) != first, "sam2.trunk.global_blocks has %u, which pools inside windows", b);
            first += s.blocks;
        }
        h.global_blocks.push_back(int(b));
    }

    // ---- neck
    h.width = f.size_of("sam2.embedding_length", 1, most);
    r.divides("sam2.embedding_length", h.width, "8 (F0 has an eighth of the channels)", 8);
    for (uint32_t level : f.u32s("sam2.neck.top_down_levels", 0, 4)) {
        r.want(level < 4, "sam2.neck.top_down_levels has %u, want 0 to 3", level);
        r.can(level >= 2, "sam2.neck.top_down_levels has %u; only 2 and 3 are read, as in every published SAM 2", level);
        h.top_down.push_back(int(level));
    }

    // ---- mask decoder
    h.decoder_blocks     = f.size_of("sam2.decoder.block_count", 1, 64);
    h.decoder_heads      = f.size_of("sam2.decoder.head_count", 1, most);
    h.decoder_ffn        = f.size_of("sam2.decoder.feed_forward_length", 1, most);
    h.decoder_downsample = f.size_of("sam2.decoder.attention_downsample", 1, 64);
    h.n_masks            = f.size_of("sam2.decoder.mask_count", 2, 64);
    r.divides("sam2.embedding_length", h.width, "sam2.decoder.attention_downsample", h.decoder_downsample);
    r.divides("sam2.embedding_length / sam2.decoder.attention_downsample", h.width / h.decoder_downsample,
              "sam2.decoder.head_count", h.decoder_heads);

    // ---- memory
    h.memory_width    = f.size_of("sam2.memory.embedding_length", 1, most);
    h.memory_blocks   = f.size_of("sam2.memory.attention_block_count", 1, 64);
    h.memory_heads    = f.size_of("sam2.memory.attention_head_count", 1, most);
    h.memory_ffn      = f.size_of("sam2.memory.feed_forward_length", 1, most);
    h.fuser_blocks    = f.size_of("sam2.memory.fuser_block_count", 0, 64);
    h.slice_count     = f.size_of("sam2.memory.slice_count", 1, 64);
    h.pointer_count   = f.size_of("sam2.memory.object_pointer_count", 1, 1024);
    h.prompted_slices = f.size_of("sam2.prompted_slices", 1, 64);
    h.rope_theta      = f.f32("sam2.memory.rope_theta");
    h.mask_scale      = f.f32("sam2.memory.mask_scale");
    h.mask_bias       = f.f32("sam2.memory.mask_bias");
    r.want(h.rope_theta > 0, "sam2.memory.rope_theta is %g, want more than 0", double(h.rope_theta));
    r.divides("sam2.embedding_length", h.width, "sam2.memory.embedding_length", h.memory_width);
    r.divides("sam2.memory.embedding_length", h.memory_width, "4 (sines and cosines of y and x)", 4);
    r.divides("sam2.embedding_length", h.width, "sam2.memory.attention_head_count", h.memory_heads);
    r.divides("channels of a memory attention head", h.width / h.memory_heads, "4 (pairs that turn with x and y)", 4);
    return h;
}

} // namespace ub
