// int8.cpp: MUL_MAT with q8_0 weights in int8.
//
// Weights are s8 with one scale an output channel. Rows of activations have one scale a row: u8 around 128 where the processor
// has dot products of 8 bits (oneDNN's products), else s16 (int16.cpp). A few input channels far larger than the rest, as
// transformers have, would leave the rest of their row no digits: they are taken out of the row and multiplied in f32. Their
// weights come out of the packed form by a product with unit rows.
//
// A few rows, as in decoding, cost what it takes to read the weights, however many are multiplied. So each goes as two: its
// levels, and on a finer scale what rounding took away. Large channels then leave digits for the rest.

#include "onednn/kernels.h"
#include "onednn/library.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace ub::accel {

using namespace onednn;

namespace {

constexpr int64_t max_outliers = 32;     // input channels in f32
constexpr int64_t rows_at_once = 128;    // of a product, so that its s32 result stays in the L2 cache
constexpr int64_t few = 4;               // rows that go as two each, and that every thread quantizes by itself: cheaper than waiting

// The two kinds of rows. k is a multiple of 64, rows lie k apart, those of C a multiple of 16.
size_t row_bytes(int64_t k) { return wide_rows() ? 2 * size_t(k) : size_t(k); }

// The largest magnitude of a row's levels; a row of 8 bits holds it around 128.
float highest_level(int64_t k) { return wide_rows() ? int16_highest(k) : 127; }

size_t block_bytes(int64_t k, int64_t n) { return wide_rows() ? int16_packed_size(k, n) : packed_size(numbers::u8s8, int32_t(k), int32_t(n)); }

void pack_block(int64_t k, int64_t n, const int8_t * rows, void * packed) {
    wide_rows() ? int16_pack(k, n, rows, packed) : pack(numbers::u8s8, int32_t(k), int32_t(n), rows, packed);
}

void multiply_block(int64_t m, int64_t n, int64_t k, const void * rows, const void * packed, int32_t * C) {
    const int64_t c = round_up(n, 16);
    if (wide_rows()) int16_multiply(m, n, k, static_cast<const int16_t *>(rows), k, packed, C, c);
    else multiply({numbers::u8s8, product::packed, false, int32_t(m), int32_t(n), int32_t(k), k, 0, c}, rows, packed, C);
}

// Output channels are packed in blocks of this many; the last may be smaller.
int64_t block_size(int64_t N) { return std::min(N, round_up((N + std::max<int64_t>(1, N / 128) - 1) / std::max<int64_t>(1, N / 128), 64)); }

// Packed weights: scales [N], what to take off a channel's sums [N], blocks. Channels are padded with zeros to `depth`
// values, a multiple of 64: rows of activations then begin at cache lines, which AMX loads three times as fast.
struct packed {
    int64_t K, N, depth, size, last, bytes, last_bytes, offset;
    char *  data;

