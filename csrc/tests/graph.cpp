// Helpers that build graphs, and the stage that runs them.

#include "fixtures.h"

#include "graph.h"

using namespace ub;

namespace {

std::shared_ptr<const device> tested() {
    static const std::shared_ptr<const device> d = device::open(fixture::params().device, 2);
    return d;
}

std::vector<float> noise(size_t n, unsigned seed) {
    std::minstd_rand rng(seed);
    std::normal_distribution<float> dist;
    std::vector<float> v(n);
    for (float & x : v) x = dist(rng);
    return v;
}

// softmax(q k^T * scale) v with q [B][N][H*C] and so on, in double precision.
std::vector<float> plain_attention(const std::vector<float> & q, const std::vector<float> & k, const std::vector<float> & v, int b, int nq, int nk,
                                   int heads, int c, int cv, double scale) {
    std::vector<float> out(size_t(b) * nq * heads * cv);
    for (int ib = 0; ib < b; ++ib) for (int h = 0; h < heads; ++h) for (int i = 0; i < nq; ++i) {
        std::vector<double> p(static_cast<size_t>(nk));
        double sum = 0;
        for (int j = 0; j < nk; ++j) {
            double s = 0;
            for (int x = 0; x < c; ++x) s += double(q[size_t((ib * nq + i) * heads + h) * c + x]) * k[size_t((ib * nk + j) * heads + h) * c + x];
            sum += p[size_t(j)] = std::exp(s * scale);
        }
        for (int x = 0; x < cv; ++x) {
            double s = 0;
            for (int j = 0; j < nk; ++j) s += p[size_t(j)] / sum * v[size_t((ib * nk + j) * heads + h) * cv + x];
            out[size_t((ib * nq + i) * heads + h) * cv + x] = float(s);
        }
    }
    return out;
}

} // namespace

TEST_CASE("attention, in one part and in many") {
    struct shape { int b, nq, nk, heads, c, cv; };
    for (const shape s : {shape{1, 5, 5, 2, 8, 8}, {3, 7, 9, 4, 6, 10}, {2, 1, 33, 1, 16, 4}}) {
        const auto q = noise(size_t(s.b) * s.nq * s.heads * s.c, 1), k = noise(size_t(s.b) * s.nk * s.heads * s.c, 2);
        const auto v = noise(size_t(s.b) * s.nk * s.heads * s.cv, 3);
        const auto want = plain_attention(q, k, v, s.b, s.nq, s.nk, s.heads, s.c, s.cv, 0.3);
        for (size_t limit : {size_t(1) << 20, size_t(s.nk) * 4 * 20, size_t(s.nk) * 4 * 3, size_t(1)}) {
            CAPTURE(limit);
            std::vector<float> got(want.size());
            stage st(tested(), 4096);
            reporter r;
            counters c;
            st.run([&](graph & g) {
                const_cast<size_t &>(g.score_bytes) = limit;
                ggml_tensor * tq = g.input(GGML_TYPE_F32, {s.c * s.heads, s.nq, s.b}, q.data());
                ggml_tensor * tk = g.input(GGML_TYPE_F32, {s.c * s.heads, s.nk, s.b}, k.data());
                ggml_tensor * tv = g.input(GGML_TYPE_F32, {s.cv * s.heads, s.nk, s.b}, v.data());
                g.output(attention(g, split_heads(g, tq, s.heads), split_heads(g, tk, s.heads), split_heads(g, tv, s.heads), 0.3f), got.data());
            }, r, c);
            CHECK(fixture::relative_rms(got, want) < 1e-6);
            CHECK(c.flop == 2ull * s.b * s.nq * s.nk * s.heads * (s.c + s.cv));
        }
    }
}

