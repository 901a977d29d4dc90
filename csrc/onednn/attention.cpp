// attention.cpp: FLASH_ATTN_EXT: softmax(q k^T * scale + mask) v, a tile of queries by a block of keys at a time.
//
// The softmax is the running one (Milakov and Gimelshein 2018): a tile keeps the largest score and the sum of each query so far,
// and what it has gathered is scaled down when a larger score comes. A few queries of keys that many heads share are few_queries.cpp's.

#include "onednn/attention.h"
#include "onednn/kernels.h"
#include "onednn/library.h"
#include "onednn/vector.h"

#include <algorithm>
#include <cmath>

namespace ub::accel {

using namespace onednn;

namespace {

constexpr int64_t queries_at_once = 144, keys_at_once = 512;

bool rows_are_plain(const ggml_tensor * t) { return t->nb[0] == ggml_type_size(t->type) && t->nb[1] >= ggml_row_size(t->type, t->ne[0]); }

// Whether the rows of a head are so far apart that many of them share a few places of the cache, and are gathered better once.
bool apart(const ggml_tensor * t) { return t->nb[1] >= 2048; }

// Rows of one head as the products take them: f32 where they lie, or copied as f32 or bf16, `width` apart and padded with zeros.
struct operand {
    const char * data;
    int64_t      stride;  // elements
    size_t       element;

