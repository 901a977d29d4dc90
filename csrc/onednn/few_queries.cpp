// few_queries.cpp: FLASH_ATTN_EXT of a few queries, as when a token is decoded. Its time is that of reading keys and values, so each is
// read once, for all queries and all heads that share it: these lie side by side in the lanes of a vector, scores as [keys, lanes].
//
// Threads take spans of the keys. Of each span and query they keep the softmax so far and the weighted sum of values; the whole is
// sum(e^(highest_s - highest) sum_s) / sum(e^(highest_s - highest) total_s) over spans s (Dao et al. 2023, "Flash-Decoding").

#include "onednn/attention.h"
#include "onednn/kernels.h"
#include "onednn/vector.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

namespace ub::accel {

using namespace onednn;

namespace {

constexpr int64_t most_queries = 16;  // with more the tiles of attention.cpp are faster
constexpr int64_t keys_at_once = 64, fetched_ahead = 16;

// How an operation is cut. A row is a query of one head; those of heads that share keys follow each other and make groups of `lanes`, the
// last of which may be smaller. Widths are of rows padded to whole vectors.
struct cut {
    int64_t share, groups, width, value_width, span, spans;

    cut(const ggml_tensor * op, int n_threads) {
        const ggml_tensor * q = op->src[0], * k = op->src[1], * v = op->src[2];
        share       = q->ne[1] * (q->ne[2] / k->ne[2]);
        groups      = k->ne[2] * ((share + lanes - 1) / lanes);
        width       = round_up(k->ne[0], lanes);
        value_width = round_up(v->ne[0], lanes);
        // two spans a thread, so that those whose last keys are masked do not leave threads idle
        const int64_t wanted = n_threads == 1 ? 1 : 2 * n_threads;
        span  = round_up((k->ne[1] + wanted - 1) / wanted, keys_at_once);
        spans = (k->ne[1] + span - 1) / span;
    }

    // Floats that are kept of a span and group: the largest scores [lanes], the sums of weights [lanes], weighted sums of values
    // [lanes, value_width].
    int64_t kept() const { return lanes * (2 + value_width); }
};

// Rows of one head's keys or values: f32 or f16 where they lie, or f32 of `width` each.
struct rows_of {
    const char * data;
    size_t       stride;  // bytes

    rows_of(const ggml_tensor * t, int64_t first, int64_t n, int64_t head, int64_t batch, int64_t width, int slot) {
        if (lies_well(t)) {
            data   = at<const char>(t, first, head, batch);
            stride = t->nb[1];
            return;
        }
        float * to = scratch(slot, size_t(keys_at_once * width));
        for (int64_t i = 0; i < n; ++i) {
            widen(t, first + i, head, batch, to + i * width);
            std::fill(to + i * width + t->ne[0], to + (i + 1) * width, 0.0f);
        }
        data   = reinterpret_cast<const char *>(to);
        stride = size_t(width) * sizeof(float);
    }

    static bool lies_well(const ggml_tensor * t) { return (t->type == GGML_TYPE_F32 || t->type == GGML_TYPE_F16) && t->ne[0] % lanes == 0; }
    static bool is_f16(const ggml_tensor * t) { return t->type == GGML_TYPE_F16 && lies_well(t); }

