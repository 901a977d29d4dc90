// products.cpp: MUL_MAT in f32 arithmetic, whatever the weights' type.

#include "onednn/kernels.h"
#include "onednn/library.h"

#include <algorithm>

namespace ub::accel {

using onednn::product;

// Where ggml's own product is not faster: enough rows for blocks, enough work to be worth a call.
bool f32_takes(const ggml_tensor * op) {
    const ggml_tensor * w = op->src[0], * x = op->src[1];
    const int64_t rows = w->ne[2] * w->ne[3] == 1 ? ggml_nrows(x) : x->ne[1];
    if (x->type != GGML_TYPE_F32 || op->type != GGML_TYPE_F32 || rows < 8 || w->ne[0] < 8 || w->ne[1] < 8) return false;
    if (double(w->ne[0]) * double(w->ne[1]) * double(rows) < 65536) return false;
    if (w->ne[0] > INT32_MAX || w->ne[1] > INT32_MAX || rows > INT32_MAX) return false;
    if (x->nb[0] != sizeof(float) || x->nb[1] < sizeof(float) * size_t(x->ne[0]) || op->nb[0] != sizeof(float)) return false;
    // f16 and smaller need a row to widen; f32 rows may be any distance apart
    if (w->nb[0] != ggml_type_size(w->type) || w->nb[1] < ggml_row_size(w->type, w->ne[0])) return false;
    return w->type == GGML_TYPE_F32 || ggml_get_type_traits(w->type)->to_float != nullptr;
}

void f32_mul_mat(const ggml_compute_params * p, ggml_tensor * op) {
    const ggml_tensor * w = op->src[0], * x = op->src[1];
    const int64_t K = w->ne[0], N = w->ne[1];
    // one matrix for all rows when the rows of x lie evenly
    const bool flat = w->ne[2] * w->ne[3] == 1 && x->nb[2] == x->nb[1] * size_t(x->ne[1]) && x->nb[3] == x->nb[2] * size_t(x->ne[2]) && ggml_is_contiguous(op);
    const int64_t M = flat ? ggml_nrows(x) : x->ne[1], planes = flat ? 1 : x->ne[2] * x->ne[3];

    // A piece is a block of output channels by a block of rows. Weights are widened once a piece, into a megabyte at most.
    int64_t n_step = w->type == GGML_TYPE_F32 ? 512 : std::clamp<int64_t>((int64_t(1) << 18) / K / 16 * 16, 64, 512), m_step = 512;
    while (m_step > 64 && planes * ((N + n_step - 1) / n_step) * ((M + m_step - 1) / m_step) < 4 * p->nth) m_step /= 2;
    const int64_t n_blocks = (N + n_step - 1) / n_step, m_blocks = (M + m_step - 1) / m_step;

    pieces work(p, int(planes * n_blocks * m_blocks));
    for (int i; work.next(i);) {
        const int64_t plane = i / (n_blocks * m_blocks), nb = i / m_blocks % n_blocks, mb = i % m_blocks;
        const int64_t i2 = flat ? 0 : plane % x->ne[2], i3 = flat ? 0 : plane / x->ne[2];
        const int64_t first_n = nb * n_step, n = std::min(n_step, N - first_n), first_m = mb * m_step, m = std::min(m_step, M - first_m);
        const char * rows_of_w = static_cast<const char *>(w->data) + size_t(i2 / (x->ne[2] / w->ne[2])) * w->nb[2] * (flat ? 0 : 1) +
                                 size_t(i3 / (x->ne[3] / w->ne[3])) * w->nb[3] * (flat ? 0 : 1) + size_t(first_n) * w->nb[1];
        const char * rows_of_x = static_cast<const char *>(x->data) + size_t(i2) * x->nb[2] + size_t(i3) * x->nb[3] + size_t(first_m) * x->nb[1];
        char * out = static_cast<char *>(op->data) + size_t(i2) * op->nb[2] + size_t(i3) * op->nb[3] + size_t(first_m) * op->nb[1] + size_t(first_n) * sizeof(float);

        const float * B = reinterpret_cast<const float *>(rows_of_w);
        int64_t b_stride = int64_t(w->nb[1] / sizeof(float));
        if (w->type != GGML_TYPE_F32) {
            float * wide = scratch(0, size_t(n * K));
            const auto to_float = ggml_get_type_traits(w->type)->to_float;
            for (int64_t r = 0; r < n; ++r) to_float(rows_of_w + size_t(r) * w->nb[1], wide + r * K, K);
            B = wide;
            b_stride = K;
        }
        const int64_t x_stride = int64_t(x->nb[1] / sizeof(float)), out_stride = int64_t(op->nb[1] / sizeof(float));
        onednn::multiply({onednn::numbers::f32, product::columns, false, int32_t(m), int32_t(n), int32_t(K), x_stride, b_stride, out_stride}, rows_of_x, B, out);
        for (int64_t r = 0; r < m; ++r) {
            const ending end(op, first_n, (i3 * x->ne[2] + i2) * x->ne[1] + first_m + r);
            if (end.none()) break;
            float * row = reinterpret_cast<float *>(out + size_t(r) * op->nb[1]);
            onednn::each(n, [&](int64_t c, int count) { onednn::store_n(row + c, end(onednn::load_n(row + c, count), c, count), count); });
        }
    }
}

} // namespace ub::accel