    const void * row(int64_t i) const { return data + size_t(i * stride) * element; }
};

operand gather(const ggml_tensor * t, int64_t first, int64_t n, int64_t head, int64_t batch, bool bf16, int64_t width, int slot) {
    if (!bf16 && t->type == GGML_TYPE_F32 && !apart(t)) return {at<const char>(t, first, head, batch), int64_t(t->nb[1] / sizeof(float)), sizeof(float)};
    const int64_t C = t->ne[0];
    float * wide = scratch(slot, size_t(n * width + (bf16 ? C : 0)));
    uint16_t * narrow = reinterpret_cast<uint16_t *>(wide);
    for (int64_t i = 0; i < n; ++i) {
        float * row = wide + (bf16 ? n : i) * width;
        fetch_ahead(t, first + i, head, batch);
        widen(t, first + i, head, batch, row);
        if (bf16) {
            each(C, [&](int64_t c, int count) { store_bf16(narrow + i * width + c, load_n(row + c, count), count); });
            std::fill(narrow + i * width + C, narrow + (i + 1) * width, uint16_t(0));
        }
    }
    return {reinterpret_cast<const char *>(wide), width, bf16 ? sizeof(uint16_t) : sizeof(float)};
}

bool can_widen(ggml_type t) { return t == GGML_TYPE_F32 || t == GGML_TYPE_F16 || t == GGML_TYPE_Q8_0; }

} // namespace

bool attention_takes(const ggml_tensor * op) {
    const ggml_tensor * q = op->src[0], * k = op->src[1], * v = op->src[2], * mask = op->src[3];
    float max_bias, softcap;
    std::memcpy(&max_bias, op->op_params + 1, sizeof max_bias);
    std::memcpy(&softcap, op->op_params + 2, sizeof softcap);
    if (q->type != GGML_TYPE_F32 || !can_widen(k->type) || !can_widen(v->type)) return false;
    if (max_bias != 0 || softcap != 0 || op->src[4] != nullptr || (mask != nullptr && mask->type != GGML_TYPE_F16)) return false;
    return rows_are_plain(q) && rows_are_plain(k) && rows_are_plain(v);
}

void attention(const ggml_compute_params * p, ggml_tensor * op, bool bf16) {
    const ggml_tensor * q = op->src[0], * k = op->src[1], * v = op->src[2], * mask = op->src[3];
    float scale;
    std::memcpy(&scale, op->op_params, sizeof scale);
    const numbers type = bf16 ? numbers::bf16 : numbers::f32;
    const int64_t C = q->ne[0], Cv = v->ne[0], Nq = q->ne[1], Nk = k->ne[1], heads = q->ne[2], batch = q->ne[3];
    const int64_t share = heads / k->ne[2];                     // query heads of a key head
    const int64_t width = bf16 ? (C + 31) / 32 * 32 : C;        // of copied queries and keys: tiles of bf16 hold pairs of 16
    const bool    copied = bf16 || k->type != GGML_TYPE_F32 || apart(k) || apart(v);

    // A piece is some tiles of one head: as many as there are where keys and values are copied for it, but enough pieces for all threads.
    const int64_t tile = tile_of_queries(Nq, queries_at_once, heads * batch, p->nth);
    const int64_t tiles = (Nq + tile - 1) / tile, block = (even(Nk, keys_at_once) + 63) / 64 * 64;
    const int64_t parts = copied ? std::min(tiles, std::max<int64_t>(1, 4 * p->nth / (heads * batch))) : tiles;

    float * scores = scratch(0, size_t(tile * block)), * gathered = scratch(1, size_t(tile * Cv)), * stats = scratch(2, size_t(3 * tile));
    float * const highest = stats, * const total = stats + tile, * const factor = stats + 2 * tile;
    float * bias = mask != nullptr ? scratch(5, size_t(block)) : nullptr;
    uint16_t * narrow = bf16 ? reinterpret_cast<uint16_t *>(scratch(6, size_t((tile * block + 1) / 2))) : nullptr;  // scores

    pieces work(p, int(parts * heads * batch));
    for (int piece; work.next(piece);) {
        const int64_t part = piece % parts, h = piece / parts % heads, b = piece / parts / heads;
        const operand K = gather(k, 0, Nk, h / share, b, bf16, width, 3), V = gather(v, 0, Nk, h / share, b, bf16, Cv, 4);

        for (int64_t first = tiles * part / parts * tile; first < std::min(Nq, tiles * (part + 1) / parts * tile); first += tile) {
            const int64_t n = std::min(tile, Nq - first);
            const operand Q = gather(q, first, n, h, b, bf16, width, 7);
            auto mask_row = [&](int64_t i, int64_t key) {
                return at<const ggml_fp16_t>(mask, first + i, h % mask->ne[2], b % mask->ne[3]) + key;
            };
            std::fill_n(highest, tile, -INFINITY);
            std::fill_n(total, tile, 0.0f);
            bool started = false;

            for (int64_t key = 0; key < Nk; key += block) {
                const int64_t keys = std::min(block, Nk - key);
                if (mask != nullptr) {
                    bool open = false;  // does any query see any of these keys? of a causal mask the last query sees most
                    for (int64_t i = n - 1; i >= 0 && !open; --i) open = sees_any(mask_row(i, key), keys);
                    if (!open) continue;
                }
                multiply({type, product::columns, false, int32_t(n), int32_t(keys), int32_t(bf16 ? width : C), Q.stride, K.stride, block}, Q.data, K.row(key), scores);

                for (int64_t i = 0; i < n; ++i) {
                    float * s = scores + i * block;
                    if (mask != nullptr) ggml_cpu_fp16_to_fp32(mask_row(i, key), bias, keys);
                    floats most = all(-INFINITY);
                    each(keys, [&](int64_t j, int count) {
                        floats x = load_n(s + j, count) * scale;
                        if (mask != nullptr) x += load_n(bias + j, count);
                        store_n(s + j, x, count);
                        most = larger(padded_with(-INFINITY, x, count), most);
                    });
                    const float now = std::max(highest[i], largest(most));
                    // with nothing to see so far all scores are minus infinity, or NaN
                    factor[i] = now == -INFINITY ? 1.0f : std::exp(highest[i] - now);
                    highest[i] = now;
                    const float base = now == -INFINITY ? 0.0f : now;
                    floats sums = {};
                    each(keys, [&](int64_t j, int count) {
                        const floats e = onednn::exp(load_n(s + j, count) - base);
                        if (bf16) store_bf16(narrow + i * block + j, e, count);
                        else store_n(s + j, e, count);
                        sums += padded_with(0, e, count);
                    });
                    total[i] = total[i] * factor[i] + sum(sums);
                }
                if (started) {
                    for (int64_t i = 0; i < n; ++i) {
                        if (factor[i] == 1) continue;
                        float * o = gathered + i * Cv;
                        each(Cv, [&](int64_t j, int count) { store_n(o + j, load_n(o + j, count) * factor[i], count); });
                    }
                }
                multiply({type, product::rows, started, int32_t(n), int32_t(Cv), int32_t(keys), block, V.stride, Cv}, bf16 ? static_cast<void *>(narrow) : scores,
                         V.row(key), gathered);
                started = true;
            }
            for (int64_t i = 0; i < n; ++i) {
                float * out = at<float>(op, h, first + i, b);  // {Cv, heads, Nq, batch}
                const float * o = gathered + i * Cv;
                const bool nothing = !started || total[i] == 0;  // no key is seen: zeros, as ggml has it
                const float inverse = nothing ? 0 : 1 / total[i];
                each(Cv, [&](int64_t j, int count) { store_n(out + j, nothing ? all(0) : load_n(o + j, count) * inverse, count); });
            }
        }
    }
}

} // namespace ub::accel
