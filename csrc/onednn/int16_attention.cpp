// int16_attention.cpp: softmax(q k^T * scale) v in products of s16, for processors where int16.cpp is faster than f32.
//
// Queries and keys get a scale a row, values a scale a channel, as many levels as let the sums fit 32 bits. Weights of the softmax are
// made for 64 keys at a time, relative to the largest score among these, so that no key loses its digits to one that lies elsewhere.
// Between those the softmax is the running one of attention.cpp. All else, sums over more than 64 keys included, is f32.

#include "onednn/attention.h"
#include "onednn/kernels.h"

#include <algorithm>
#include <cmath>

namespace ub::accel {

using namespace onednn;

namespace {

constexpr int64_t queries_at_once = 144, keys_at_once = 512, span = 64;
constexpr int64_t queries_of_piece = 4096, levels_held = 1 << 20;  // bound what a thread holds
constexpr int64_t few_keys = 256;  // with fewer, quantizing takes what products save
constexpr float   weight_bits = 14, value_levels = 2047;
static_assert(span * (int64_t(1) << int64_t(weight_bits)) * int64_t(value_levels) <= INT32_MAX);

constexpr float log2_e = 1.44269504f;

// The largest magnitude of the levels of queries and keys.
float row_levels(int64_t C) { return std::floor(std::min(float(INT16_MAX), std::sqrt(float(INT32_MAX) / float(C)) - 1)); }

// A row of C values to levels, which are zeros where the scale returned is NaN.
float quantize_row(const float * in, int64_t C, float levels, int16_t * to) {
    const unit u = unit_of(in, C, levels);
    each(C, [&](int64_t c, int n) {
        const signed_shorts level = __builtin_convertvector(u.inverse == 0 ? ints{} : whole(load_n(in + c, n) * u.inverse), signed_shorts);
        std::memcpy(to + c, &level, size_t(n) * sizeof(int16_t));
    });
    return u.scale;
}

// A row of t in f32: where it lies, or copied.
const float * row_in_f32(const ggml_tensor * t, int64_t row, int64_t head, int64_t batch, float * copy) {
    fetch_ahead(t, row, head, batch);
    if (t->type == GGML_TYPE_F32) return at<const float>(t, row, head, batch);
    widen(t, row, head, batch, copy);
    return copy;
}

// Keys of one head, n from `first` on, as panels of 16 keys, [C / 2][16][2], and their scales; the last panel is filled up with zeros.
void pack_keys(const ggml_tensor * k, int64_t first, int64_t n, int64_t head, int64_t batch, int16_t * panels, float * scales) {
    const int64_t C = k->ne[0], padded = round_up(n, int16_panel);
    int16_t * levels = reinterpret_cast<int16_t *>(scratch(6, size_t(2 * C)));
    float * copy = reinterpret_cast<float *>(levels + C);
    for (int64_t i = 0; i < padded; ++i) {
        if (i < n) scales[i] = quantize_row(row_in_f32(k, first + i, head, batch, copy), C, row_levels(C), levels);
        else std::fill_n(levels, C, int16_t(0)), scales[i] = 0;
        int16_t * to = panels + i / int16_panel * int16_panel * C + i % int16_panel * 2;
        for (int64_t c = 0; c < C; c += 2, to += 2 * int16_panel) std::memcpy(to, levels + c, 2 * sizeof(int16_t));
    }
}

// For the values of one head: what to multiply each channel by, and what its levels are worth, both filled up with zeros to whole panels.
void measure_values(const ggml_tensor * v, int64_t head, int64_t batch, float * inverse, float * scales) {
    const int64_t C = v->ne[0], padded = round_up(C, int16_panel);
    float * copy = scratch(6, size_t(2 * padded)), * broken = copy + padded;
    std::fill_n(scales, padded, 0.0f), std::fill_n(broken, padded, 0.0f);
    for (int64_t i = 0; i < v->ne[1]; ++i) {
        const float * row = row_in_f32(v, i, head, batch, copy);
        each(C, [&](int64_t c, int n) {
            const floats x = load_n(row + c, n);
            store_n(scales + c, larger(magnitude(x), load_n(scales + c, n)), n);
            store_n(broken + c, load_n(broken + c, n) + x * 0.0f, n);
        });
    }
    for (int64_t c = 0; c < padded; ++c) {
        const unit u(scales[c], broken[c] == 0, value_levels);
        inverse[c] = u.inverse, scales[c] = u.scale;
    }
}

// Values of one head, n keys from `first` on, as panels of 16 channels, [keys / 2][16][2]. Keys and channels are filled up with zeros.
void pack_values(const ggml_tensor * v, int64_t first, int64_t n, int64_t head, int64_t batch, const float * inverse, int16_t * panels) {
    const int64_t C = v->ne[0], padded = round_up(C, int16_panel), depth = round_up(n, 2);
    float * copies = scratch(6, size_t(2 * padded));
    std::fill_n(copies, 2 * padded, 0.0f);
    for (int64_t i = 0; i < depth; i += 2) {
        // both rows as whole panels
        for (int64_t r = 0; r < 2; ++r) {
            if (i + r < n) std::copy_n(row_in_f32(v, first + i + r, head, batch, copies + r * padded), C, copies + r * padded);
            else std::fill_n(copies + r * padded, C, 0.0f);
        }
        for (int64_t c = 0; c < padded; c += lanes) {
            const floats scale = load(inverse + c);
            const auto level = [&](const float * row) { return scale == 0.0f ? ints{} : whole(load(row + c) * scale); };
            const ints pairs = (level(copies) & 0xffff) | level(copies + padded) << 16;
            std::memcpy(panels + (c / int16_panel * depth + i) * int16_panel + c % int16_panel * 2, &pairs, sizeof pairs);
        }
    }
}

// 2^x for x up to 127, 0 below -126, NaN for NaN: relative error 3e-6, a polynomial fitted for this project by weighted least squares.
inline floats power_of_two(floats x) {
    const floats n = (x + rounding) - rounding, r = x - n;
    floats p = all(0.009570101967635261f);
    p = p * r + 0.05591786076153612f;
    p = p * r + 0.24024744830311234f;
    p = p * r + 0.6931218146828078f;
    p = p * r + 0.9999992614437772f;
    return x < -126.0f ? all(0.0f) : p * (floats) ((whole(n) + 127) << 23);
}

// Sums of products of a query by n keys in 32 bits, in place, to weights of the softmax, as s16 levels from the same place on: of every
// `span` keys relative to the largest score among them. Scores, and `highest`, are logarithms to base 2. `factors` take what a level of each
// span weighs; the factor for what was gathered before is returned.
float weigh(int32_t * sums, int64_t n, const float * key_scales, float scale, float & highest, float & total, float * factors) {
    float * scores = reinterpret_cast<float *>(sums);  // but for the scale
    int16_t * levels = reinterpret_cast<int16_t *>(sums);
    const int64_t spans = (n + span - 1) / span;
    float bases[std::max<int64_t>(keys_at_once / span, lanes)], now = highest;
    for (int64_t s = 0; s < spans; ++s) {
        floats most = all(-INFINITY);
        each(std::min(span, n - s * span), [&](int64_t j, int count) {
            ints x = {};
            std::memcpy(&x, sums + s * span + j, size_t(count) * sizeof(int32_t));
            const floats score = __builtin_convertvector(x, floats) * load_n(key_scales + s * span + j, count);
            store_n(scores + s * span + j, score, count);
            most = larger(padded_with(-INFINITY, score, count), most);
        });
        bases[s] = largest(most) * scale;
        now = std::max(now, bases[s]);
    }
    // where no score is a number all weights come to be NaN
    const floats change = power_of_two(all(now == -INFINITY ? 0.0f : highest - now));
    highest = now;
    total *= change[0];
    each(spans, [&](int64_t s, int count) { store_n(factors + s, power_of_two(load_n(bases + s, count) - (now + weight_bits)), count); });
    floats added = {};
    for (int64_t s = 0; s < spans; ++s) {
        const float base = bases[s] - weight_bits;
        floats of_span = {};
        each(std::min(span, n - s * span), [&](int64_t j, int count) {
            const floats e = power_of_two(load_n(scores + s * span + j, count) * scale - base) + rounding;
            const signed_shorts level = __builtin_convertvector((ints) e, signed_shorts);
            std::memcpy(levels + s * span + j, &level, size_t(count) * sizeof(int16_t));
            of_span += padded_with(0, e - rounding, count);
        });
        added += of_span * factors[s];
    }
    total += sum(added);
    if (n % 2 != 0) levels[n] = 0;
    return change[0];
}

} // namespace

bool int16_attention_takes(const ggml_tensor * op) {
    const ggml_tensor * q = op->src[0], * k = op->src[1], * mask = op->src[3];
    return mask == nullptr && (op->op_params[3] != GGML_PREC_F32 || op->op_params[param_levels] != 0) && q->ne[0] % 2 == 0 && k->ne[1] >= few_keys;
}

void int16_attention(const ggml_compute_params * p, ggml_tensor * op) {
    const ggml_tensor * q = op->src[0], * k = op->src[1], * v = op->src[2];
    float scale;
    std::memcpy(&scale, op->op_params, sizeof scale);
    const int64_t C = q->ne[0], Cv = v->ne[0], Nq = q->ne[1], Nk = k->ne[1], heads = q->ne[2], batch = q->ne[3];
    const int64_t share = heads / k->ne[2], width = round_up(Cv, int16_panel);

    // A piece is some queries of one head, in tiles: enough pieces for all threads, and few, as keys and values are packed for each. All of these
    // at once where they are few, else a block at a time, so that a thread holds some megabytes at the most.
    const int64_t tile = tile_of_queries(Nq, queries_at_once, heads * batch, p->nth), tiles = (Nq + tile - 1) / tile;
    const int64_t parts = std::min(tiles, std::max<int64_t>((Nq + queries_of_piece - 1) / queries_of_piece, 4 * p->nth / (heads * batch)));
    const int64_t most = std::min(Nq, (tiles + parts - 1) / parts * tile);  // queries of a piece
    const int64_t block = round_up(even(Nk, keys_at_once), span), spans = block / span;
    const int64_t stride = block + 16;  // of sums: no power of two, for the sake of the cache

    const int64_t all_keys = round_up(Nk, int16_panel), held = all_keys * (C + width) <= levels_held ? all_keys : block;

    int16_t * K = reinterpret_cast<int16_t *>(scratch(3, size_t(held * C / 2))), * V = reinterpret_cast<int16_t *>(scratch(4, size_t(held * width / 2)));
    int16_t * Q = reinterpret_cast<int16_t *>(scratch(7, size_t((most * C + 1) / 2)));
    float * key_scales = scratch(5, size_t(held + 2 * width)), * value_scales = key_scales + held, * inverse_scales = value_scales + width;
    float * gathered = scratch(1, size_t(most * width));
    int32_t * sums = reinterpret_cast<int32_t *>(scratch(0, size_t(tile * stride)));
    float * stats = scratch(2, size_t(3 * most + spans * tile)), * query_scales = stats, * highest = stats + most, * total = stats + 2 * most, * factors = stats + 3 * most;

    pieces work(p, int(parts * heads * batch));
    for (int piece; work.next(piece);) {
        const int64_t part = piece % parts, h = piece / parts % heads, b = piece / parts / heads;
        const int64_t first = tiles * part / parts * tile, n = std::min(Nq, tiles * (part + 1) / parts * tile) - first;
        for (int64_t i = 0; i < n; ++i) {
            fetch_ahead(q, first + i, h, b);
            query_scales[i] = scale * log2_e * quantize_row(at<const float>(q, first + i, h, b), C, row_levels(C), Q + i * C);
        }
        measure_values(v, h / share, b, inverse_scales, value_scales);
        std::fill_n(highest, n, -INFINITY);
        std::fill_n(total, n, 0.0f);
        std::fill_n(gathered, n * width, 0.0f);

        for (int64_t from = 0; from < Nk; from += held) {
            const int64_t packed = std::min(held, Nk - from);
            pack_keys(k, from, packed, h / share, b, K, key_scales);
            pack_values(v, from, packed, h / share, b, inverse_scales, V);
            for (int64_t start = 0; start < n; start += tile) {
                for (int64_t key = 0; key < packed; key += block) {
                    const int64_t rows = std::min(tile, n - start), keys = std::min(block, packed - key);
                    int16_multiply(rows, C, Q + start * C, C, K + key * C, int16_panel * C, round_up(keys, int16_panel) / int16_panel, sums, stride);
                    for (int64_t i = 0; i < rows; ++i) {
                        const int64_t r = start + i;
                        const float before = weigh(sums + i * stride, keys, key_scales + key, query_scales[r], highest[r], total[r], factors + i * spans);
                        if (before == 1) continue;
                        float * o = gathered + r * width;
                        each(width, [&](int64_t c, int count) { store_n(o + c, load_n(o + c, count) * before, count); });
                    }
                    const int16_t * levels = reinterpret_cast<const int16_t *>(sums);
                    for (int64_t j = 0; j < keys; j += span) {
                        int16_add_weighted(rows, round_up(std::min(span, keys - j), 2), levels + j, 2 * stride, V + (key + j) * int16_panel,
                                           round_up(packed, 2) * int16_panel, width / int16_panel, factors + j / span, spans, gathered + start * width, width);
                    }
                }
            }
        }
        for (int64_t i = 0; i < n; ++i) {
            float * out = at<float>(op, h, first + i, b);  // {Cv, heads, Nq, batch}
            const float * o = gathered + i * width, inverse = 1 / total[i];
            each(Cv, [&](int64_t c, int count) { store_n(out + c, load_n(o + c, count) * (load_n(value_scales + c, count) * inverse), count); });
        }
    }
}

} // namespace ub::accel