    template <class T> const T * row(int64_t i) const { return reinterpret_cast<const T *>(data + size_t(i) * stride); }
};

// Scores [n, lanes] of n keys and R queries [R, width]. Meanwhile their values come from memory, and the keys after them.
template <int R, class T> void scores_of(const float * queries, const rows_of & keys, const rows_of & values, int64_t n, int64_t width, float * scores) {
    for (int64_t j = 0; j < n; ++j) {
        const T * key = keys.row<T>(j);
        fetch(keys.row<char>(j + fetched_ahead), size_t(width) * sizeof(T));
        fetch(values.row<char>(j), size_t(width) * sizeof(T));
        floats s[lanes] = {};
        for (int64_t c = 0; c < width; c += lanes) {
            const floats x = load(key + c);
            for (int r = 0; r < R; ++r) s[r] += x * load(queries + r * width + c);
        }
        store(scores + j * lanes, sums(s));
    }
}

// Scales R sums [R, width] by their factors [R], and adds n values by their weights [n, lanes].
template <int R, class T> void add_values(const float * weights, const rows_of & values, int64_t n, int64_t width, const float * factors, float * to) {
    for (int64_t c = 0; c < width; c += lanes) {
        floats s[R];
        for (int r = 0; r < R; ++r) s[r] = load(to + r * width + c) * factors[r];
        for (int64_t j = 0; j < n; ++j) {
            const floats x = load(values.row<T>(j) + c);
            for (int r = 0; r < R; ++r) s[r] += all(weights[j * lanes + r]) * x;
        }
        for (int r = 0; r < R; ++r) store(to + r * width + c, s[r]);
    }
}

// f(n, T) with n, 1 to R, as std::integral_constant and the type of rows.
template <int R = lanes, class F> void with_types(int64_t n, bool f16, F && f) {
    if (n == R) f16 ? f(std::integral_constant<int, R>(), ggml_fp16_t()) : f(std::integral_constant<int, R>(), float());
    else if constexpr (R > 1) with_types<R - 1>(n, f16, f);
}

// Softmaxes so far of a group; see attention.cpp.
struct running {
    floats highest = all(-INFINITY), total = {};

