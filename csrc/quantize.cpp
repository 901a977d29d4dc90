// quantize.cpp: see quantize.h.

#include "quantize.h"

#include "device.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <system_error>
#include <thread>
#include <vector>

namespace ub {

int64_t row_size(const weight_type & t, int64_t row_length) {
    const int64_t block = ggml_blck_size(t.type), bytes = int64_t(ggml_type_size(t.type));
    if (row_length < 1 || row_length % block != 0 || row_length / block > INT64_MAX / bytes) return -1;
    return row_length / block * bytes;
}

namespace {

// Checks the shape against the size of the quantized side and returns bytes of a row.
int64_t check(const weight_type & t, int64_t rows, int64_t row_length, const char * what, size_t size) {
    const int64_t row = row_size(t, row_length);
    UB_REQUIRE(rows >= 0, "rows is %lld", (long long) rows);
    UB_REQUIRE(row > 0, "type %s can't hold rows of %lld, want a multiple of %lld", t.name, (long long) row_length, (long long) ggml_blck_size(t.type));
    UB_REQUIRE(rows <= INT64_MAX / row / 8 && uint64_t(rows) * uint64_t(row) == size, "%s has %zu bytes, want %lld rows of %lld bytes", what, size,
               (long long) rows, (long long) row);
    UB_REQUIRE(row_length <= INT64_MAX / 4 / std::max<int64_t>(rows, 1), "%lld rows of %lld values are too many", (long long) rows, (long long) row_length);
    return row;
}

} // namespace

void quantize(const weight_type & t, const float * src, int64_t rows, int64_t row_length, void * dst, size_t dst_size, int n_threads) {
    const int64_t row = check(t, rows, row_length, "dst", dst_size);
    UB_REQUIRE(n_threads >= 0 && n_threads <= GGML_MAX_N_THREADS, "n_threads is %d, want 0 to %d", n_threads, GGML_MAX_N_THREADS);
    if (rows == 0) return;
    UB_REQUIRE(src != nullptr && dst != nullptr, "src or dst is NULL");
    ggml_quantize_init(t.type);  // builds tables behind a lock, so that the threads below only read them

    // the largest magnitude that the type, or the f16 scale or offset of its blocks, does not round to infinity
    const float limit = t.type == GGML_TYPE_F32 ? INFINITY : t.type == GGML_TYPE_BF16 ? 3.3961775e38f : 65504.0f;

    // a piece of work has at least 16k values, so that small tensors stay on this thread
    const int64_t step = std::max<int64_t>(1, 16384 / row_length), pieces = (rows + step - 1) / step;
    const int64_t threads = std::min<int64_t>(n_threads > 0 ? n_threads : physical_cores(), (pieces + 3) / 4);
    std::atomic<int64_t> next{0}, bad{INT64_MAX};
    auto work = [&] {
        for (int64_t i; (i = next++) < pieces;) {
            const int64_t first = i * step, n = std::min(step, rows - first);
            const float * in = src + first * row_length;
            int64_t k = 0;
            while (k < n * row_length && std::fabs(in[k]) <= limit && std::isfinite(in[k])) ++k;
            if (k < n * row_length) {
                const int64_t index = first * row_length + k;
                for (int64_t seen = bad; index < seen && !bad.compare_exchange_weak(seen, index);) {}
                return;
            }
            void * out = static_cast<char *>(dst) + first * row;
            if (t.type == GGML_TYPE_F32) {
                std::copy(in, in + n * row_length, static_cast<float *>(out));
            } else {
                ggml_quantize_chunk(t.type, in, out, 0, n, row_length, nullptr);
            }
        }
    };
    std::vector<std::thread> pool;
    for (int64_t i = 1; i < threads; ++i) {
        try { pool.emplace_back(work); } catch (const std::system_error &) { break; }  // fewer threads do it as well
    }
    work();
    for (auto & th : pool) th.join();
    if (const int64_t i = bad; i != INT64_MAX) {
        fail(UB_E_FORMAT, "value %lld (row %lld, column %lld) is %g, which type %s can't hold", (long long) i, (long long) (i / row_length),
             (long long) (i % row_length), double(src[i]), t.name);
    }
}

void dequantize(const weight_type & t, const void * src, size_t src_size, int64_t rows, int64_t row_length, float * dst) {
    const int64_t row = check(t, rows, row_length, "src", src_size);
    if (rows == 0) return;
    UB_REQUIRE(src != nullptr && dst != nullptr, "src or dst is NULL");
    if (t.type == GGML_TYPE_F32) {
        std::copy_n(static_cast<const float *>(src), rows * row_length, dst);
        return;
    }
    const ggml_to_float_t to_float = ggml_get_type_traits(t.type)->to_float;
    for (int64_t i = 0; i < rows; ++i) to_float(static_cast<const char *>(src) + i * row, dst + i * row_length, row_length);
}

} // namespace ub
