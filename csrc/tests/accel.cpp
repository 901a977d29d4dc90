// Products, attention and pointwise kernels of onednn/ against double precision. Skipped where there is no oneDNN.

#include "graph.h"
#include "onednn/accel.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

using namespace ub;

namespace {

bool skipped() {
    if (accel::enabled()) return false;
    MESSAGE("SKIP: " << accel::description());
    return true;
}

std::vector<float> noise(size_t n, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> v(n);
    for (float & x : v) x = normal(random);
    return v;
}

// Root of the mean square of a - b, relative to b's.
double difference(const std::vector<float> & a, const std::vector<double> & b) {
    double d = 0, s = 0;
    for (size_t i = 0; i < b.size(); ++i) {
        d += (a[i] - b[i]) * (a[i] - b[i]);
        s += b[i] * b[i];
    }
    return std::sqrt(d / std::max(s, 1e-30));
}

// A weight in a buffer of its own, from f32 values by the file's type.
struct weight {
    ggml_context_ptr        ctx;
    ggml_backend_buffer_ptr buffer;
    ggml_tensor *           t;

    weight(ggml_type type, int64_t K, int64_t N, const std::vector<float> & values, bool packed) {
        ctx.reset(ggml_init({ggml_tensor_overhead() * 2, nullptr, true}));
        t = ggml_new_tensor_2d(ctx.get(), type, K, N);
        auto buft = packed ? accel::int8_buffer_type() : ggml_backend_cpu_buffer_type();
        buffer.reset(ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), buft));
        ggml_backend_buffer_set_usage(buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
        std::vector<char> stored(ggml_nbytes(t));
        if (type == GGML_TYPE_F32) std::memcpy(stored.data(), values.data(), stored.size());
        else ggml_quantize_chunk(type, values.data(), stored.data(), 0, N, K, nullptr);
        ggml_backend_tensor_set(t, stored.data(), 0, stored.size());
    }
};

std::vector<double> product(const std::vector<float> & w, const std::vector<float> & x, int64_t K, int64_t N, int64_t M) {
    std::vector<double> out(size_t(M * N));
    for (int64_t m = 0; m < M; ++m) {
        for (int64_t n = 0; n < N; ++n) {
            double s = 0;
            for (int64_t k = 0; k < K; ++k) s += double(w[size_t(n * K + k)]) * x[size_t(m * K + k)];
            out[size_t(m * N + n)] = s;
        }
    }
    return out;
}

double gelu_exact(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }

struct runner {
    std::shared_ptr<device> dev;
    stage                   s;
    explicit runner(int threads) : dev(device::open("cpu", threads)), s(dev, 256) {}
    void run(const stage::builder & b) {
        reporter r;
        counters c;
        s.run(b, r, c);
    }
    std::vector<float> linear(const linear_weights & w, const std::vector<float> & x, int64_t M, accel::epilogue e = {}) {
        std::vector<float> out(size_t(w.weight->ne[1] * M));
        run([&](graph & g) { g.output(ub::linear(g, w, g.input(GGML_TYPE_F32, {w.weight->ne[0], M}, x.data()), e), out.data()); });
        return out;
    }
};

} // namespace

TEST_CASE("the description says whether products are in int8") {
    MESSAGE(accel::description());
    CHECK((accel::description().find("int8") != std::string::npos) == (accel::int8_buffer_type() != nullptr));
}

TEST_CASE("products in f32 agree with double precision for every type of weight") {
    if (skipped()) return;
    struct shape { int64_t K, N, M; };
    for (int threads : {1, 3}) {
        runner r(threads);
        for (shape s : {shape{32, 8, 8}, {96, 33, 17}, {160, 300, 1}, {544, 70, 129}, {64, 515, 1030}}) {
            CAPTURE(s.K); CAPTURE(s.N); CAPTURE(s.M); CAPTURE(threads);
            const auto values = noise(size_t(s.K * s.N), 1), x = noise(size_t(s.K * s.M), 2);
            for (ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0}) {
                weight w(type, s.K, s.N, values, false);
                std::vector<float> stored(values.size());
                if (type == GGML_TYPE_F32) stored = values;
                else ggml_get_type_traits(type)->to_float(w.t->data, stored.data(), int64_t(stored.size()));
                // small products run on ggml, which rounds rows to the weights' kind
                const double limit = (s.M >= 8 && s.K * s.N * s.M >= 65536) || type == GGML_TYPE_F32 ? 2e-6 : 0.02;
                CHECK(difference(r.linear({w.t, nullptr}, x, s.M), product(stored, x, s.K, s.N, s.M)) < limit);
            }
        }
    }
}

