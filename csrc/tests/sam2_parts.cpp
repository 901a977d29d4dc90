// Parts of SAM 2 that stand alone: the CPU's attention against the formula, and the rules of the memory bank.

#include "fixtures.h"

#include "sam2/cpu_attention.h"
#include "sam2/track.h"

#include "ggml-cpu.h"

namespace {

struct attention_case { const char * name; int64_t C, heads, Nq, Nk, B; float size; };

std::vector<float> noise(int64_t n, unsigned seed, float size) {
    std::minstd_rand rng(seed);
    std::normal_distribution<float> dist(0, size);
    std::vector<float> v(static_cast<size_t>(n));
    for (float & x : v) x = dist(rng);
    return v;
}

// Parts of one tensor of width 3*C*heads, as qkv comes out of a layer: rows are strided.
std::vector<float> run(const attention_case & c, const std::vector<float> & q, const std::vector<float> & kv, int n_threads) {
    const int64_t W = c.C * c.heads;
    ggml_context_ptr ctx(ggml_init({(q.size() + kv.size() + size_t(W * c.Nq * c.B)) * sizeof(float) + (size_t(4) << 20), nullptr, false}));
    ggml_tensor * tq = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, W, c.Nq, c.B), * tkv = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, 2 * W, c.Nk, c.B);
    std::memcpy(tq->data, q.data(), ggml_nbytes(tq));
    std::memcpy(tkv->data, kv.data(), ggml_nbytes(tkv));
    auto part = [&](int i) { return ggml_view_3d(ctx.get(), tkv, W, c.Nk, c.B, tkv->nb[1], tkv->nb[2], size_t(i * W) * sizeof(float)); };
    ggml_tensor * out = ub::cpu_attention(ctx.get(), tq, part(0), part(1), int(c.heads));
    ggml_cgraph * gf = ggml_new_graph(ctx.get());
    ggml_build_forward_expand(gf, out);
    REQUIRE(ggml_graph_compute_with_ctx(ctx.get(), gf, n_threads) == GGML_STATUS_SUCCESS);
    const float * data = static_cast<const float *>(out->data);
    return {data, data + ggml_nelements(out)};
}

std::vector<float> formula(const attention_case & c, const std::vector<float> & q, const std::vector<float> & kv) {
    const int64_t W = c.C * c.heads;
    std::vector<float> out(size_t(W * c.Nq * c.B));
    std::vector<double> p(static_cast<size_t>(c.Nk));
    for (int64_t b = 0; b < c.B; ++b) for (int64_t h = 0; h < c.heads; ++h) for (int64_t i = 0; i < c.Nq; ++i) {
        const float * qi = &q[size_t((b * c.Nq + i) * W + h * c.C)];
        auto row = [&](int64_t j, int part) { return &kv[size_t((b * c.Nk + j) * 2 * W + part * W + h * c.C)]; };
        double top = -INFINITY, sum = 0;
        for (int64_t j = 0; j < c.Nk; ++j) {
            double s = 0;
            for (int64_t x = 0; x < c.C; ++x) s += double(qi[x]) * row(j, 0)[x];
            p[size_t(j)] = s / std::sqrt(double(c.C));
            top = std::max(top, p[size_t(j)]);
        }
        for (double & s : p) sum += s = std::exp(s - top);
        for (int64_t x = 0; x < c.C; ++x) {
            double v = 0;
            for (int64_t j = 0; j < c.Nk; ++j) v += p[size_t(j)] * row(j, 1)[x];
            out[size_t((b * c.Nq + i) * W + h * c.C + x)] = float(v / sum);
        }
    }
    return out;
}

ub::slice_memory kept(int32_t slice) { return {slice, std::vector<uint16_t>(1), std::vector<float>(1)}; }

std::string seen(const ub::memory_bank & bank, int32_t slice) {
    const auto v = bank.look(slice);
    std::string s;
    for (const auto & m : v.memories) s += std::to_string(m.from->slice) + "@" + std::to_string(m.time) + " ";
    s += "|";
    for (const auto * m : v.pointers) s += " " + std::to_string(m->slice);
    return s;
}

} // namespace