    // Turns scores [n, lanes] into weights e^(score * scale + bias(j) - highest). Returns what to scale by what was gathered with weights
    // of before.
    template <class F> floats add(float * scores, int64_t n, float scale, F && bias) {
        floats now = highest;
        for (int64_t j = 0; j < n; ++j) {
            const floats x = load(scores + j * lanes) * scale + bias(j);
            store(scores + j * lanes, x);
            now = larger(x, now);
        }
        // with nothing to see so far all scores are minus infinity, or NaN
        const ints nothing = now == -INFINITY;
        const floats factor = nothing ? all(1) : onednn::exp(highest - now), base = nothing ? all(0) : now;
        highest = now;
        total *= factor;
        for (int64_t j = 0; j < n; ++j) {
            const floats e = onednn::exp(load(scores + j * lanes) - base);
            store(scores + j * lanes, e);
            total += e;
        }
        return factor;
    }
};

} // namespace

bool few_queries(const ggml_tensor * op) {
    const ggml_tensor * q = op->src[0], * k = op->src[1], * mask = op->src[3];
    return q->ne[1] <= most_queries && (k->type != GGML_TYPE_F32 || q->ne[2] > k->ne[2]) && (mask == nullptr || mask->ne[2] == 1);
}

size_t few_queries_work(const ggml_tensor * op, int n_threads) {
    const cut c(op, n_threads);
    return size_t(op->src[0]->ne[3] * c.spans * c.groups * c.kept()) * sizeof(float);
}

void few_queries_attention(const ggml_compute_params * p, ggml_tensor * op) {
    const ggml_tensor * q = op->src[0], * k = op->src[1], * v = op->src[2], * mask = op->src[3];
    float scale;
    std::memcpy(&scale, op->op_params, sizeof scale);
    const cut c(op, p->nth);
    const int64_t Nq = q->ne[1], Nk = k->ne[1], batch = q->ne[3], groups_of_head = c.groups / k->ne[2];
    float * const kept = static_cast<float *>(p->wdata);

    float * queries = scratch(0, size_t(q->ne[2] * Nq * c.width)), * scores = scratch(1, size_t(keys_at_once * lanes));
    float * bias = scratch(2, size_t(Nq * keys_at_once));
    running * softmax = reinterpret_cast<running *>(scratch(3, size_t(c.groups) * sizeof(running) / sizeof(float)));

    pieces work(p, int(batch * c.spans));
    for (int piece; work.next(piece);) {
        const int64_t s = piece % c.spans, b = piece / c.spans;
        float * const mine = kept + piece * c.groups * c.kept();
        std::fill_n(mine, c.groups * c.kept(), 0.0f);
        std::fill_n(softmax, c.groups, running());
        for (int64_t r = 0; r < q->ne[2] * Nq; ++r) {
            widen(q, r % Nq, r / Nq, b, queries + r * c.width);
            std::fill(queries + r * c.width + q->ne[0], queries + (r + 1) * c.width, 0.0f);
        }

        for (int64_t key = s * c.span; key < std::min(Nk, (s + 1) * c.span); key += keys_at_once) {
            const int64_t n = std::min(keys_at_once, Nk - key);
            bool open = mask == nullptr;  // does any query see any of these keys?
            for (int64_t i = 0; i < Nq && mask != nullptr; ++i) {
                const ggml_fp16_t * row = at<const ggml_fp16_t>(mask, i, 0, b % mask->ne[3]) + key;
                open = open || sees_any(row, n);
                ggml_cpu_fp16_to_fp32(row, bias + i * keys_at_once, n);
            }
            if (!open) continue;
            for (int64_t h = 0; h < k->ne[2]; ++h) {  // inside, as the heads of a position lie side by side
                const rows_of keys(k, key, n, h, b, c.width, 4), values(v, key, n, h, b, c.value_width, 5);
                for (int64_t first = 0; first < c.share; first += lanes) {
                    const int64_t g = h * groups_of_head + first / lanes, rows = std::min<int64_t>(lanes, c.share - first);
                    with_types(rows, rows_of::is_f16(k), [&](auto R, auto type) {
                        scores_of<R, decltype(type)>(queries + (h * c.share + first) * c.width, keys, values, n, c.width, scores);
                    });
                    const floats factors = softmax[g].add(scores, n, scale, [&](int64_t j) {
                        floats x = all(mask != nullptr ? bias[j] : 0);
                        for (int64_t r = 0; r < rows && Nq > 1 && mask != nullptr; ++r) x[r] = bias[(first + r) % Nq * keys_at_once + j];
                        return x;
                    });
                    with_types(rows, rows_of::is_f16(v), [&](auto R, auto type) {
                        float f[lanes];
                        store(f, factors);
                        add_values<R, decltype(type)>(scores, values, n, c.value_width, f, mine + g * c.kept() + 2 * lanes);
                    });
                }
            }
        }
        for (int64_t g = 0; g < c.groups; ++g) {
            store(mine + g * c.kept(), softmax[g].highest);
            store(mine + g * c.kept() + lanes, softmax[g].total);
        }
    }
    ggml_barrier(p->threadpool);

    const int64_t rows = batch * q->ne[2] * Nq;
    for (int64_t i = rows * p->ith / p->nth; i < rows * (p->ith + 1) / p->nth; ++i) {
        const int64_t b = i / (q->ne[2] * Nq), r = i % (q->ne[2] * Nq), lane = r % c.share % lanes;
        const int64_t g = r / c.share * groups_of_head + r % c.share / lanes;
        auto part = [&](int64_t s) { return kept + ((b * c.spans + s) * c.groups + g) * c.kept(); };
        float highest = -INFINITY, total = 0;
        for (int64_t s = 0; s < c.spans; ++s) highest = std::max(highest, part(s)[lane]);
        float * out = at<float>(op, r / Nq, r % Nq, b);  // {Cv, heads, Nq, batch}
        std::fill_n(out, v->ne[0], 0.0f);                // what a query gets that sees no key
        for (int64_t s = 0; s < c.spans; ++s) {
            const float own = part(s)[lanes + lane], * x = part(s) + 2 * lanes + lane * c.value_width;
            if (own == 0) continue;
            const float weight = std::exp(part(s)[lane] - highest);
            total += weight * own;
            each(v->ne[0], [&](int64_t j, int n) { store_n(out + j, load_n(out + j, n) + load_n(x + j, n) * weight, n); });
        }
        if (total != 0) each(v->ne[0], [&](int64_t j, int n) { store_n(out + j, load_n(out + j, n) * (1 / total), n); });
    }
}

} // namespace ub::accel