TEST_CASE("a product's epilogue") {
    if (skipped()) return;
    const int64_t K = 96, N = 130, M = 37;
    const auto values = noise(size_t(K * N), 1), x = noise(size_t(K * M), 2), bias = noise(size_t(N), 3), scale = noise(size_t(N), 4), residual = noise(size_t(N * M), 5);
    auto want = product(values, x, K, N, M);
    for (int64_t i = 0; i < N * M; ++i) want[size_t(i)] = residual[size_t(i)] + scale[size_t(i % N)] * gelu_exact(want[size_t(i)] + bias[size_t(i % N)]);
    for (bool packed : {false, true}) {
        if (packed && accel::int8_buffer_type() == nullptr) continue;
        runner r(2);
        weight w(packed ? GGML_TYPE_Q8_0 : GGML_TYPE_F32, K, N, values, packed), b(GGML_TYPE_F32, N, 1, bias, false), s(GGML_TYPE_F32, N, 1, scale, false);
        std::vector<float> got(size_t(N * M));
        r.run([&](graph & g) {
            ggml_tensor * res = g.input(GGML_TYPE_F32, {N, M}, residual.data());
            g.output(linear(g, {w.t, b.t}, g.input(GGML_TYPE_F32, {K, M}, x.data()), {nullptr, true, s.t, res}), got.data());
        });
        CHECK(difference(got, want) < (packed ? 0.02 : 1e-6));
    }
}

TEST_CASE("products in int8: odd sizes, one row, many rows, threads") {
    if (skipped() || accel::int8_buffer_type() == nullptr) return;
    struct shape { int64_t K, N, M; };
    for (int threads : {1, 3}) {
        runner r(threads);
        for (shape s : {shape{32, 16, 1}, {96, 33, 5}, {160, 300, 1}, {288, 48, 129}, {544, 70, 3}, {64, 515, 1030}, {4864, 130, 20}}) {
            CAPTURE(s.K); CAPTURE(s.N); CAPTURE(s.M); CAPTURE(threads);
            const auto values = noise(size_t(s.K * s.N), 1), x = noise(size_t(s.K * s.M), 2);
            weight w(GGML_TYPE_Q8_0, s.K, s.N, values, true);
            REQUIRE(accel::is_int8(w.t));
            CHECK(difference(r.linear({w.t, nullptr}, x, s.M), product(values, x, s.K, s.N, s.M)) < 0.015);
        }
    }
}

TEST_CASE("int8 with a few input channels far above the rest stays within 1.2 times the error of ggml's q8_0") {
    if (skipped() || accel::int8_buffer_type() == nullptr) return;
    const int64_t K = 1024, N = 200, M = 64;
    for (int outliers : {2, 8, 20}) {
        for (float size : {50.0f, 100.0f}) {
            CAPTURE(outliers); CAPTURE(size);
            const auto values = noise(size_t(K * N), 1);
            auto x = noise(size_t(K * M), 2);
            for (int64_t m = 0; m < M; ++m) {
                for (int i = 0; i < outliers; ++i) x[size_t(m * K + i * 47 + 13)] *= size;
            }
            const auto want = product(values, x, K, N, M);
            weight packed(GGML_TYPE_Q8_0, K, N, values, true), plain(GGML_TYPE_Q8_0, K, N, values, false);
            runner r(2);
            const double ours = difference(r.linear({packed.t, nullptr}, x, M), want);
            // ggml's own: a row at a time, which is not ours
            std::vector<float> theirs;
            for (int64_t m = 0; m < M; ++m) {
                const auto row = r.linear({plain.t, nullptr}, {x.begin() + m * K, x.begin() + (m + 1) * K}, 1);
                theirs.insert(theirs.end(), row.begin(), row.end());
            }
            CHECK(ours <= 1.2 * difference(theirs, want));
        }
    }
}