    packed(int64_t K, int64_t N, void * data) : K(K), N(N), depth(round_up(K, 64)), size(block_size(N)), data(static_cast<char *>(data)) {
        last       = N - (blocks() - 1) * size;
        bytes      = round_up(int64_t(block_bytes(depth, size)), 64);
        last_bytes = last == size ? bytes : round_up(int64_t(block_bytes(depth, last)), 64);
        offset     = round_up(N * 8, 64);
    }
    int64_t   blocks() const { return (N + size - 1) / size; }
    int64_t   total() const { return offset + (blocks() - 1) * bytes + last_bytes; }
    float *   scales() const { return reinterpret_cast<float *>(data); }
    int32_t * offsets() const { return reinterpret_cast<int32_t *>(data) + N; }
    char *    block(int64_t i) const { return data + offset + i * bytes; }
    int64_t   channels(int64_t i) const { return i + 1 < blocks() ? size : last; }
};

// Sizes of packed forms are asked for again and again, for a few shapes.
packed packed_form(int64_t K, int64_t N, void * data) {
    static thread_local std::vector<packed> known;
    for (packed p : known) {
        if (p.K == K && p.N == N) {
            p.data = static_cast<char *>(data);
            return p;
        }
    }
    known.emplace_back(K, N, nullptr);
    packed p = known.back();
    p.data = static_cast<char *>(data);
    return p;
}

// One channel in q8_0, a scale for every 32 values, to s8 with one scale: values to `to`, and what u8 rows
// around 128 add to a sum. `scales` is for work.
void requantize(const char * q8_0, std::vector<float> & scales, int8_t * to, float & scale, int32_t & offset) {
    constexpr int64_t n = 32;
    const size_t step = ggml_type_size(GGML_TYPE_Q8_0);
    float amax = 0, broken = 0;  // NaN for a scale of NaN or infinity
    for (size_t b = 0; b < scales.size(); ++b) {
        ggml_fp16_t d;
        std::memcpy(&d, q8_0 + b * step, sizeof(d));
        const int8_t * q = reinterpret_cast<const int8_t *>(q8_0 + b * step + sizeof(d));
        uint8_t most = 0;  // in bytes throughout, which is a quarter of the work
        for (int64_t k = 0; k < n; ++k) most = std::max(most, uint8_t(q[k] < 0 ? -q[k] : q[k]));
        scales[b] = ggml_fp16_to_fp32(d);
        amax      = std::max(amax, float(most) * std::abs(scales[b]));
        broken += 0 * scales[b];
    }
    const float inverse = amax > 0 ? 127 / amax : 0;
    const bool wide = wide_rows();
    int32_t total = 0;
    for (size_t b = 0; b < scales.size(); ++b) {
        const int8_t * q = reinterpret_cast<const int8_t *>(q8_0 + b * step + sizeof(ggml_fp16_t));
        const float factor = scales[b] * inverse;
        int8_t * values = to + int64_t(b) * n;
        for (int64_t k = 0; k < n; ++k) values[k] = int8_t(int32_t(float(q[k]) * factor + rounding - rounding));
        if (!wide) for (int64_t k = 0; k < n; ++k) total += values[k];
    }
    scale  = amax / 127 + broken;
    offset = wide ? 0 : 128 * total;
}

} // namespace

size_t int8_size(int64_t k, int64_t n) { return size_t(packed_form(k, n, nullptr).total()); }

void int8_pack(const ggml_tensor * w, const void * q8_0, int n_threads) {
    const packed out = packed_form(w->ne[0], w->ne[1], w->data);
    const int64_t K = out.K;
    const size_t row = ggml_row_size(w->type, K);
    std::atomic<int64_t> next{0};
    std::exception_ptr failed;
    std::mutex failing;
    auto rows_of_blocks = [&] {
        onednn::one_thread  held;
        std::vector<float>  scales(size_t(K / ggml_blck_size(w->type)));
        std::vector<int8_t> rows(size_t(out.size * out.depth));
        for (int64_t b; (b = next++) < out.blocks();) {
            for (int64_t i = 0; i < out.channels(b); ++i) {
                const int64_t channel = b * out.size + i;
                requantize(static_cast<const char *>(q8_0) + size_t(channel) * row, scales, rows.data() + i * out.depth, out.scales()[channel],
                           out.offsets()[channel]);
            }
            pack_block(out.depth, out.channels(b), rows.data(), out.block(b));
        }
    };
    auto work = [&] {
        try {
            rows_of_blocks();
        } catch (...) {
            std::lock_guard<std::mutex> lock(failing);
            failed = std::current_exception();
        }
    };
    std::vector<std::thread> pool;
    for (int i = 1; i < n_threads; ++i) {
        try { pool.emplace_back(work); } catch (const std::system_error &) { break; }  // fewer threads do it as well
    }
    work();
    for (auto & th : pool) th.join();
    if (failed) std::rethrow_exception(failed);
}

namespace {

// Rows of activations, quantized, in memory that is given.
struct activations {
    int64_t   rows, K, depth;  // K as packed weights have it
    char *    q;          // [rows, depth], u8 or s16
    char *    units;      // [max_outliers, depth], row i is 1 at the i-th outlier
    float *   scale;      // [rows]
    float *   large;      // [rows, max_outliers], the values of the outliers
    float *   highest;    // [threads, K], the largest magnitude of each channel

