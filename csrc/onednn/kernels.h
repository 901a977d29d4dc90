// kernels.h: what accel.cpp hands to ggml: each kernel runs its thread's share of one operation.

#pragma once

#include "ggml-cpu-impl.h"

#include <cstddef>

namespace ub::accel {

// MUL_MAT flags and sources beyond ggml's own, as fuse() puts them.
constexpr int src_bias = 2, src_scale = 3, src_residual = 4;
constexpr int param_gelu = 8;  // index in op_params

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
void   int8_pack(const ggml_tensor * w, const void * q8_0);  // to w->data, from the file's blocks
size_t int8_work(const ggml_tensor * op, int n_threads);
void   int8_mul_mat(const ggml_compute_params * p, ggml_tensor * op);

// products.cpp
bool   f32_takes(const ggml_tensor * op);
void   f32_mul_mat(const ggml_compute_params * p, ggml_tensor * op);

// attention.cpp
bool   attention_takes(const ggml_tensor * op);
void   attention(const ggml_compute_params * p, ggml_tensor * op);

// pointwise.cpp
void   gelu(const ggml_compute_params * p, ggml_tensor * op);
void   norm(const ggml_compute_params * p, ggml_tensor * op);
// residual + scale * gelu(x + bias) in place, on n channels from `first`; residual is the row of x, from channel 0
void   finish(const ggml_tensor * op, int64_t first, int64_t n, float * x, const float * residual);

// A thread's own memory of so many floats, aligned to 64 bytes; each slot is one block.
float * scratch(int slot, size_t floats);

// Row r of a tensor of f32 whose axes 1 to 3 count rows.
template <class T> inline T * row_of(const ggml_tensor * t, int64_t r) {
    const int64_t i1 = r % t->ne[1], i2 = r / t->ne[1] % t->ne[2], i3 = r / t->ne[1] / t->ne[2];
    return reinterpret_cast<T *>(static_cast<char *>(t->data) + size_t(i1) * t->nb[1] + size_t(i2) * t->nb[2] + size_t(i3) * t->nb[3]);
}

} // namespace ub::accel