TEST_CASE("four rows or fewer lose nothing to int8 but what the weights lost, whatever channels are large") {
    if (skipped() || accel::int8_buffer_type() == nullptr) return;
    const int64_t K = 4864, N = 200;
    // weights that int8 holds exactly: whole numbers up to 127, which every block and channel reaches
    auto values = noise(size_t(K * N), 1);
    for (size_t i = 0; i < values.size(); ++i) values[i] = i % 32 == 0 ? 127.0f : std::round(std::clamp(40 * values[i], -127.0f, 127.0f));
    weight w(GGML_TYPE_Q8_0, K, N, values, true);
    for (int64_t M : {1, 2, 4}) {
        for (float size : {1.0f, 100.0f}) {
            CAPTURE(M); CAPTURE(size);
            auto x = noise(size_t(K * M), 2);
            for (int64_t m = 0; m < M; ++m) {
                for (int i = 0; i < 40; ++i) x[size_t(m * K + i * 47 + m)] *= size;
            }
            runner r(2);
            CHECK(difference(r.linear({w.t, nullptr}, x, M), product(values, x, K, N, M)) < 5e-4);
            if (M == 1) continue;
            x[size_t(K + 5)] = std::numeric_limits<float>::infinity();
            std::fill_n(x.begin(), K, 0.0f);
            const auto got = r.linear({w.t, nullptr}, x, M);
            for (int64_t n = 0; n < N; ++n) {
                CHECK(got[size_t(n)] == 0);
                CHECK_FALSE(std::isfinite(got[size_t(N + n)]));
            }
        }
    }
}

TEST_CASE("the largest sums of int8 do not overflow or saturate") {
    if (skipped() || accel::int8_buffer_type() == nullptr) return;
    runner r(2);
    for (int64_t K : {64, 1024, 4864, 8192}) {
        CAPTURE(K);
        const int64_t N = 48, M = 40;
        // every weight and every activation at its largest level; channels and rows take turns in sign
        std::vector<float> values(size_t(K * N)), x(size_t(K * M));
        for (size_t i = 0; i < values.size(); ++i) values[i] = int64_t(i) / K % 2 == 0 ? 1.0f : -1.0f;
        for (size_t i = 0; i < x.size(); ++i) x[i] = int64_t(i) / K % 3 == 0 ? -3.0f : 3.0f;
        weight w(GGML_TYPE_Q8_0, K, N, values, true);
        CHECK(difference(r.linear({w.t, nullptr}, x, M), product(values, x, K, N, M)) < 1e-3);
    }
}

TEST_CASE("NaN and infinity in a row stay in it") {
    if (skipped()) return;
    const int64_t K = 128, N = 64, M = 12;
    const auto values = noise(size_t(K * N), 1);
    for (bool packed : {false, true}) {
        if (packed && accel::int8_buffer_type() == nullptr) continue;
        auto x = noise(size_t(K * M), 2);
        const auto sound = x;
        x[size_t(3 * K + 5)] = std::numeric_limits<float>::quiet_NaN();
        x[size_t(7 * K + 9)] = std::numeric_limits<float>::infinity();
        std::fill_n(x.begin() + 9 * K, K, 0.0f);
        weight w(packed ? GGML_TYPE_Q8_0 : GGML_TYPE_F32, K, N, values, packed);
        runner r(2);
        const auto got = r.linear({w.t, nullptr}, x, M);
        const auto want = product(values, x, K, N, M);
        for (int64_t m = 0; m < M; ++m) {
            for (int64_t n = 0; n < N; ++n) {
                const float v = got[size_t(m * N + n)];
                if (m == 3 || m == 7) CHECK_FALSE(std::isfinite(v));
                else CHECK(std::fabs(v - want[size_t(m * N + n)]) < (packed ? 1.0 : 1e-4));
                if (m == 9) CHECK(v == 0);
            }
        }
    }
}

