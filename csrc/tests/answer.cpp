// One small answer from pixels to masks through the C ABI, on small random files. instructions.sh counts what it takes.

#include "sam2_fixture.h"

namespace {

std::vector<float> noise(size_t n, unsigned seed) {
    std::minstd_rand rng(seed);
    std::normal_distribution<float> dist;
    std::vector<float> v(n);
    for (float & x : v) x = dist(rng);
    return v;
}

struct small_model {
    fixture::temp_dir   dir;
    fixture::model_ptr  m;
    fixture::sam2_sizes sizes;
    ub_model_info       info{};

    small_model() {
        fixture::gguf_builder language, vision, grounding;
        const std::string l = dir.file("language.gguf"), v = dir.file("vision.gguf"), g = dir.file("grounding.gguf");
        sizes.input = 32;  // the language model's
        fixture::add_language(language);
        fixture::add_vision(vision);
        fixture::add_sam2(grounding, sizes);
        language.write(l);
        vision.write(v);
        grounding.write(g);
        ub_model_files f = fixture::files(l.c_str(), v.c_str());
        f.grounding = g.c_str();
        auto p = fixture::params();
        p.n_threads = 1;
        m = fixture::open(f, p);
        info.size = sizeof info;
        ub_error err;
        REQUIRE(ub_model_get_info(m.get(), &info, &err) == UB_OK);
    }
};

// Three tiles, a prompt around them, eight tokens, two masks.
void answer(const small_model & s, const std::vector<float> & tiles, const std::vector<float> & image, fixture::masks & masks) {
    ub_error err;
    std::vector<float> rows(size_t(3 * s.info.tile_tokens * s.info.n_embd)), logits(size_t(s.info.n_vocab)), hidden(size_t(s.info.n_embd)), states;
    REQUIRE(ub_vision_encode(s.m.get(), tiles.data(), 3, rows.data(), nullptr, &err) == UB_OK);
    ub_session * session = nullptr;
    REQUIRE(ub_session_open(s.m.get(), 0, &session, &err) == UB_OK);
    const fixture::session_ptr closes(session);
    std::vector<int32_t> ids(10, 7);
    ids.insert(ids.begin() + 5, size_t(3 * s.info.tile_tokens), UB_EMBEDDING);
    REQUIRE(ub_session_prefill(session, ids.data(), int32_t(ids.size()), rows.data(), int32_t(3 * s.info.tile_tokens), logits.data(), hidden.data(), nullptr, &err) == UB_OK);
    for (int i = 0; i < 8; ++i) {
        const auto best = int32_t(std::max_element(logits.begin(), logits.end()) - logits.begin());
        REQUIRE(ub_session_decode(session, &best, 1, logits.data(), hidden.data(), &err) == UB_OK);
        if (i < 2) states.insert(states.end(), hidden.begin(), hidden.end());
    }
    ub_features * features = nullptr;
    REQUIRE(ub_features_encode(s.m.get(), image.data(), &features, nullptr, &err) == UB_OK);
    const fixture::features_ptr closes_features(features);
    REQUIRE(ub_masks_decode(s.m.get(), features, states.data(), 2, &masks.out, nullptr, &err) == UB_OK);
}

} // namespace

// What instructions.sh counts: the second answer, which plans and compiles nothing.
extern "C" __attribute__((noinline)) void counted_answer(const void * model, const void * tiles, const void * image, void * masks) {
    answer(*static_cast<const small_model *>(model), *static_cast<const std::vector<float> *>(tiles), *static_cast<const std::vector<float> *>(image),
           *static_cast<fixture::masks *>(masks));
}

TEST_CASE("a small answer, twice the same") {
    const small_model s;
    const auto tiles = noise(3 * 3 * 32 * 32, 1), image = noise(3 * size_t(s.sizes.image) * size_t(s.sizes.image), 2);
    fixture::masks first(s.info, 2), second(s.info, 2);
    answer(s, tiles, image, first);
    counted_answer(&s, &tiles, &image, &second);
    CHECK(first.logits == second.logits);
    CHECK(std::all_of(first.logits.begin(), first.logits.end(), [](float v) { return std::isfinite(v); }));
}
