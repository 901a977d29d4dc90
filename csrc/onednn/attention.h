// attention.h: what attention.cpp, int16_attention.cpp and few_queries.cpp share.

#pragma once

#include "ggml-cpu.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace ub::accel {

// Element 0 of a row of queries, keys, values, mask or result.
template <class T> T * at(const ggml_tensor * t, int64_t i1, int64_t i2, int64_t i3) {
    return reinterpret_cast<T *>(static_cast<char *>(t->data) + size_t(i1) * t->nb[1] + size_t(i2) * t->nb[2] + size_t(i3) * t->nb[3]);
}

// A row of keys or values, f32, f16 or q8_0, as f32.
inline void widen(const ggml_tensor * t, int64_t i1, int64_t i2, int64_t i3, float * to) {
    const void * row = at<const char>(t, i1, i2, i3);
    switch (t->type) {
        case GGML_TYPE_F32: std::copy_n(static_cast<const float *>(row), t->ne[0], to); break;
        case GGML_TYPE_F16: ggml_cpu_fp16_to_fp32(static_cast<const ggml_fp16_t *>(row), to, t->ne[0]); break;
        default: ggml_get_type_traits(t->type)->to_float(row, to, t->ne[0]); break;
    }
}

// Asks for a row before its turn.
inline void fetch(const char * row, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i);
}

// For loops over rows: those of heads that lie side by side are pages apart, where the processor asks too late.
inline void fetch_ahead(const ggml_tensor * t, int64_t row, int64_t head, int64_t batch) {
    if (row + 8 < t->ne[1]) fetch(at<const char>(t, row + 8, head, batch), ggml_row_size(t->type, t->ne[0]));
}

// The largest equal parts of n that are not above most.
inline int64_t even(int64_t n, int64_t most) {
    const int64_t parts = std::max<int64_t>(1, (n + most - 1) / most);
    return std::max<int64_t>(1, (n + parts - 1) / parts);
}

// Queries of a tile: most of n at most, and fewer where threads would go without work.
inline int64_t tile_of_queries(int64_t n, int64_t most, int64_t heads, int n_threads) {
    int64_t tile = n <= most ? std::max<int64_t>(1, n) : (even(n, most) + 15) / 16 * 16;
    while (tile > 32 && ((n + tile - 1) / tile) * heads < 4 * n_threads) tile = (tile + 1) / 2;
    return tile;
}

// Whether a row of the mask lets its query see any of n keys.
inline bool sees_any(const ggml_fp16_t * mask, int64_t n) {
    return std::any_of(mask, mask + n, [](ggml_fp16_t x) { return x != 0xfc00; });  // minus infinity
}

} // namespace ub::accel