TEST_CASE("attention agrees with double precision") {
    if (skipped()) return;
    const ggml_type f32 = GGML_TYPE_F32, f16 = GGML_TYPE_F16, q8_0 = GGML_TYPE_Q8_0;
    struct shape { int64_t C, Cv, Nq, Nk, heads, kv_heads, B; bool masked; ggml_type type; };
    for (shape s : {shape{64, 64, 300, 1025, 2, 2, 1, false, f32}, {72, 72, 49, 49, 3, 3, 5, false, f32}, {16, 32, 1, 7, 2, 2, 2, false, f32},
                    {256, 64, 33, 600, 1, 1, 1, false, f32}, {64, 64, 70, 70, 4, 2, 1, true, f16}, {64, 64, 20, 1300, 14, 2, 1, true, f16},
                    {64, 32, 20, 1300, 14, 2, 1, true, q8_0}, {80, 20, 40, 333, 4, 2, 2, false, f16}, {72, 72, 150, 513, 2, 2, 1, false, f32}, {10, 6, 17, 257, 1, 1, 3, false, f32},
                    {64, 64, 20, 9001, 1, 1, 1, false, f32},  // keys are packed block by block
                    // few_queries.cpp
                    {64, 64, 1, 2583, 14, 2, 1, true, f16}, {64, 64, 1, 3, 14, 2, 1, false, f16}, {80, 20, 3, 333, 9, 1, 2, true, f16},
                    {32, 64, 7, 130, 6, 3, 1, true, q8_0}, {20, 36, 2, 65, 4, 2, 3, false, f16}, {64, 64, 5, 700, 4, 1, 1, true, f32}, {64, 64, 16, 300, 14, 2, 1, true, f16}}) {
        for (precision products : {precision::f32, precision::levels, precision::coarse}) {
            CAPTURE(s.C); CAPTURE(s.Nq); CAPTURE(s.Nk); CAPTURE(int(products));
            const auto q = noise(size_t(s.C * s.Nq * s.heads * s.B), 1);
            auto k = noise(size_t(s.C * s.Nk * s.kv_heads * s.B), 2), v = noise(size_t(s.Cv * s.Nk * s.kv_heads * s.B), 3);
            auto stored = [&](std::vector<float> & x, int64_t row) {  // and x as it is read back
                std::vector<char> bytes(ggml_row_size(s.type, int64_t(x.size())));
                if (s.type == f32) std::memcpy(bytes.data(), x.data(), bytes.size());
                else ggml_quantize_chunk(s.type, x.data(), bytes.data(), 0, int64_t(x.size()) / row, row, nullptr);
                if (s.type != f32) ggml_get_type_traits(s.type)->to_float(bytes.data(), x.data(), int64_t(x.size()));
                return bytes;
            };
            const auto k_stored = stored(k, s.C), v_stored = stored(v, s.Cv);
            std::vector<ggml_fp16_t> mask(size_t(s.Nk * s.Nq));
            const int64_t past = s.Nk - s.Nq;  // causal
            for (int64_t i = 0; i < s.Nq; ++i) {
                for (int64_t j = 0; j < s.Nk; ++j) mask[size_t(i * s.Nk + j)] = ggml_fp32_to_fp16(j <= past + i ? 0.0f : -INFINITY);
            }
            const float scale = 1.0f / std::sqrt(float(s.C));
            std::vector<double> want(size_t(s.Cv * s.heads * s.Nq * s.B)), p(static_cast<size_t>(s.Nk));
            for (int64_t b = 0; b < s.B; ++b) for (int64_t h = 0; h < s.heads; ++h) for (int64_t i = 0; i < s.Nq; ++i) {
                const int64_t hk = b * s.kv_heads + h / (s.heads / s.kv_heads);
                double most = -INFINITY, total = 0;
                for (int64_t j = 0; j < s.Nk; ++j) {
                    double d = 0;
                    for (int64_t c = 0; c < s.C; ++c) d += double(q[size_t(((b * s.heads + h) * s.Nq + i) * s.C + c)]) * k[size_t((hk * s.Nk + j) * s.C + c)];
                    p[size_t(j)] = s.masked && j > past + i ? -INFINITY : d * scale;
                    most = std::max(most, p[size_t(j)]);
                }
                for (double & x : p) total += x = std::exp(x - most);
                for (int64_t j = 0; j < s.Nk; ++j) for (int64_t c = 0; c < s.Cv; ++c) {
                    want[size_t(((b * s.Nq + i) * s.heads + h) * s.Cv + c)] += p[size_t(j)] / total * v[size_t((hk * s.Nk + j) * s.Cv + c)];
                }
            }
            runner r(3);
            std::vector<float> got(want.size());
            r.run([&](graph & g) {
                ggml_tensor * tq = g.input(GGML_TYPE_F32, {s.C, s.Nq, s.heads, s.B}, q.data());
                ggml_tensor * tk = g.input(s.type, {s.C, s.Nk, s.kv_heads, s.B}, k_stored.data());
                ggml_tensor * tv = g.input(s.type, {s.Cv, s.Nk, s.kv_heads, s.B}, v_stored.data());
                ggml_tensor * m = s.masked ? g.input(GGML_TYPE_F16, {s.Nk, s.Nq}, mask.data()) : nullptr;
                ggml_tensor * out = ggml_flash_attn_ext(g.ctx, tq, tk, tv, m, scale, 0, 0);
                ggml_flash_attn_ext_set_prec(out, products == precision::coarse ? GGML_PREC_DEFAULT : GGML_PREC_F32);
                if (products == precision::levels) accel::allow_levels(out);
                g.output(out, got.data());
            });
            CHECK(difference(got, want) < (products == precision::coarse ? 0.01 : products == precision::levels ? 0.001 : 1e-6));
        }
    }
}

