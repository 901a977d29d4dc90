// kernels.h: what accel.cpp hands to ggml: each kernel runs its thread's share of one operation.

#pragma once

#include "onednn/vector.h"

#include "ggml-cpu-impl.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace ub::accel {

// Flags and sources beyond ggml's own: those of MUL_MAT as fuse() puts them, that of FLASH_ATTN_EXT as allow_levels() does.
constexpr int src_bias = 2, src_scale = 3, src_residual = 4;
constexpr int param_gelu = 8, param_levels = 9;  // indices in op_params

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Pieces of work numbered from 0, taken by whichever thread is free. All threads make one, with the same number.
class pieces {
  public:
    pieces(const ggml_compute_params * p, int count);
    bool next(int & piece);

  private:
    const ggml_compute_params * p;
    int count, at;
};

// int8.cpp
size_t int8_size(int64_t k, int64_t n);                      // bytes of packed weights
void   int8_pack(const ggml_tensor * w, const void * q8_0, int n_threads);  // to w->data, from the file's blocks; blocks are shared out to the threads
size_t int8_work(const ggml_tensor * op, int n_threads);
void   int8_mul_mat(const ggml_compute_params * p, ggml_tensor * op);

// int16.cpp: C[m, n] = A[m, k] B[k, n] of s16 rows by packed s8 weights, k a multiple of 16, rows a and c elements apart. C is written up to
// a multiple of 16 columns.
bool   int16_available();
size_t int16_packed_size(int64_t k, int64_t n);
void   int16_pack(int64_t k, int64_t n, const int8_t * rows, void * packed);
void   int16_multiply(int64_t m, int64_t n, int64_t k, const int16_t * A, int64_t a, const void * packed, int32_t * C, int64_t c);
// C[m, 16 n] = A[m, k] by n panels of s16, [k / 2][16][2] each, `apart` from each other, k even. And C[m, 16 n] += factors[m] * that, in f32;
// factors lie f apart.
constexpr int64_t int16_panel = 16;
void   int16_multiply(int64_t m, int64_t k, const int16_t * A, int64_t a, const int16_t * panel, int64_t apart, int64_t n, int32_t * C, int64_t c);
void   int16_add_weighted(int64_t m, int64_t k, const int16_t * A, int64_t a, const int16_t * panel, int64_t apart, int64_t n, const float * factors, int64_t f,
                          float * C, int64_t c);
bool   int16_is_wide();  // these two take registers of 512 bits
// The largest magnitude of an element of A with which k products by 127 fit s32.
inline float int16_highest(int64_t k) { return float(std::min<int64_t>(INT16_MAX, INT32_MAX / (127 * k))); }

// Values to whole levels: what to multiply by for the largest magnitude to become `levels`, and what a level is worth, NaN where a value is not
// finite. Levels are zeros where `inverse` is 0: for such values, for zeros, and for magnitudes so small that it would overflow.
struct unit {
    float inverse, scale;

    unit(float amax, bool finite, float levels)
        : inverse(amax > 0 ? levels / amax : 0), scale(finite ? amax / levels : std::numeric_limits<float>::quiet_NaN()) {
        if (!finite || !std::isfinite(inverse)) inverse = 0;
    }
};
inline unit unit_of(const float * values, int64_t n, float levels) {
    onednn::floats most = {}, broken = {};
    onednn::each(n, [&](int64_t i, int count) {
        const onednn::floats v = onednn::load_n(values + i, count);
        most = onednn::larger(onednn::magnitude(v), most);
        broken += v * 0.0f;  // NaN for NaN and infinity
    });
    return unit(onednn::largest(most), onednn::sum(broken) == 0, levels);
}

// accel.cpp: whether int8 takes rows of activations in 16 bits.
bool   wide_rows();

// products.cpp
bool   f32_takes(const ggml_tensor * op);
void   f32_mul_mat(const ggml_compute_params * p, ggml_tensor * op);

// attention.cpp
bool   attention_takes(const ggml_tensor * op);
void   attention(const ggml_compute_params * p, ggml_tensor * op, bool bf16);  // products of bf16, sums in f32

// int16_attention.cpp: attention without a mask, in products of s16
bool   int16_attention_takes(const ggml_tensor * op);
void   int16_attention(const ggml_compute_params * p, ggml_tensor * op);

// few_queries.cpp: attention of what attention_takes, where few queries share keys
bool   few_queries(const ggml_tensor * op);
size_t few_queries_work(const ggml_tensor * op, int n_threads);
void   few_queries_attention(const ggml_compute_params * p, ggml_tensor * op);

// pointwise.cpp
void   gelu(const ggml_compute_params * p, ggml_tensor * op);
void   norm(const ggml_compute_params * p, ggml_tensor * op);
bool   max_rows_takes(const ggml_tensor * op);  // POOL_2D that takes the largest of rows that lie side by side
void   max_rows(const ggml_compute_params * p, ggml_tensor * op);
// A thread's own memory of so many floats, aligned to 64 bytes; each slot is one block.
float * scratch(int slot, size_t floats);

// The epilogue of a MUL_MAT on some of its output channels, from `first`, and one row: residual + scale * gelu(x + bias).
struct ending {
    const float * bias, * scale, * residual;
    bool          gelu;

    ending(const ggml_tensor * op, int64_t first, int64_t row);
    bool none() const { return bias == nullptr && scale == nullptr && residual == nullptr && !gelu; }

    onednn::floats operator()(onednn::floats x, int64_t i, int n) const {
        if (bias != nullptr) x += onednn::load_n(bias + i, n);
        if (gelu) x = onednn::gelu(x);
        if (scale != nullptr) x *= onednn::load_n(scale + i, n);
        if (residual != nullptr) x += onednn::load_n(residual + i, n);
        return x;
    }
};

// Row r of a tensor of f32 whose axes 1 to 3 count rows.
template <class T> inline T * row_of(const ggml_tensor * t, int64_t r) {
    const int64_t i1 = r % t->ne[1], i2 = r / t->ne[1] % t->ne[2], i3 = r / t->ne[1] / t->ne[2];
    return reinterpret_cast<T *>(static_cast<char *>(t->data) + size_t(i1) * t->nb[1] + size_t(i2) * t->nb[2] + size_t(i3) * t->nb[3]);
}

inline ending::ending(const ggml_tensor * op, int64_t first, int64_t row) : gelu(op->op_params[param_gelu] != 0) {
    const auto part = [&](int src) { return op->src[src] != nullptr ? static_cast<const float *>(op->src[src]->data) + first : nullptr; };
    bias     = part(src_bias);
    scale    = part(src_scale);
    residual = op->src[src_residual] != nullptr ? row_of<const float>(op->src[src_residual], row) + first : nullptr;
}

} // namespace ub::accel
