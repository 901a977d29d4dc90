// track.h: the memory bank of one [SEG] in one volume, on the host and apart from any graph.
//
// Reference: sam2/modeling/sam2_base.py, _prepare_memory_conditioned_features.

#pragma once

#include "sam2/sam2.h"

#include <cstdint>
#include <map>
#include <vector>

namespace ub {

// What is kept of a slice: memory [N, M] in bf16 as the reference keeps it, and the object pointer [D] in f32.
struct slice_memory {
    int32_t               slice = 0;
    std::vector<uint16_t> memory;  // empty once no later slice looks at it
    std::vector<float>    pointer;
};

class memory_bank {
  public:
    // What a slice looks at, in the order in which the reference concatenates it.
    struct view {
        struct item { const slice_memory * from; int time; };  // time: row of maskmem_tpos_enc
        std::vector<item>                 memories;
        std::vector<const slice_memory *> pointers;
    };

    memory_bank(int slice_count, int pointer_count) : slice_count(slice_count), pointer_count(pointer_count) {}

    bool empty() const { return prompted.empty(); }
    bool is_prompted(int32_t slice) const { return prompted.count(slice) != 0; }

    // All prompted slices, then the tracked ones of the last slice_count - 1 slices, farthest first. Pointers: of prompted
    // slices that do not lie ahead, then of tracked ones of the last pointer_count - 1 slices, nearest first.
    view look(int32_t slice) const;

    void keep_prompted(slice_memory m);
    void keep_tracked(slice_memory m);  // forgets what no later slice can look at
    void forget_tracked() { tracked.clear(); }

  private:
    int direction(int32_t slice) const;

    int slice_count, pointer_count;
    std::map<int32_t, slice_memory> prompted;
    std::vector<slice_memory>       tracked;  // oldest first
};

} // namespace ub