TEST_CASE("attention of a few queries: none sees every key, one sees none, NaN stays in its query") {
    if (skipped()) return;
    const int64_t C = 64, Nq = 4, Nk = 200, heads = 6;
    auto q = noise(size_t(C * Nq * heads), 1);
    const auto k = noise(size_t(C * Nk), 2), v = noise(size_t(C * Nk), 3);
    for (float & x : q) x *= 1000;
    q[size_t((2 * Nq + 3) * C)] = std::numeric_limits<float>::quiet_NaN();  // head 2, query 3
    std::vector<ggml_fp16_t> k16(k.size()), v16(v.size()), mask(size_t(Nk * Nq), ggml_fp32_to_fp16(-INFINITY));
    ggml_fp32_to_fp16_row(k.data(), k16.data(), int64_t(k.size()));
    ggml_fp32_to_fp16_row(v.data(), v16.data(), int64_t(v.size()));
    for (int64_t key : {70, 199}) {
        for (int64_t i = 1; i < Nq; ++i) mask[size_t(i * Nk + key)] = 0;
    }
    for (int threads : {1, 3}) {
        runner r(threads);
        std::vector<float> got(q.size());
        r.run([&](graph & g) {
            ggml_tensor * tq = g.input(GGML_TYPE_F32, {C, Nq, heads, 1}, q.data()), * tk = g.input(GGML_TYPE_F16, {C, Nk, 1, 1}, k16.data());
            ggml_tensor * tv = g.input(GGML_TYPE_F16, {C, Nk, 1, 1}, v16.data()), * m = g.input(GGML_TYPE_F16, {Nk, Nq}, mask.data());
            g.output(ggml_flash_attn_ext(g.ctx, tq, tk, tv, m, 1.0f, 0, 0), got.data());
        });
        for (int64_t i = 0; i < Nq; ++i) for (int64_t h = 0; h < heads; ++h) {
            const float * o = got.data() + (i * heads + h) * C;
            CAPTURE(i); CAPTURE(h); CAPTURE(threads);
            if (h == 2 && i == 3) {
                CHECK(std::isnan(o[0]));
                continue;
            }
            for (int64_t c = 0; c < C; ++c) {
                const float one = ggml_fp16_to_fp32(v16[size_t(70 * C + c)]), other = ggml_fp16_to_fp32(v16[size_t(199 * C + c)]);
                if (i == 0) CHECK(o[c] == 0);
                else CHECK((std::min(one, other) - 1e-4 <= o[c] && o[c] <= std::max(one, other) + 1e-4));
            }
        }
    }
}

TEST_CASE("attention: NaN stays in its query, sharp scores and large ones do not overflow") {
    if (skipped()) return;
    const int64_t C = 64, N = 40;
    auto q = noise(size_t(C * N), 1);
    const auto k = noise(size_t(C * N), 2), v = noise(size_t(C * N), 3);
    for (float & x : q) x *= 1000;
    q[5 * C + 1] = std::numeric_limits<float>::quiet_NaN();
    runner r(2);
    std::vector<float> got(size_t(C * N));
    r.run([&](graph & g) {
        auto in = [&](const std::vector<float> & x) { return g.input(GGML_TYPE_F32, {C, N, 1, 1}, x.data()); };
        g.output(attention(g, in(q), in(k), in(v), 1.0f), got.data());
    });
    for (int64_t i = 0; i < N; ++i) {
        for (int64_t c = 0; c < C; ++c) CHECK(std::isnan(got[size_t(i * C + c)]) == (i == 5));
    }
}

