// sam2.h: SAM 2 and the projection of [SEG], what api.cpp calls.
//
// hparams.cpp reads sizes; trunk.cpp (Hiera), neck.cpp, prompt.cpp, decoder.cpp and memory.cpp hold the reference's modules and
// know nothing of callers or volumes (parts.h); encoder.cpp joins trunk and neck; track.cpp has the rules of the memory bank;
// sam2.cpp loads, measures and runs.
//
// Objects: sam2 is the loaded part, shared. sam2_features are one image's features, immutable. sam2_track is one [SEG]
// in one volume. All may be used from several threads: calls of one stage queue in arrival order.

#pragma once

#include "call.h"
#include "gguf_file.h"
#include "unibiomed.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace ub {

class device;

// Every size of SAM 2, as the keys of grounding.gguf give it, and what follows from those.
struct sam2_hparams {
    struct stage {
        int blocks, width, heads, side, window;  // window: tokens along a side in windowed blocks
    };

    int   input = 0;                        // H: length of the state at [SEG]
    int   image_size = 0, stride = 0;       // stride: pixels a token of F2
    float mean[3] = {}, std[3] = {};
    std::vector<stage> stages;              // of the trunk; four
    std::vector<int>   global_blocks;
    int   q_pool = 0, q_stride = 0, mlp_ratio = 0;
    std::vector<int>   top_down;            // neck levels that get the level below added
    int   width = 0;                        // D
    int   decoder_blocks = 0, decoder_heads = 0, decoder_ffn = 0, decoder_downsample = 0, n_masks = 0;
    int   memory_width = 0;                 // M
    int   memory_blocks = 0, memory_heads = 0, memory_ffn = 0, fuser_blocks = 0;
    float rope_theta = 0, mask_scale = 0, mask_bias = 0;
    int   slice_count = 0, pointer_count = 0, prompted_slices = 0;

    int feature_side() const { return image_size / stride; }     // of F2
    int mask_side() const { return 4 * feature_side(); }         // L
    int pointer_tokens() const { return width / memory_width; }  // memory tokens an object pointer is cut into

    // Reads and cross-checks the keys. Throws UB_E_FORMAT, or UB_E_UNSUPPORTED for sound files of another kind.
    static sam2_hparams read(const gguf_file & f);
};

class sam2_features;
class sam2_track;

struct sam2_deleter {
    void operator()(sam2_features * f) const;
    void operator()(sam2_track * t) const;
};
using sam2_features_ptr = std::unique_ptr<sam2_features, sam2_deleter>;
using sam2_track_ptr    = std::unique_ptr<sam2_track, sam2_deleter>;

class sam2 {
  public:
    // Checks keys, and names, shapes and types of all tensors, without reading them.
    static void check(std::shared_ptr<const gguf_file> f);

    // Working buffers in bytes, known before anything is allocated.
    struct plan {
        uint64_t encode, masks, memory;  // peaks of the three stages
        uint64_t features;               // one image's features
    };
    // mask_batch 0: chosen by device.
    static plan measure(std::shared_ptr<const gguf_file> f, std::shared_ptr<const device> dev, int mask_batch);

    // Checks and loads. The counters outlive the object.
    static std::unique_ptr<sam2> load(std::shared_ptr<const gguf_file> f, std::shared_ptr<const device> dev, int mask_batch,
                                      stage_counters & counters, reporter & r);
    ~sam2();

    const sam2_hparams & hparams() const;

    // image [3, image_size, image_size].
    sam2_features_ptr encode(const float * image, reporter & r);
    // F0 [D/8, L, L], F1 [D/4, L/2, L/2], F2 [D, L/4, L/4].
    sam2_features_ptr features_from(const float * f0, const float * f1, const float * f2);
    // hidden [n, H].
    void decode(const sam2_features & f, const float * hidden, int32_t n, ub_masks & out, reporter & r);

    sam2_track_ptr open_track(const float * hidden);
    void prompt(sam2_track & t, int32_t slice, const sam2_features & f, ub_masks & out, reporter & r);
    void step(sam2_track & t, int32_t slice, const sam2_features & f, ub_masks & out, reporter & r);
    static void rewind(sam2_track & t);

  private:
    struct impl;
    explicit sam2(std::unique_ptr<impl> p);
    std::unique_ptr<impl> p;
};

} // namespace ub