TEST_CASE("attention on the CPU is softmax(q k^T) v") {
    const attention_case cases[] = {
        {"a window of the trunk", 72, 2, 64, 64, 5, 1},
        {"pooled queries", 72, 3, 16, 64, 7, 1},
        {"more queries than one task takes, keys that fill no block", 64, 2, 301, 333, 1, 1},
        {"fewer keys than lanes", 16, 8, 40, 9, 2, 1},
        {"one query, one key", 8, 1, 1, 1, 1, 1},
        {"an odd head", 13, 3, 21, 35, 2, 1},
        {"the largest head", 256, 1, 70, 130, 1, 1},
        {"scores of hundreds: the maximum wins", 32, 2, 50, 200, 1, 20},
        {"equal scores: the mean", 32, 2, 10, 100, 1, 0},
    };
    for (const auto & c : cases) {
        CAPTURE(std::string(c.name));
        const auto q = noise(c.C * c.heads * c.Nq * c.B, 1, c.size);
        auto kv = noise(2 * c.C * c.heads * c.Nk * c.B, 2, c.size);
        if (c.size == 0) kv = noise(int64_t(kv.size()), 2, 1);
        const auto want = formula(c, q, kv);
        CHECK(fixture::relative_rms(run(c, q, kv, 1), want) < 1e-6 * std::max(1.0f, c.size));
        CHECK(run(c, q, kv, 3) == run(c, q, kv, 1));
    }
}

TEST_CASE("what a slice looks at") {
    ub::memory_bank bank(7, 16);
    for (int32_t s = 0; s < 5; ++s) bank.keep_prompted(kept(s));
    CHECK(seen(bank, 5) == "0@6 1@6 2@6 3@6 4@6 | 0 1 2 3 4");
    for (int32_t s = 5; s < 8; ++s) bank.keep_tracked(kept(s));
    CHECK(seen(bank, 8) == "0@6 1@6 2@6 3@6 4@6 5@2 6@1 7@0 | 0 1 2 3 4 7 6 5");

    for (int32_t s = 8; s < 200; ++s) bank.keep_tracked(kept(s));
    CHECK(seen(bank, 200) == "0@6 1@6 2@6 3@6 4@6 194@5 195@4 196@3 197@2 198@1 199@0 | 0 1 2 3 4 199 198 197 196 195 194 193 192 191 190 189 188 187 186 185");

    bank.forget_tracked();
    CHECK(seen(bank, 5) == "0@6 1@6 2@6 3@6 4@6 | 0 1 2 3 4");
}

TEST_CASE("walking backwards") {
    ub::memory_bank bank(4, 3);
    for (int32_t s : {10, 11}) bank.keep_prompted(kept(s));
    CHECK(seen(bank, 9) == "10@3 11@3 | 10 11");
    bank.keep_tracked(kept(9));
    bank.keep_tracked(kept(8));
    CHECK(seen(bank, 7) == "10@3 11@3 9@1 8@0 | 10 11 8 9");
    bank.forget_tracked();
    CHECK(seen(bank, 12) == "10@3 11@3 | 10 11");
    bank.keep_tracked(kept(12));
    CHECK(seen(bank, 13) == "10@3 11@3 12@0 | 10 11 12");
}

TEST_CASE("a slice that is tracked twice, or prompted after it was tracked, is kept once") {
    ub::memory_bank bank(7, 16);
    bank.keep_prompted(kept(0));
    bank.keep_tracked(kept(1));
    bank.keep_tracked(kept(1));
    CHECK(seen(bank, 2) == "0@6 1@0 | 0 1");
    bank.keep_prompted(kept(1));
    CHECK(seen(bank, 2) == "0@6 1@6 | 0 1");
}

TEST_CASE("prompted slices between which one tracks") {
    ub::memory_bank bank(7, 16);
    bank.keep_prompted(kept(0));
    bank.keep_prompted(kept(10));
    CHECK(seen(bank, 3) == "0@6 10@6 | 0");   // forwards: pointers of what lies ahead are left out
    CHECK(seen(bank, 8) == "0@6 10@6 | 10");  // backwards from the nearest
}
