// attention.cpp: FLASH_ATTN_EXT: softmax(q k^T * scale + mask) v, a tile of queries by a block of keys at a time.
//
// The softmax is the running one: a tile keeps the largest score and the sum of each query so far, and what it has gathered is
// scaled down when a larger score comes.

#include "onednn/kernels.h"
#include "onednn/library.h"
#include "onednn/vector.h"

#include "ggml-cpu.h"

#include <algorithm>
#include <cmath>

namespace ub::accel {

using namespace onednn;

namespace {

constexpr int64_t queries_at_once = 128, keys_at_once = 512;

bool rows_are_plain(const ggml_tensor * t) { return t->nb[0] == ggml_type_size(t->type) && t->nb[1] >= ggml_row_size(t->type, t->ne[0]); }

} // namespace

bool attention_takes(const ggml_tensor * op) {
    const ggml_tensor * q = op->src[0], * k = op->src[1], * v = op->src[2], * mask = op->src[3];
    float max_bias, softcap;
    std::memcpy(&max_bias, op->op_params + 1, sizeof max_bias);
    std::memcpy(&softcap, op->op_params + 2, sizeof softcap);
    if (q->type != GGML_TYPE_F32 || k->type != v->type || (k->type != GGML_TYPE_F32 && k->type != GGML_TYPE_F16)) return false;
    if (max_bias != 0 || softcap != 0 || op->src[4] != nullptr || (mask != nullptr && mask->type != GGML_TYPE_F16)) return false;
    if (k->type == GGML_TYPE_F16 && q->ne[1] < 8) return false;  // a few rows are ggml's: widening keys would cost more than they do
    return rows_are_plain(q) && rows_are_plain(k) && rows_are_plain(v);
}

void attention(const ggml_compute_params * p, ggml_tensor * op) {
    const ggml_tensor * q = op->src[0], * k = op->src[1], * v = op->src[2], * mask = op->src[3];
    float scale;
    std::memcpy(&scale, op->op_params, sizeof scale);
    const int64_t C = q->ne[0], Cv = v->ne[0], Nq = q->ne[1], Nk = k->ne[1], heads = q->ne[2], batch = q->ne[3];
    const int64_t share = heads / k->ne[2];  // query heads of a key head

    auto even = [](int64_t n, int64_t most) { const int64_t parts = (n + most - 1) / most; return parts > 0 ? (n + parts - 1) / parts : 1; };
    int64_t tile = even(Nq, queries_at_once);
    while (tile > 32 && ((Nq + tile - 1) / tile) * heads * batch < 2 * p->nth) tile = (tile + 1) / 2;
    const int64_t tiles = (Nq + tile - 1) / tile, block = even(Nk, keys_at_once);

    float * scores = scratch(0, size_t(tile * block)), * gathered = scratch(1, size_t(tile * Cv)), * stats = scratch(2, size_t(3 * tile));
    float * const highest = stats, * const total = stats + tile, * const factor = stats + 2 * tile;
    const bool wide = k->type == GGML_TYPE_F32;
    float * k_wide = wide ? nullptr : scratch(3, size_t(block * C)), * v_wide = wide ? nullptr : scratch(4, size_t(block * Cv));
    float * bias = mask != nullptr ? scratch(5, size_t(block)) : nullptr;

    // the blocks of rows [at, at + n) of keys or values as f32
    auto widen = [&](const ggml_tensor * t, int64_t head, int64_t b, int64_t at, int64_t n, float * to, int64_t & stride) -> const float * {
        const char * from = static_cast<const char *>(t->data) + size_t(at) * t->nb[1] + size_t(head) * t->nb[2] + size_t(b) * t->nb[3];
        if (wide) {
            stride = int64_t(t->nb[1] / sizeof(float));
            return reinterpret_cast<const float *>(from);
        }
        stride = t->ne[0];
        for (int64_t i = 0; i < n; ++i) ggml_cpu_fp16_to_fp32(reinterpret_cast<const ggml_fp16_t *>(from + size_t(i) * t->nb[1]), to + i * stride, stride);
        return to;
    };

    pieces work(p, int(tiles * heads * batch));
    for (int piece; work.next(piece);) {
        const int64_t first = piece % tiles * tile, h = piece / tiles % heads, b = piece / tiles / heads, n = std::min(tile, Nq - first);
        const float * Q = reinterpret_cast<const float *>(static_cast<const char *>(q->data) + size_t(first) * q->nb[1] + size_t(h) * q->nb[2] + size_t(b) * q->nb[3]);
        auto mask_row = [&](int64_t i, int64_t at) {
            return reinterpret_cast<const ggml_fp16_t *>(static_cast<const char *>(mask->data) + size_t(first + i) * mask->nb[1] +
                                                         size_t(h % mask->ne[2]) * mask->nb[2] + size_t(b % mask->ne[3]) * mask->nb[3]) + at;
        };
        std::fill_n(highest, tile, -INFINITY);
        std::fill_n(total, tile, 0.0f);
        bool started = false;

        for (int64_t at = 0; at < Nk; at += block) {
            const int64_t keys = std::min(block, Nk - at);
            if (mask != nullptr) {
                bool open = false;  // does any query see any of these keys?
                for (int64_t i = 0; i < n && !open; ++i) {
                    const ggml_fp16_t * m = mask_row(i, at);
                    for (int64_t j = 0; j < keys && !open; ++j) open = m[j] != 0xfc00;  // minus infinity
                }
                if (!open) continue;
            }
            int64_t stride = 0;
            const float * K = widen(k, h / share, b, at, keys, k_wide, stride);
            multiply({numbers::f32, product::columns, false, int32_t(n), int32_t(keys), int32_t(C), int64_t(q->nb[1] / sizeof(float)), stride, block}, Q, K, scores);

            for (int64_t i = 0; i < n; ++i) {
                float * s = scores + i * block;
                if (mask != nullptr) ggml_cpu_fp16_to_fp32(mask_row(i, at), bias, keys);
                floats most = all(-INFINITY);
                each(keys, [&](int64_t j, int count) {
                    floats x = load_n(s + j, count) * scale;
                    if (mask != nullptr) x += load_n(bias + j, count);
                    store_n(s + j, x, count);
                    if (count < lanes) {
                        floats y = all(-INFINITY);
                        std::memcpy(&y, &x, size_t(count) * sizeof(float));
                        x = y;
                    }
                    most = larger(x, most);
                });
                const float now = std::max(highest[i], largest(most));
                if (now == -INFINITY) {  // nothing to see so far
                    std::fill_n(s, keys, 0.0f);
                    factor[i] = 0;
                    continue;
                }
                factor[i] = std::exp(highest[i] - now);
                highest[i] = now;
                floats sums = {};
                each(keys, [&](int64_t j, int count) {
                    const floats e = onednn::exp(load_n(s + j, count) - now);
                    store_n(s + j, e, count);
                    if (count == lanes) {
                        sums += e;
                    } else {
                        floats y = {};
                        std::memcpy(&y, &e, size_t(count) * sizeof(float));
                        sums += y;
                    }
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
            const float * V = widen(v, h / share, b, at, keys, v_wide, stride);
            multiply({numbers::f32, product::rows, started, int32_t(n), int32_t(Cv), int32_t(keys), block, stride, Cv}, scores, V, gathered);
            started = true;
        }
        for (int64_t i = 0; i < n; ++i) {
            // result {Cv, heads, Nq, batch}
            float * out = reinterpret_cast<float *>(static_cast<char *>(op->data) + size_t(h) * op->nb[1] + size_t(first + i) * op->nb[2] + size_t(b) * op->nb[3]);
            const float * o = gathered + i * Cv;
            const float inverse = !started || total[i] == 0 ? 0 : 1 / total[i];
            each(Cv, [&](int64_t j, int count) { store_n(out + j, inverse == 0 ? all(0) : load_n(o + j, count) * inverse, count); });
        }
    }
}

} // namespace ub::accel