TEST_CASE("a stage reports, traces, copies out and can be canceled") {
    const auto x = noise(4 * 6, 1);
    struct seen { std::vector<float> done; std::map<std::string, fixture::array> traces; float stop_at = 2; } s;
    ub_call call{};
    call.size = sizeof call;
    call.user = &s;
    call.progress = [](float done, void * user) {
        auto & s = *static_cast<seen *>(user);
        s.done.push_back(done);
        return done < s.stop_at;
    };
    call.trace = [](const char * name, const float * data, const int64_t * shape, int32_t n, void * user) {
        fixture::array a{{shape, shape + n}, {}};
        int64_t size = 1;
        for (int i = 0; i < n; ++i) size *= shape[i];
        a.data.assign(data, data + size);
        static_cast<seen *>(user)->traces[name] = a;
    };

    stage st(tested(), 64);
    counters c;
    std::vector<float> out(x.size());
    const auto build = [&](graph & g) {
        ggml_tensor * t = g.input(GGML_TYPE_F32, {2, 3, 4}, x.data());  // {C, W, H}
        g.tap("in", t, {4, 3, 2});
        t = g.block(ggml_scale(g.ctx, t, 2));
        g.tap("map", t, {2, 4, 3}, layout::channels_last);
        t = g.block(ggml_scale(g.ctx, t, 2));
        g.output(t, out.data());
    };
    {
        reporter r(&call);
        r.range(0.5f, 1);
        st.run(build, r, c);
        CHECK(s.done.front() >= 0.5f);
        CHECK(std::count(s.done.begin(), s.done.end(), 0.75f) >= 1);
        CHECK(std::is_sorted(s.done.begin(), s.done.end()));
        CHECK(s.done.back() == 1);
        for (size_t i = 0; i < x.size(); ++i) CHECK(out[i] == 4 * x[i]);
        CHECK(s.traces["in"].data == x);
        const auto & map = s.traces["map"];
        CHECK(map.shape == std::vector<int64_t>{2, 4, 3});
        for (size_t c = 0; c < 2; ++c) for (size_t y = 0; y < 4; ++y) for (size_t w = 0; w < 3; ++w) {
            CHECK(map.data[(c * 4 + y) * 3 + w] == 2 * x[(y * 3 + w) * 2 + c]);
        }
    }
    {
        s.stop_at = 0.6f;
        reporter r(&call);
        CHECK_THROWS_AS(st.run(build, r, c), ub::error);
        CHECK(r.canceled());
    }
    s.stop_at = 2;
    reporter r(&call);
    st.run(build, r, c);  // usable again
    if (tested()->is_cpu()) CHECK(st.measure(build) > 0);  // without weights nothing draws the graph to a GPU
}

TEST_CASE("a turnstile lets waiting calls in between blocks") {
    turnstile t;
    t.enter();
    CHECK(t.yield() == 0);  // nobody waits
    t.leave();
}

// Norms, mlp1 and GELU on inputs so small that a wrong epsilon or the tanh form of GELU shows.
TEST_CASE("small inputs") {
    const auto dir = fixture::shared("golden/tiny");
    if (dir.empty()) return;
    auto small = fixture::read_safetensors(dir / "small_inputs.safetensors");
    auto model = fixture::read_safetensors(dir / "checkpoint" / "model.safetensors");
    const auto run = [&](const std::string & name, const std::function<ggml_tensor *(graph &, ggml_tensor *)> & f) {
        CAPTURE(name);
        auto & in = small.at(name + ".in");
        auto & want = small.at(name + ".out");
        std::vector<float> got(want.data.size());
        stage st(tested(), 64);
        reporter r;
        counters c;
        st.run([&](graph & g) {
            const int64_t width = in.shape.back(), rows = int64_t(in.data.size()) / width;
            g.output(f(g, g.input(GGML_TYPE_F32, {width, rows}, in.data.data())), got.data());
        }, r, c);
        CHECK(fixture::relative_rms(got, want.data) <= 1e-5);
    };
    const auto vector = [&](graph & g, const std::string & name) {
        auto & a = model.at(name);
        return g.input(GGML_TYPE_F32, {a.shape.back(), int64_t(a.data.size()) / a.shape.back()}, a.data.data());
    };
    const auto norm = [&](graph & g, const std::string & name) { return norm_weights{vector(g, name + ".weight"), vector(g, name + ".bias")}; };
    const auto layer = [&](graph & g, const std::string & name) { return linear_weights{vector(g, name + ".weight"), vector(g, name + ".bias")}; };

    run("gelu", [&](graph & g, ggml_tensor * x) { return gelu(g, x); });
    run("vision_norm1", [&](graph & g, ggml_tensor * x) { return layer_norm(g, norm(g, "vision_model.encoder.layers.0.norm1"), 1e-6f, x); });
    run("mlp1", [&](graph & g, ggml_tensor * x) {
        return gelu_mlp(g, layer(g, "mlp1.1"), layer(g, "mlp1.3"), layer_norm(g, norm(g, "mlp1.0"), 1e-5f, x));
    });
}

TEST_CASE("a stage runs many graphs of many sizes") {
    stage st(tested(), 4096);
    reporter r;
    counters c;
    for (int length : {700, 701, 650, 3, 703, 700, 700, 1}) {
        const float one = 1;
        float out = 0;
        st.run([&](graph & g) {
            ggml_tensor * x = g.input(GGML_TYPE_F32, {1}, &one);
            ggml_tensor * y = x;
            for (int i = 0; i < length; ++i) y = g.block(ggml_add(g.ctx, y, x));
            g.output(y, &out);
        }, r, c);
        CHECK(out == float(length + 1));
    }
}