    static size_t bytes(int64_t rows, int64_t K, int threads) {
        return size_t(rows + max_outliers) * row_bytes(round_up(K, 64)) + size_t(round_up(rows * 4, 64) + rows * max_outliers * 4 + round_up(threads * K * 4, 64) + 64);
    }
    activations(int64_t rows, int64_t K, void * memory) : rows(rows), K(K), depth(round_up(K, 64)) {
        char * at = static_cast<char *>(memory);
        at += (64 - reinterpret_cast<uintptr_t>(at) % 64) % 64;
        q       = at;
        units   = row(rows);
        scale   = reinterpret_cast<float *>(row(rows + max_outliers));
        large   = scale + round_up(rows * 4, 64) / 4;
        highest = large + rows * max_outliers;
    }
    char * row(int64_t r) const { return q + size_t(r) * row_bytes(depth); }
};

void measure(const ggml_tensor * x, int64_t from, int64_t to, float * highest) {
    const int64_t K = x->ne[0];
    std::fill_n(highest, K, 0.0f);
    for (int64_t r = from; r < to; ++r) {
        const float * in = row_of<const float>(x, r);
        each(K, [&](int64_t k, int n) { store_n(highest + k, larger(magnitude(load_n(in + k, n)), load_n(highest + k, n)), n); });
    }
}

// Channels whose largest magnitude is far above the median one, in ascending order.
int find_outliers(const float * highest, int64_t K, int64_t rows, int * columns) {
    static thread_local std::vector<float> sorted;
    sorted.assign(highest, highest + K);
    std::nth_element(sorted.begin(), sorted.begin() + K / 2, sorted.end());
    // The largest of a few values is above the median by chance. 16 bits have room for much more: 128 levels up to the median are
    // as many as in a row of 8 bits without outliers.
    float limit = sorted[size_t(K / 2)] * std::max(rows >= 16 ? 4.0f : 8.0f, highest_level(round_up(K, 64)) / 128);
    if (!(limit > 0)) return 0;
    if (std::count_if(highest, highest + K, [&](float v) { return v > limit; }) > max_outliers) {
        std::nth_element(sorted.begin(), sorted.end() - 1 - max_outliers, sorted.end());
        limit = std::max(limit, sorted[size_t(K - 1 - max_outliers)]);
    }
    int n = 0;
    for (int64_t k = 0; k < K && n < max_outliers; ++k) {
        if (highest[k] > limit) columns[n++] = int(k);
    }
    return n;
}

// One row of K values to `depth` levels; returns the scale, NaN where a value is not finite. `finer`, unless it is null, takes what
// rounding left, and its scale is finer_scale() of the row's.
float quantize_row(const float * in, int64_t K, int64_t depth, char * to, char * finer) {
    const float levels = highest_level(depth);
    const unit u = unit_of(in, K, levels);
    const bool sound = u.inverse != 0;
    const auto write = [&](auto * q, auto * rest, auto rounded, float zero) {  // rounded: a vector of what q is
        using number = std::decay_t<decltype(*q)>;
        const int64_t from = sound ? K : 0;
        std::fill(q + from, q + depth, number(zero));
        if (rest != nullptr) std::fill(rest + from, rest + depth, number(zero));
        if (!sound) return;
        const auto put = [&](number * at, floats v, int n) {
            const ints whole = (ints) (v + (rounding + zero)) - 0x4b400000;
            rounded = __builtin_convertvector(whole, decltype(rounded));
            std::memcpy(at, &rounded, size_t(n) * sizeof(number));
            return __builtin_convertvector(whole, floats) - zero;
        };
        each(K, [&](int64_t k, int n) {
            const floats v = load_n(in + k, n) * u.inverse, level = put(q + k, v, n);
            if (rest != nullptr) put(rest + k, (v - level) * (2 * levels), n);
        });
    };
    if (wide_rows()) write(reinterpret_cast<int16_t *>(to), reinterpret_cast<int16_t *>(finer), signed_shorts{}, 0);
    else write(reinterpret_cast<uint8_t *>(to), reinterpret_cast<uint8_t *>(finer), bytes{}, 128);
    return u.scale;
}

float finer_scale(float scale, int64_t depth) { return scale / (2 * highest_level(depth)); }

void quantize(const ggml_tensor * x, int64_t from, int64_t to, const int * columns, int n_columns, const activations & a) {
    const int64_t K = a.K;
    float * row = scratch(0, size_t(K));
    for (int64_t r = from; r < to; ++r) {
        const float * in = row_of<const float>(x, r);
        if (n_columns > 0) {
            std::copy_n(in, K, row);
            for (int i = 0; i < n_columns; ++i) {
                a.large[r * max_outliers + i] = row[columns[i]];
                row[columns[i]] = 0;
            }
            in = row;
        }
        a.scale[r] = quantize_row(in, K, a.depth, a.row(r), nullptr);
    }
}

// Unit rows of the outliers [from, to), and zeros up to a multiple of eight.
void make_units(const activations & a, const int * columns, int n_columns, int from, int to) {
    for (int i = from; i < to; ++i) {
        char * unit = a.row(a.rows + i);
        std::memset(unit, 0, row_bytes(a.depth));
        if (i < n_columns) unit[row_bytes(columns[i])] = 1;  // little-endian
    }
}

// Weights of the outliers in a block, [n_columns, channels] in `weights`.
void outlier_weights(const packed & w, int64_t b, const activations & a, int n_columns, float * weights) {
    const int64_t n = w.channels(b), stride = round_up(n, 16), rows = round_up(n_columns, 8);
    int32_t * values = reinterpret_cast<int32_t *>(scratch(1, size_t(max_outliers * round_up(w.size, 16))));
    multiply_block(rows, n, a.depth, a.units, w.block(b), values);
    for (int64_t i = 0; i < n_columns; ++i) {
        const float * scale = w.scales() + b * w.size;
        for (int64_t k = 0; k < n; ++k) weights[i * n + k] = float(values[i * stride + k]) * scale[k];
    }
}

// One row of a block: s32 sums to f32, with the outliers and the epilogue.
void rescale(const packed & w, int64_t b, const int32_t * sums, float row_scale, const float * large, const float * weights, int n_columns,
             const ending & end, float * out) {
    const int64_t n = w.channels(b);
    const float * scale = w.scales() + b * w.size;
    const int32_t * offset = w.offsets() + b * w.size;
    auto value = [&](int64_t i, int count) {
        ints s = {}, o = {};
        std::memcpy(&s, sums + i, size_t(count) * sizeof(int32_t));
        std::memcpy(&o, offset + i, size_t(count) * sizeof(int32_t));
        return __builtin_convertvector(s - o, floats) * (load_n(scale + i, count) * row_scale);
    };
    int64_t i = 0;
    for (; i + 4 * lanes <= n; i += 4 * lanes) {  // four at a time share the outlier's value
        floats v0 = value(i, lanes), v1 = value(i + lanes, lanes), v2 = value(i + 2 * lanes, lanes), v3 = value(i + 3 * lanes, lanes);
        for (int k = 0; k < n_columns; ++k) {
            const float x = large[k];
            const float * row = weights + k * n + i;
            v0 += x * load(row);
            v1 += x * load(row + lanes);
            v2 += x * load(row + 2 * lanes);
            v3 += x * load(row + 3 * lanes);
        }
        store(out + i, end(v0, i, lanes));
        store(out + i + lanes, end(v1, i + lanes, lanes));
        store(out + i + 2 * lanes, end(v2, i + 2 * lanes, lanes));
        store(out + i + 3 * lanes, end(v3, i + 3 * lanes, lanes));
    }
    each(n - i, [&](int64_t j, int count) {
        floats v = value(i + j, count);
        for (int k = 0; k < n_columns; ++k) v += large[k] * load_n(weights + k * n + i + j, count);
        store_n(out + i + j, end(v, i + j, count), count);
    });
}

// Rows [first, first + count) of a block of output channels.
void block_of_rows(const ggml_tensor * op, const packed & w, int64_t b, const activations & a, int n_columns, int64_t first, int64_t count) {
    const int64_t n = w.channels(b);
    float * weights = scratch(2, size_t(max_outliers * w.size));
    if (n_columns > 0) outlier_weights(w, b, a, n_columns, weights);
    const int64_t stride = round_up(n, 16);
    int32_t * sums = reinterpret_cast<int32_t *>(scratch(3, size_t(rows_at_once * round_up(w.size, 16))));
    for (int64_t r = first; r < first + count; r += rows_at_once) {
        const int64_t m = std::min(rows_at_once, first + count - r);
        multiply_block(m, n, a.depth, a.row(r), w.block(b), sums);
        for (int64_t i = r; i < r + m; ++i) {
            rescale(w, b, sums + (i - r) * stride, a.scale[i], a.large + i * max_outliers, weights, n_columns, ending(op, b * w.size, i), row_of<float>(op, i) + b * w.size);
        }
    }
}

// Rows of x, `few` at most, by the blocks of output channels [from, to).
void few_rows(const ggml_tensor * op, const packed & w, int64_t from, int64_t to) {
    const ggml_tensor * x = op->src[1];
    const int64_t rows = ggml_nrows(x);
    const size_t bytes = row_bytes(w.depth);
    char * q = reinterpret_cast<char *>(scratch(4, 2 * few * bytes / sizeof(float)));
    float coarse[few], fine[few];
    for (int64_t r = 0; r < rows; ++r) {
        coarse[r] = quantize_row(row_of<const float>(x, r), w.K, w.depth, q + 2 * r * bytes, q + (2 * r + 1) * bytes);
        fine[r] = finer_scale(coarse[r], w.depth);
    }
    int32_t * sums = reinterpret_cast<int32_t *>(scratch(3, size_t(2 * few * round_up(w.size, 16))));
    for (int64_t b = from; b < to; ++b) {
        const int64_t n = w.channels(b), stride = round_up(n, 16);
        multiply_block(2 * rows, n, w.depth, q, w.block(b), sums);
        const float * scale = w.scales() + b * w.size;
        const int32_t * offset = w.offsets() + b * w.size;
        for (int64_t r = 0; r < rows; ++r) {
            const ending end(op, b * w.size, r);
            float * out = row_of<float>(op, r) + b * w.size;
            each(n, [&](int64_t i, int count) {
                ints s = {}, rest = {}, o = {};
                std::memcpy(&s, sums + 2 * r * stride + i, size_t(count) * sizeof(int32_t));
                std::memcpy(&rest, sums + (2 * r + 1) * stride + i, size_t(count) * sizeof(int32_t));
                std::memcpy(&o, offset + i, size_t(count) * sizeof(int32_t));
                const floats v = __builtin_convertvector(s - o, floats) * coarse[r] + __builtin_convertvector(rest - o, floats) * fine[r];
                store_n(out + i, end(v * load_n(scale + i, count), i, count), count);
            });
        }
    }
}

} // namespace

