// track.cpp: see track.h.

#include "sam2/track.h"

#include <algorithm>
#include <cstdlib>

namespace ub {

// The way the volume is walked, +1 or -1: on from the slice tracked last, else away from the nearest prompted one.
int memory_bank::direction(int32_t slice) const {
    if (!tracked.empty()) return slice >= tracked.back().slice ? 1 : -1;
    int64_t nearest = INT64_MAX;
    int     way = 1;
    for (const auto & [s, m] : prompted) {
        const int64_t d = int64_t(slice) - s;
        if (std::llabs(d) < nearest) {
            nearest = std::llabs(d);
            way     = d >= 0 ? 1 : -1;
        }
    }
    return way;
}

memory_bank::view memory_bank::look(int32_t slice) const {
    const int way = direction(slice);
    auto behind = [&](const slice_memory & m) { return (int64_t(slice) - m.slice) * way; };

    view v;
    for (const auto & [s, m] : prompted) v.memories.push_back({&m, slice_count - 1});
    std::vector<const slice_memory *> near;  // tracked, nearest first
    for (const slice_memory & m : tracked) {
        if (behind(m) >= 1) near.push_back(&m);
    }
    std::sort(near.begin(), near.end(), [&](const slice_memory * a, const slice_memory * b) { return behind(*a) < behind(*b); });
    for (auto it = near.rbegin(); it != near.rend(); ++it) {
        const int64_t d = behind(**it);
        if (d <= slice_count - 1 && !(*it)->memory.empty()) v.memories.push_back({*it, int(d - 1)});
    }

    for (const auto & [s, m] : prompted) {
        if (behind(m) >= 0) v.pointers.push_back(&m);
    }
    for (const slice_memory * m : near) {
        if (behind(*m) <= pointer_count - 1) v.pointers.push_back(m);
    }
    return v;
}

void memory_bank::keep_prompted(slice_memory m) {
    tracked.erase(std::remove_if(tracked.begin(), tracked.end(), [&](const slice_memory & t) { return t.slice == m.slice; }), tracked.end());
    const int32_t slice = m.slice;
    prompted[slice] = std::move(m);
}

void memory_bank::keep_tracked(slice_memory m) {
    tracked.erase(std::remove_if(tracked.begin(), tracked.end(), [&](const slice_memory & t) { return t.slice == m.slice; }), tracked.end());
    tracked.push_back(std::move(m));
    const size_t n = tracked.size(), memories = size_t(slice_count - 1), all = std::max(memories, size_t(pointer_count - 1));
    if (n > memories) std::vector<uint16_t>().swap(tracked[n - 1 - memories].memory);
    if (n > std::max<size_t>(all, 1)) tracked.erase(tracked.begin());  // the last one tells the direction
}

} // namespace ub
