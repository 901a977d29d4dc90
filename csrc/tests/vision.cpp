// The vision tower through the C ABI, on a small random file. The Go tests compare it with the golden cases.

#include "fixtures.h"

namespace {

struct tower {
    fixture::temp_dir dir;
    std::string path = dir.file("vision.gguf");
    fixture::gguf_builder b;
    tower() { fixture::add_vision(b); }
};

std::vector<float> noise(size_t n) {
    std::minstd_rand rng(5);
    std::normal_distribution<float> dist;
    std::vector<float> v(n);
    for (float & x : v) x = dist(rng);
    return v;
}

std::string complaint(fixture::gguf_builder & b, ub_status want = UB_E_FORMAT) {
    const fixture::temp_dir dir;
    const std::string path = dir.file("vision.gguf");
    b.write(path);
    const auto f = fixture::files(nullptr, path.c_str());
    ub_error err;
    CHECK(ub_model_check(&f, &err) == want);
    CHECK(std::string(err.message).find(path) != std::string::npos);
    return err.message;
}

#define HAS(text, part) CHECK_MESSAGE((text).find(part) != std::string::npos, "'" << (text) << "' has no '" << (part) << "'")

} // namespace

TEST_CASE("tiles do not depend on their batch") {
    tower t;
    t.b.write(t.path);
    const auto f = fixture::files(nullptr, t.path.c_str());
    const size_t tile = 3 * 32 * 32, out = 16 * 32;
    const auto tiles = noise(5 * tile);
    std::vector<float> first;
    for (uint32_t batch : {1u, 2u, 5u, 0u}) {
        auto p = fixture::params();
        p.tile_batch = batch;
        const auto m = fixture::open(f, p);
        ub_error err;
        std::vector<float> e(5 * out);
        REQUIRE(ub_vision_encode(m.get(), tiles.data(), 5, e.data(), nullptr, &err) == UB_OK);
        if (first.empty()) first = e;
        CHECK(fixture::relative_rms(e, first) < fixture::bar(1e-6));
        CHECK(fixture::relative_rms({e.begin(), e.begin() + out}, {e.begin() + out, e.begin() + 2 * out}) > 1e-3);

        ub_stage_stats stats[UB_STAGE_COUNT];
        REQUIRE(ub_model_stats(m.get(), stats, &err) == UB_OK);
        CHECK(stats[UB_STAGE_VISION].calls == 1);
        CHECK(stats[UB_STAGE_VISION].items == 5);
        // per tile: patches, two blocks of four linear layers and attention over 65 tokens, projector
        const uint64_t block = 65 * 16 * (3 * 16 + 16 + 2 * 24) + 2 * 65 * 65 * 16, one = 64 * 48 * 16 + 2 * block + 16 * (64 * 32 + 32 * 32);
        CHECK(stats[UB_STAGE_VISION].flop == 5 * 2 * one);

        int32_t length = 0;
        REQUIRE(ub_model_operations(m.get(), nullptr, 0, &length, &err) == UB_OK);
        std::string ran(size_t(length) + 1, '\0');
        REQUIRE(ub_model_operations(m.get(), ran.data(), length + 1, &length, &err) == UB_OK);
        // two norms a block and that of the projector, once a batch
        const uint32_t passes = batch > 0 ? (5 + batch - 1) / batch : 0;
        const std::string norms = "vision\tNORM\t" + std::string(p.device) + '\t' + (batch > 0 ? std::to_string(5 * passes) + '\n' : "");
        CHECK_MESSAGE(ran.find(norms) != std::string::npos, ran);
    }
}

