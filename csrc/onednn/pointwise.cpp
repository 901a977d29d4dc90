// pointwise.cpp: GELU, LayerNorm and the largest of rows.

#include "onednn/kernels.h"

#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace ub::accel {

using namespace onednn;

float * scratch(int slot, size_t count) {
    struct block {
        void * data = nullptr;
        size_t size = 0;
        ~block() { std::free(data); }
    };
    static thread_local block blocks[8];
    block & b = blocks[slot];
    if (b.size < count) {
        std::free(b.data);
        b.size = 0;
        if (posix_memalign(&b.data, 64, count * sizeof(float)) != 0) {
            b.data = nullptr;
            throw std::bad_alloc();
        }
        b.size = count;
    }
    return static_cast<float *>(b.data);
}

pieces::pieces(const ggml_compute_params * p, int count) : p(p), count(count), at(-1) {
    if (p->nth == 1) return;
    if (p->ith == 0) ggml_threadpool_chunk_set(p->threadpool, p->nth);
    ggml_barrier(p->threadpool);
}

bool pieces::next(int & piece) {
    if (p->nth == 1) at = at + 1;
    else at = at < 0 ? p->ith : ggml_threadpool_chunk_add(p->threadpool, 1);
    piece = at;
    return at < count;
}

void gelu(const ggml_compute_params * p, ggml_tensor * op) {
    const int64_t rows = ggml_nrows(op), each_thread = (rows + p->nth - 1) / p->nth;
    const int64_t from = each_thread * p->ith, to = std::min(rows, from + each_thread);
    for (int64_t r = from; r < to; ++r) {
        const float * in = row_of<const float>(op->src[0], r);
        float * out = row_of<float>(op, r);
        each(op->ne[0], [&](int64_t i, int n) { store_n(out + i, onednn::gelu(load_n(in + i, n)), n); });
    }
}

bool max_rows_takes(const ggml_tensor * op) {
    const int32_t * v = op->op_params;  // kind, k0, k1, s0, s1, p0, p1
    return v[0] == GGML_OP_POOL_MAX && v[1] == 1 && v[3] == 1 && v[2] == v[4] && v[5] == 0 && v[6] == 0 && op->type == GGML_TYPE_F32 &&
           op->src[0]->type == GGML_TYPE_F32 && ggml_is_contiguous(op->src[0]) && op->src[0]->ne[1] == op->ne[1] * v[2];
}

void max_rows(const ggml_compute_params * p, ggml_tensor * op) {
    const int64_t rows = ggml_nrows(op), C = op->ne[0], k = op->op_params[2], from = rows * p->ith / p->nth, to = rows * (p->ith + 1) / p->nth;
    const float * in = static_cast<const float *>(op->src[0]->data);
    float * out = static_cast<float *>(op->data);
    for (int64_t r = from; r < to; ++r) {
        each(C, [&](int64_t i, int n) {
            floats v = load_n(in + r * k * C + i, n);
            for (int64_t j = 1; j < k; ++j) {
                const floats w = load_n(in + (r * k + j) * C + i, n);
                v = w != w ? w : larger(v, w);
            }
            store_n(out + r * C + i, v, n);
        });
    }
}

void norm(const ggml_compute_params * p, ggml_tensor * op) {
    float eps;
    std::memcpy(&eps, op->op_params, sizeof eps);
    const int64_t rows = ggml_nrows(op), each_thread = (rows + p->nth - 1) / p->nth, C = op->ne[0];
    const int64_t from = each_thread * p->ith, to = std::min(rows, from + each_thread);
    const float * weight = static_cast<const float *>(op->src[1]->data), * bias = static_cast<const float *>(op->src[2]->data);
    for (int64_t r = from; r < to; ++r) {
        const float * in = row_of<const float>(op->src[0], r);
        float * out = row_of<float>(op, r);
        floats s = {};
        each(C, [&](int64_t i, int n) { s += load_n(in + i, n); });
        const float mean = sum(s) / float(C);
        floats v = {};
        each(C, [&](int64_t i, int n) {
            const floats d = load_n(in + i, n) - mean;
            if (n == lanes) {
                v += d * d;
            } else {
                floats few = {};
                std::memcpy(&few, &d, size_t(n) * sizeof(float));
                v += few * few;
            }
        });
        const float factor = 1.0f / std::sqrt(sum(v) / float(C) + eps);
        each(C, [&](int64_t i, int n) { store_n(out + i, (load_n(in + i, n) - mean) * factor * load_n(weight + i, n) + load_n(bias + i, n), n); });
    }
}

} // namespace ub::accel