TEST_CASE("attention in levels or coarse: many small weights beside a large one count, what is not finite stays in its query or channel") {
    if (skipped()) return;
    const int64_t C = 64, N = 600, small = 3, broken = 5, zero = 7, infinite = 9;
    std::vector<float> q(size_t(C * N), 0.0f), k(size_t(C * N), 0.0f), v(size_t(C * N), -1.0f);
    for (int64_t i = 0; i < N; ++i) q[size_t(i * C)] = i == zero ? 0.0f : 8.0f;
    q[size_t(small * C)] = 1e-40f;
    q[size_t(broken * C + 1)] = std::numeric_limits<float>::quiet_NaN();
    k[0] = 1;  // the first key's score is 8, the others' 0
    std::fill_n(v.begin(), C, 1.0f);
    v[size_t(20 * C + infinite)] = std::numeric_limits<float>::infinity();
    const double e = std::exp(8.0), others = double(N - 1);
    for (precision products : {precision::levels, precision::coarse}) {
        runner r(2);
        std::vector<float> got(q.size());
        r.run([&](graph & g) {
            auto in = [&](const std::vector<float> & x) { return g.input(GGML_TYPE_F32, {C, N, 1, 1}, x.data()); };
            g.output(attention(g, in(q), in(k), in(v), 1.0f, products), got.data());
        });
        for (int64_t i = 0; i < N; ++i) {
            CAPTURE(i);
            for (int64_t c = 0; c < C; ++c) {
                const double x = got[size_t(i * C + c)];
                if (i == broken) CHECK(std::isnan(x));
                else if (c == infinite) CHECK_FALSE(std::isfinite(x));
                else if (i == zero || i == small) CHECK(x == doctest::Approx((1 - others) / (1 + others)).epsilon(1e-3));
                else CHECK(x == doctest::Approx((e - others) / (e + others)).epsilon(3e-3));
            }
        }
    }
}

TEST_CASE("GELU and LayerNorm") {
    if (skipped()) return;
    const int64_t C = 77, N = 5;
    auto x = noise(size_t(C * N), 1);
    for (int i = 0; i < 60; ++i) x[size_t(i)] = float(i - 30) / 3;
    const auto weight_values = noise(size_t(C), 2), bias_values = noise(size_t(C), 3);
    weight w(GGML_TYPE_F32, C, 1, weight_values, false), b(GGML_TYPE_F32, C, 1, bias_values, false);
    runner r(2);
    std::vector<float> gelu_got(x.size()), norm_got(x.size());
    r.run([&](graph & g) {
        ggml_tensor * t = g.input(GGML_TYPE_F32, {C, N}, x.data());
        g.output(gelu(g, t), gelu_got.data());
        g.output(layer_norm(g, {w.t, b.t}, 1e-6f, t), norm_got.data());
    });
    for (int64_t n = 0; n < N; ++n) {
        double mean = 0, var = 0;
        for (int64_t c = 0; c < C; ++c) mean += x[size_t(n * C + c)] / double(C);
        for (int64_t c = 0; c < C; ++c) var += (x[size_t(n * C + c)] - mean) * (x[size_t(n * C + c)] - mean) / double(C);
        for (int64_t c = 0; c < C; ++c) {
            const size_t i = size_t(n * C + c);
            CHECK(gelu_got[i] == doctest::Approx(gelu_exact(x[i])).epsilon(1e-6));
            CHECK(norm_got[i] == doctest::Approx((x[i] - mean) / std::sqrt(var + 1e-6) * weight_values[size_t(c)] + bias_values[size_t(c)]).epsilon(1e-5));
        }
    }
}

TEST_CASE("zero rows are no work") {
    if (skipped()) return;
    runner r(2);
    const auto values = noise(64 * 32, 1);
    for (bool packed : {false, true}) {
        if (packed && accel::int8_buffer_type() == nullptr) continue;
        weight w(GGML_TYPE_Q8_0, 64, 32, values, packed);
        ggml_context_ptr ctx(ggml_init({ggml_tensor_overhead() * 8 + ggml_graph_overhead(), nullptr, true}));
        ggml_tensor * x = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, 64, 0), * y = ggml_mul_mat(ctx.get(), w.t, x);
        CHECK(ggml_nelements(y) == 0);
        ggml_cgraph * gf = ggml_new_graph(ctx.get());
        ggml_build_forward_expand(gf, y);
        auto backends = r.dev->backends();
        float nothing = 0;
        x->data = y->data = &nothing;
        CHECK(ggml_backend_graph_compute(backends.back().get(), gf) == GGML_STATUS_SUCCESS);
    }
}