TEST_CASE("sizes, plan and metadata") {
    tower t;
    t.b.write(t.path);
    const auto f = fixture::files(nullptr, t.path.c_str());
    auto p = fixture::params();
    ub_error err;
    ub_memory_plan plan{};
    plan.size = sizeof plan;
    REQUIRE(ub_model_plan(&f, &p, &plan, &err) == UB_OK);
    CHECK(plan.weights_vision > 0);
    CHECK(plan.compute_vision > 16 * 65 * 4);
    CHECK(plan.weights_language == 0);
    CHECK(plan.total == plan.weights_vision + plan.compute_vision);
    CHECK(plan.available > plan.total);

    p.memory_limit = plan.total - 1;
    ub_model * m = nullptr;
    CHECK(ub_model_open(&f, &p, nullptr, &m, &err) == UB_E_NOMEM);
    HAS(std::string(err.message), std::to_string(plan.total));
    HAS(std::string(err.message), std::to_string(plan.total - 1));
    p.memory_limit = plan.total;
    const auto opened = fixture::open(f, p);

    ub_model_info info{};
    info.size = sizeof info;
    REQUIRE(ub_model_get_info(opened.get(), &info, &err) == UB_OK);
    CHECK(info.tile_size == 32);
    CHECK(info.tile_tokens == 16);
    CHECK(info.vit_tokens == 65);
    CHECK(info.n_embd == 32);
    CHECK(info.n_vocab == 0);
    CHECK(info.tile_std[1] == 0.224f);

    int32_t n;
    CHECK(ub_model_metadata(opened.get(), "general.name", nullptr, 0, &n, &err) == UB_E_INVALID);  // no language file
    ub_session * s;
    CHECK(ub_session_open(opened.get(), 0, &s, &err) == UB_E_INVALID);
    float x = 0;
    ub_features * features;
    CHECK(ub_features_encode(opened.get(), &x, &features, nullptr, &err) == UB_E_INVALID);
    CHECK(ub_vision_encode(opened.get(), &x, 0, &x, nullptr, &err) == UB_E_INVALID);
    CHECK(ub_vision_encode(opened.get(), nullptr, 1, &x, nullptr, &err) == UB_E_INVALID);
    CHECK(ub_vision_encode(nullptr, &x, 1, &x, nullptr, nullptr) == UB_E_INVALID);
    p.device = "cuda99";
    CHECK(ub_model_open(&f, &p, nullptr, &m, &err) == UB_E_DEVICE);
    HAS(std::string(err.message), "cuda99");
}

TEST_CASE("a canceled call stops within one block and leaves the model usable") {
    tower t;
    t.b.write(t.path);
    const auto m = fixture::open(fixture::files(nullptr, t.path.c_str()), fixture::params());
    const auto tiles = noise(3 * 3 * 32 * 32);
    std::vector<float> e(3 * 16 * 32);
    std::vector<float> seen;
    ub_call call{};
    call.size = sizeof call;
    call.user = &seen;
    ub_error err;
    call.progress = [](float done, void * user) { static_cast<std::vector<float> *>(user)->push_back(done); return done < 0.3f; };
    CHECK(ub_vision_encode(m.get(), tiles.data(), 3, e.data(), &call, &err) == UB_E_CANCELED);
    CHECK(std::is_sorted(seen.begin(), seen.end()));
    CHECK(std::count_if(seen.begin(), seen.end(), [](float done) { return done >= 0.3f; }) == 1);  // nothing after the answer "no"
    call.progress = [](float, void *) { return true; };
    CHECK(ub_vision_encode(m.get(), tiles.data(), 3, e.data(), &call, &err) == UB_OK);
    call.size = 3;
    CHECK(ub_vision_encode(m.get(), tiles.data(), 3, e.data(), &call, &err) == UB_E_INVALID);
}

