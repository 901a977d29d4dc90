// model.h: one opened model: its parts, its device, its totals.

#pragma once

#include "language.h"
#include "sam2/sam2.h"
#include "types.h"
#include "vision.h"

#include <future>

namespace ub {

// The files of a model, opened and checked, and the device they are meant for.
struct model_files {
    std::shared_ptr<const gguf_file> language, vision, grounding;  // null where left out

    explicit model_files(const ub_model_files & paths);

    // Checks every file, and that they fit each other. Throws UB_E_FORMAT or UB_E_UNSUPPORTED.
    void check(bool vocab_only) const;
};

// Sizes from the keys; the files are sound.
ub_model_info describe(const model_files & f, bool vocab_only);

// Bytes by stage. Throws UB_E_INVALID when params don't fit the model.
ub_memory_plan plan(const model_files & f, const ub_model_params & p, std::shared_ptr<const device> dev);

// Shared by the model's handle, sessions, features and tracks; the last one frees it.
struct model {
    stage_counters              totals;   // outlives the parts below, which add to it
    std::shared_ptr<const device> dev;
    ub_model_info               info{};
    std::unique_ptr<language>   lm;       // null where left out
    std::unique_ptr<vision>     tower;
    std::unique_ptr<sam2>       grounding;
    std::shared_future<void>    images;   // done when tower and grounding are there; destroyed first, which waits for it

    model(const ub_model_files & paths, const ub_model_params & p, reporter & r);

    // The part, or UB_E_INVALID; what went wrong where it was opened beside the others.
    language & need_language() const;
    language & need_weights() const;  // of the language model
    vision &   need_vision() const;
    sam2 &     need_grounding() const;
};

// The best rate of n x n x n products of a weight type with f32 on the device, in operations a second.
double peak_rate(const device & dev, const weight_type & type, int n, float seconds);

} // namespace ub