size_t int8_work(const ggml_tensor * op, int n_threads) {
    const int64_t rows = ggml_nrows(op->src[1]);
    return rows <= few ? 0 : activations::bytes(rows, op->src[0]->ne[0], n_threads);
}

void int8_mul_mat(const ggml_compute_params * p, ggml_tensor * op) {
    const ggml_tensor * x = op->src[1];
    const int64_t rows = ggml_nrows(x), K = x->ne[0];
    const packed w = packed_form(K, op->src[0]->ne[1], op->src[0]->data);

    if (rows <= few) {
        few_rows(op, w, w.blocks() * p->ith / p->nth, w.blocks() * (p->ith + 1) / p->nth);
        return;
    }

    int columns[max_outliers], n_columns;
    const activations a(rows, K, p->wdata);
    const int64_t from = rows * p->ith / p->nth, to = rows * (p->ith + 1) / p->nth;
    measure(x, from, to, a.highest + p->ith * K);
    ggml_barrier(p->threadpool);
    float * highest = scratch(5, size_t(K));
    std::fill_n(highest, K, 0.0f);
    for (int t = 0; t < p->nth; ++t) {
        const float * other = a.highest + t * K;
        each(K, [&](int64_t k, int n) { store_n(highest + k, larger(load_n(other + k, n), load_n(highest + k, n)), n); });
    }
    n_columns = find_outliers(highest, K, rows, columns);
    quantize(x, from, to, columns, n_columns, a);
    const int n_units = int(round_up(n_columns, 8));
    make_units(a, columns, n_columns, n_units * p->ith / p->nth, n_units * (p->ith + 1) / p->nth);

    // pieces: a block of output channels for so many rows that these stay in the cache while the block's rows run
    int64_t step = std::clamp<int64_t>((int64_t(1) << 20) / K / rows_at_once * rows_at_once, rows_at_once, 1024);
    while (step > rows_at_once && w.blocks() * ((rows + step - 1) / step) < 4 * p->nth) step /= 2;
    const int64_t parts = (rows + step - 1) / step;
    pieces work(p, int(w.blocks() * parts));  // waits until all rows are quantized
    for (int i; work.next(i);) {
        const int64_t part = i / w.blocks(), b = i % w.blocks();
        block_of_rows(op, w, b, a, n_columns, part * step, std::min(step, rows - part * step));
    }
}

} // namespace ub::accel