TEST_CASE("files that do not fit") {
    { tower t; t.b.tensors.erase("blocks.1.ls1"); t.b.tensors.erase("class_embed");
      HAS(complaint(t.b), "2 missing: 'class_embed', 'blocks.1.ls1'"); }
    { tower t; t.b.random("pos_embed", {64, 16}, 1); HAS(complaint(t.b), "'pos_embed' is [64, 16], want [65, 16]"); }
    { tower t; t.b.random("blocks.2.ls1", {16}, 1); HAS(complaint(t.b), "1 unexpected: 'blocks.2.ls1'"); }
    { tower t; t.b.u32("vision.block_count", 3); HAS(complaint(t.b), "missing: 'blocks.2.norm1.weight'"); }
    { tower t; t.b.u32("vision.block_count", 0); HAS(complaint(t.b), "vision.block_count' is 0"); }
    { tower t; t.b.u32("vision.block_count", 4000000000u); HAS(complaint(t.b), "vision.block_count' is 4000000000, want 1 to"); }
    { tower t; t.b.u32("vision.patch_size", 5); HAS(complaint(t.b), "does not divide"); }
    { tower t; t.b.u32("vision.attention.head_count", 3); HAS(complaint(t.b), "does not divide"); }
    { tower t; t.b.f32("vision.attention.layer_norm_epsilon", -1); HAS(complaint(t.b), "layer_norm_epsilon"); }
    { tower t; t.b.f32s("vision.image_std", {1, 0, 1}); HAS(complaint(t.b), "image_std"); }
    { tower t; t.b.f32s("vision.image_mean", {1, 0}); HAS(complaint(t.b), "has 2 elements, want 3"); }
    { tower t; t.b.str("vision.image_size", "448"); HAS(complaint(t.b), "is of type string, want u32"); }
    { tower t; t.b.str("general.architecture", "clip"); HAS(complaint(t.b), "'clip'"); }
    { tower t; t.b.u32("unibiomed.format_version", 2); HAS(complaint(t.b, UB_E_UNSUPPORTED), "format_version is 2"); }
}

TEST_CASE("pixel shuffle version 1 gives the same tokens, columns first") {
    tower t;
    t.b.write(t.path);
    tower t1;
    t1.b.u32("vision.pixel_shuffle_version", 1);
    t1.b.write(t1.path);
    const auto tiles = noise(3 * 32 * 32);
    std::vector<float> rows(16 * 32), columns(16 * 32);
    ub_error err;
    REQUIRE(ub_vision_encode(fixture::open(fixture::files(nullptr, t.path.c_str()), fixture::params()).get(), tiles.data(), 1, rows.data(), nullptr, &err) == UB_OK);
    REQUIRE(ub_vision_encode(fixture::open(fixture::files(nullptr, t1.path.c_str()), fixture::params()).get(), tiles.data(), 1, columns.data(), nullptr, &err) == UB_OK);
    std::vector<float> turned(rows.size());
    for (size_t y = 0; y < 4; ++y) for (size_t x = 0; x < 4; ++x) std::copy_n(&rows[(y * 4 + x) * 32], 32, &turned[(x * 4 + y) * 32]);
    CHECK(fixture::relative_rms(columns, turned) < fixture::bar(1e-6));
}

// The same tower written plainly, in double precision. Tensors are [rows][columns].
namespace plain {

using matrix = std::vector<std::vector<double>>;

struct model {
    const std::map<std::string, fixture::array> & t;
    double at(const std::string & name, size_t i) const { return t.at(name).data[i]; }

    matrix linear(const std::string & name, const matrix & x) const {
        const auto & w = t.at(name + ".weight");
        const size_t out = size_t(w.shape[0]), in = size_t(w.shape[1]);
        matrix y(x.size(), std::vector<double>(out));
        for (size_t r = 0; r < x.size(); ++r) for (size_t o = 0; o < out; ++o) {
            y[r][o] = at(name + ".bias", o);
            for (size_t i = 0; i < in; ++i) y[r][o] += x[r][i] * double(w.data[o * in + i]);
        }
        return y;
    }
    matrix norm(const std::string & name, matrix x, double eps) const {
        for (auto & row : x) {
            double mean = 0, var = 0;
            for (double v : row) mean += v / double(row.size());
            for (double v : row) var += (v - mean) * (v - mean) / double(row.size());
            for (size_t i = 0; i < row.size(); ++i) row[i] = (row[i] - mean) / std::sqrt(var + eps) * at(name + ".weight", i) + at(name + ".bias", i);
        }
        return x;
    }
};

matrix gelu(matrix x) {
    for (auto & row : x) for (double & v : row) v *= 0.5 * (1 + std::erf(v / std::sqrt(2.0)));
    return x;
}

// tile [3, 32, 32] -> [16][32]
matrix encode(const model & m, const float * tile) {
    const size_t width = 16, heads = 4, c = 4;
    matrix patches;
    for (size_t py = 0; py < 8; ++py) for (size_t px = 0; px < 8; ++px) {
        std::vector<double> p;
        for (size_t k = 0; k < 3; ++k) for (size_t y = 0; y < 4; ++y) for (size_t x = 0; x < 4; ++x) p.push_back(tile[(k * 32 + py * 4 + y) * 32 + px * 4 + x]);
        patches.push_back(p);
    }
    matrix x = m.linear("patch_embed", patches);
    x.insert(x.begin(), std::vector<double>(width));
    for (size_t i = 0; i < width; ++i) x[0][i] = m.at("class_embed", i);
    for (size_t r = 0; r < x.size(); ++r) for (size_t i = 0; i < width; ++i) x[r][i] += m.at("pos_embed", r * width + i);

    for (const std::string b : {"blocks.0.", "blocks.1."}) {
        const matrix qkv = m.linear(b + "attn.qkv", m.norm(b + "norm1", x, 1e-6));
        matrix a(x.size(), std::vector<double>(width));
        for (size_t h = 0; h < heads; ++h) for (size_t i = 0; i < x.size(); ++i) {
            std::vector<double> p;
            double sum = 0;
            for (size_t j = 0; j < x.size(); ++j) {
                double s = 0;
                for (size_t k = 0; k < c; ++k) s += qkv[i][h * c + k] * qkv[j][width + h * c + k];
                p.push_back(std::exp(s / std::sqrt(double(c))));
                sum += p.back();
            }
            for (size_t j = 0; j < x.size(); ++j) for (size_t k = 0; k < c; ++k) a[i][h * c + k] += p[j] / sum * qkv[j][2 * width + h * c + k];
        }
        a = m.linear(b + "attn.proj", a);
        for (size_t r = 0; r < x.size(); ++r) for (size_t i = 0; i < width; ++i) x[r][i] += m.at(b + "ls1", i) * a[r][i];
        a = m.linear(b + "mlp.fc2", gelu(m.linear(b + "mlp.fc1", m.norm(b + "norm2", x, 1e-6))));
        for (size_t r = 0; r < x.size(); ++r) for (size_t i = 0; i < width; ++i) x[r][i] += m.at(b + "ls2", i) * a[r][i];
    }

    matrix merged;
    for (size_t y = 0; y < 4; ++y) for (size_t w = 0; w < 4; ++w) {
        merged.emplace_back();
        for (size_t dy = 0; dy < 2; ++dy) for (size_t dx = 0; dx < 2; ++dx) {
            const auto & token = x[1 + (2 * y + dy) * 8 + 2 * w + dx];
            merged.back().insert(merged.back().end(), token.begin(), token.end());
        }
    }
    return m.linear("projector.fc2", gelu(m.linear("projector.fc1", m.norm("projector.norm", merged, 1e-5))));
}

} // namespace plain

TEST_CASE("the tower against a plain one") {
    tower t;
    t.b.write(t.path);
    const auto m = fixture::open(fixture::files(nullptr, t.path.c_str()), fixture::params());
    const auto tiles = noise(2 * 3 * 32 * 32);
    std::vector<float> got(2 * 16 * 32), want;
    std::map<std::string, std::vector<int64_t>> shapes;
    ub_call call{};
    call.size = sizeof call;
    call.user = &shapes;
    call.trace = [](const char * name, const float *, const int64_t * shape, int32_t n, void * user) {
        (*static_cast<std::map<std::string, std::vector<int64_t>> *>(user))[name] = {shape, shape + n};
    };
    ub_error err;
    REQUIRE(ub_vision_encode(m.get(), tiles.data(), 2, got.data(), &call, &err) == UB_OK);
    for (int i = 0; i < 2; ++i) {
        for (const auto & row : plain::encode({t.b.tensors}, tiles.data() + i * 3 * 32 * 32)) want.insert(want.end(), row.begin(), row.end());
    }
    CHECK(fixture::relative_rms(got, want) < fixture::bar(1e-6));
    CHECK(shapes.at("vit_output") == std::vector<int64_t>{2, 65, 16});
    CHECK(shapes.at("mlp1_output") == std::vector<int64_t>{2, 16, 32});
}
