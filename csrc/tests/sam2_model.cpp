// SAM 2 through the C ABI on a small random file: that batches, traces, tracks and cancelling change nothing they should not,
// and that files whose keys and tensors disagree are refused.

#include "sam2_fixture.h"

namespace {

using fixture::array;

struct sam2_model {
    fixture::temp_dir dir;
    fixture::sam2_sizes sizes;
    fixture::model_ptr m;
    ub_model_info info{};

    explicit sam2_model(uint32_t mask_batch = 0) {
        const std::string path = dir.file("grounding.gguf");
        fixture::gguf_builder b;
        fixture::add_sam2(b, sizes);
        b.write(path);
        auto p = fixture::params();
        p.mask_batch = mask_batch;
        m = fixture::open(fixture::grounding_files(path), p);
        info.size = sizeof info;
        ub_error err;
        REQUIRE(ub_model_get_info(m.get(), &info, &err) == UB_OK);
    }

    fixture::features_ptr encode(unsigned seed, const ub_call * call = nullptr) {
        ub_features * f = nullptr;
        ub_error err;
        REQUIRE(ub_features_encode(m.get(), noise(3 * size_t(sizes.image) * size_t(sizes.image), seed).data(), &f, call, &err) == UB_OK);
        return fixture::features_ptr(f);
    }

    fixture::masks decode(const ub_features * f, const std::vector<float> & hidden, const ub_call * call = nullptr) {
        fixture::masks out(info, int(hidden.size()) / sizes.input);
        ub_error err;
        REQUIRE(ub_masks_decode(m.get(), f, hidden.data(), int32_t(hidden.size()) / sizes.input, &out.out, call, &err) == UB_OK);
        return out;
    }

    fixture::track_ptr track(const std::vector<float> & hidden) {
        ub_track * t = nullptr;
        ub_error err;
        REQUIRE(ub_track_open(m.get(), hidden.data(), &t, &err) == UB_OK);
        return fixture::track_ptr(t);
    }

    static std::vector<float> noise(size_t n, unsigned seed) {
        std::minstd_rand rng(seed);
        std::normal_distribution<float> dist;
        std::vector<float> v(n);
        for (float & x : v) x = dist(rng);
        return v;
    }
};

ub_masks nothing() {
    ub_masks out;
    ub_masks_init(&out);
    return out;
}

} // namespace

TEST_CASE("sizes come from the keys") {
    const sam2_model s;
    CHECK(s.info.mask_image_size == 64);
    CHECK(s.info.feature_size == 4);
    CHECK(s.info.mask_size == 16);
    CHECK(s.info.mask_embd == 32);
    CHECK(s.info.n_masks == 4);
    CHECK(s.info.memory_embd == 8);
    CHECK(s.info.n_maskmem == 3);
    CHECK(s.info.n_prompted_slices == 5);
}

TEST_CASE("prompts do not depend on their batch") {
    const auto hidden = sam2_model::noise(5 * 24, 3);
    std::vector<float> first;
    for (uint32_t batch : {1u, 2u, 5u, 0u}) {
        sam2_model s(batch);
        const auto f = s.encode(1);
        const auto got = s.decode(f.get(), hidden);
        if (first.empty()) first = got.logits;
        CHECK(fixture::relative_rms(got.logits, first) < 1e-5);
        const size_t one = got.logits.size() / 5;
        CHECK(fixture::relative_rms({got.logits.begin(), got.logits.begin() + long(one)}, {got.logits.begin() + long(one), got.logits.begin() + 2 * long(one)}) > 1e-4);
        for (int i = 0; i < 5; ++i) {
            const float * iou = &got.iou[size_t(4 * i)];
            CHECK(got.selected[size_t(i)] == int(std::max_element(iou + 1, iou + 4) - iou));
        }
    }
}

TEST_CASE("a trace has all tensors and changes no result") {
    sam2_model s;
    fixture::tracer t;
    const auto traced = s.encode(1, &t.call), plain = s.encode(1);
    const auto hidden = sam2_model::noise(2 * 24, 3);
    const auto a = s.decode(traced.get(), hidden, &t.call), b = s.decode(plain.get(), hidden);
    CHECK(a.logits == b.logits);
    CHECK(a.iou == b.iou);

    const std::vector<std::pair<const char *, std::vector<int64_t>>> want = {
        {"C0", {8, 16, 16}}, {"C1", {16, 8, 8}}, {"C2", {32, 4, 4}}, {"C3", {64, 2, 2}}, {"P0", {32, 16, 16}}, {"P1", {32, 8, 8}}, {"P2", {32, 4, 4}},
        {"F0", {4, 16, 16}}, {"F1", {8, 8, 8}}, {"F2", {32, 4, 4}}, {"seg_embedding", {2, 32}}, {"dense_pe", {32, 4, 4}}, {"dense_prompt_vector", {32}},
        {"sparse_tokens", {2, 3, 32}}, {"hs.0", {9, 32}}, {"hs.1", {9, 32}}, {"mask_logits.0", {4, 16, 16}}, {"mask_logits.1", {4, 16, 16}}};
    for (const auto & [name, shape] : want) {
        CAPTURE(std::string(name));
        REQUIRE(t.all.count(name) == 1);
        CHECK(t.all[name].shape == shape);
    }
    CHECK(t.all.size() == want.size());
    const auto & all = t.all["mask_logits.1"].data;
    CHECK(std::equal(a.logits.begin() + 256, a.logits.end(), all.begin() + 256 * a.selected[1]));

    // features made of traced tensors decode as the encoder's own
    ub_features * f = nullptr;
    ub_error err;
    REQUIRE(ub_features_from(s.m.get(), t.all["F0"].data.data(), t.all["F1"].data.data(), t.all["F2"].data.data(), &f, &err) == UB_OK);
    const fixture::features_ptr owner(f);
    CHECK(s.decode(f, hidden).logits == a.logits);
}

TEST_CASE("any result may be left out") {
    sam2_model s;
    const auto f = s.encode(1);
    const auto hidden = sam2_model::noise(3 * 24, 3);
    ub_error err;
    ub_masks none = nothing();
    CHECK(ub_masks_decode(s.m.get(), f.get(), hidden.data(), 3, &none, nullptr, &err) == UB_OK);
    fixture::masks got(s.info, 3);
    got.out.logits = nullptr;
    REQUIRE(ub_masks_decode(s.m.get(), f.get(), hidden.data(), 3, &got.out, nullptr, &err) == UB_OK);
    CHECK(got.iou == s.decode(f.get(), hidden).iou);
}

TEST_CASE("cancelling stops within a block, and the model goes on") {
    sam2_model s;
    struct stop { int after, calls; float last; };
    ub_call call{};
    call.size = sizeof call;
    call.progress = [](float done, void * user) {
        auto & st = *static_cast<stop *>(user);
        CHECK(done >= st.last);
        CHECK(done <= 1);
        st.last = done;
        return ++st.calls <= st.after;
    };
    const auto image = sam2_model::noise(3 * 64 * 64, 1), hidden = sam2_model::noise(3 * 24, 3);
    ub_error err;
    for (int after : {0, 2}) {
        stop st{after, 0, 0};
        call.user = &st;
        ub_features * f = nullptr;
        CHECK(ub_features_encode(s.m.get(), image.data(), &f, &call, &err) == UB_E_CANCELED);
        CHECK(f == nullptr);
        CHECK(st.calls == after + 1);
    }
    const auto f = s.encode(1);
    stop st{1, 0, 0};
    call.user = &st;
    ub_masks none = nothing();
    CHECK(ub_masks_decode(s.m.get(), f.get(), hidden.data(), 3, &none, &call, &err) == UB_E_CANCELED);

    st = {1 << 20, 0, 0};
    fixture::masks got(s.info, 3);
    REQUIRE(ub_masks_decode(s.m.get(), f.get(), hidden.data(), 3, &got.out, &call, &err) == UB_OK);
    CHECK(st.calls > 3);
    CHECK(got.logits == s.decode(f.get(), hidden).logits);
}

TEST_CASE("a track remembers") {
    sam2_model s;
    const auto hidden = sam2_model::noise(24, 3);
    const auto t = s.track(hidden);
    ub_error err;
    ub_masks none = nothing();
    const auto first = s.encode(1);
    CHECK(ub_track_step(t.get(), 0, first.get(), &none, nullptr, &err) == UB_E_INVALID);
    CHECK(std::string(err.message).find("no slice of this track was prompted") != std::string::npos);

    // a prompted slice is decoded as an image is
    fixture::tracer trace;
    fixture::masks prompted(s.info, 1);
    REQUIRE(ub_track_prompt(t.get(), 0, first.get(), &prompted.out, &trace.call, &err) == UB_OK);
    const auto image = s.decode(first.get(), hidden);
    CHECK(prompted.logits == image.logits);
    CHECK(prompted.embedding == image.embedding);
    CHECK(trace.all["slice.0.hs"].shape == std::vector<int64_t>{9, 32});
    CHECK(trace.all["slice.0.mask_logits"].shape == std::vector<int64_t>{4, 16, 16});
    CHECK(trace.all["slice.0.obj_ptr"].shape == std::vector<int64_t>{32});
    CHECK(trace.all["memory.0"].shape == std::vector<int64_t>{8, 4, 4});
    CHECK(ub_track_step(t.get(), 0, first.get(), &none, nullptr, &err) == UB_E_INVALID);

    // tracking is repeatable after rewinding, and depends on what came before
    std::vector<std::vector<float>> runs[2];
    for (auto & run : runs) {
        for (int i = 1; i < 7; ++i) {
            const auto f = s.encode(unsigned(i + 1));
            fixture::masks out(s.info, 1);
            out.embedding[0] = 42;
            REQUIRE(ub_track_step(t.get(), i, f.get(), &out.out, &trace.call, &err) == UB_OK);
            CHECK(out.embedding[0] == 42);
            run.push_back(out.logits);
        }
        ub_track_rewind(t.get());
    }
    CHECK(runs[0] == runs[1]);
    CHECK(trace.all["slice.3.memory_attention_out"].shape == std::vector<int64_t>{16, 32});
    CHECK(trace.all["slice.3.hs"].shape == std::vector<int64_t>{8, 32});
    // one prompted slice, two tracked ones; pointers of one prompted and of up to three tracked slices, four tokens each
    CHECK(trace.all["slice.6.memory_pos"].shape == std::vector<int64_t>{3 * 16 + 4 * 4, 8});
    CHECK(trace.all["slice.6.object_pointer_tokens"].shape == std::vector<int64_t>{4 * 4, 8});
    const auto f = s.encode(7);
    fixture::masks skipped(s.info, 1);
    REQUIRE(ub_track_step(t.get(), 6, f.get(), &skipped.out, nullptr, &err) == UB_OK);
    CHECK(skipped.logits != runs[0].back());
}

TEST_CASE("a canceled step leaves the track as it was") {
    sam2_model s;
    const auto t = s.track(sam2_model::noise(24, 3)), u = s.track(sam2_model::noise(24, 3));
    const auto f = s.encode(1), g = s.encode(2);
    ub_error err;
    ub_masks none = nothing();
    for (ub_track * x : {t.get(), u.get()}) REQUIRE(ub_track_prompt(x, 0, f.get(), &none, nullptr, &err) == UB_OK);
    ub_call call{};
    call.size = sizeof call;
    call.progress = [](float done, void *) { return done < 0.8f; };
    CHECK(ub_track_step(t.get(), 1, g.get(), &none, &call, &err) == UB_E_CANCELED);
    fixture::masks a(s.info, 1), b(s.info, 1);
    for (int i = 1; i < 3; ++i) {
        REQUIRE(ub_track_step(t.get(), i, g.get(), &a.out, nullptr, &err) == UB_OK);
        REQUIRE(ub_track_step(u.get(), i, g.get(), &b.out, nullptr, &err) == UB_OK);
        CHECK(a.logits == b.logits);
    }
}

TEST_CASE("features of another model are refused") {
    sam2_model s, other;
    const auto f = other.encode(1);
    const auto hidden = sam2_model::noise(24, 3);
    ub_error err;
    ub_masks none = nothing();
    CHECK(ub_masks_decode(s.m.get(), f.get(), hidden.data(), 1, &none, nullptr, &err) == UB_E_INVALID);
}

// ---------------------------------------------------------------------------------------------------------- bad files

namespace {

void check_refused(fixture::gguf_builder & b, ub_status want, const std::vector<std::string> & parts) {
    const fixture::temp_dir dir;
    const std::string path = dir.file("grounding.gguf");
    b.write(path);
    const auto f = fixture::grounding_files(path);
    ub_error err;
    const ub_status status = ub_model_check(&f, &err);
    const std::string message = err.message;
    CAPTURE(message);
    CHECK(status == want);
    CHECK(message.find(path) != std::string::npos);
    for (const auto & part : parts) CHECK_MESSAGE(message.find(part) != std::string::npos, "no '" << part << "'");
    ub_model * m = nullptr;
    const auto p = fixture::params();
    CHECK(ub_model_open(&f, &p, nullptr, &m, &err) == want);
    CHECK(m == nullptr);
}

} // namespace

TEST_CASE("keys that contradict each other, or the tensors, are refused") {
    using builder = fixture::gguf_builder;
    struct bad { const char * name; std::function<void(builder &)> edit; ub_status status; std::vector<std::string> parts; };
    const auto u32 = [](const char * key, uint32_t v) { return [key, v](builder & b) { b.u32(key, v); }; };
    const auto list = [](const char * key, std::vector<uint32_t> v) { return [key, v](builder & b) { fixture::u32s(b, key, v); }; };
    const std::vector<bad> cases = {
        {"another architecture", [](builder & b) { b.str("general.architecture", "qwen2"); }, UB_E_UNSUPPORTED, {"qwen2"}},
        {"another format", u32("unibiomed.format_version", 2), UB_E_UNSUPPORTED, {"format_version is 2"}},
        {"no image", u32("sam2.image_size", 0), UB_E_FORMAT, {"sam2.image_size"}},
        {"an image of no whole tokens", u32("sam2.image_size", 72), UB_E_FORMAT, {"72", "16"}},
        {"a larger image than the positions are for", u32("sam2.image_size", 128), UB_E_FORMAT, {"trunk.pos_embed"}},
        {"a stride that is no power of two", u32("sam2.backbone_stride", 12), UB_E_FORMAT, {"12"}},
        {"a stride of one", u32("sam2.backbone_stride", 1), UB_E_FORMAT, {"sam2.backbone_stride"}},
        {"windows that do not divide the map", list("sam2.trunk.window_spec", {4, 3, 4, 2}), UB_E_UNSUPPORTED, {"window_spec 3"}},
        {"windows of odd side before pooling", list("sam2.trunk.window_spec", {1, 2, 4, 2}), UB_E_FORMAT, {"window_spec[0] is 1"}},
        {"no windows", list("sam2.trunk.window_spec", {0, 2, 4, 2}), UB_E_FORMAT, {"window_spec[0] is 0"}},
        {"windows larger than the map", list("sam2.trunk.window_spec", {32, 2, 4, 2}), UB_E_UNSUPPORTED, {"32"}},
        {"three stages", list("sam2.trunk.stages", {1, 2, 2}), UB_E_FORMAT, {"sam2.trunk.stages"}},
        {"an empty stage", list("sam2.trunk.stages", {1, 0, 2, 1}), UB_E_FORMAT, {"stages[1] is 0"}},
        {"a stage more than there are tensors", list("sam2.trunk.stages", {1, 2, 2, 2}), UB_E_FORMAT, {"trunk.blocks.6"}},
        {"fewer blocks than there are tensors", [](builder & b) { fixture::u32s(b, "sam2.trunk.stages", {1, 1, 2, 1}); fixture::u32s(b, "sam2.trunk.global_blocks", {}); }, UB_E_FORMAT,
         {"unexpected", "trunk.blocks.5"}},
        {"thousands of blocks", list("sam2.trunk.stages", {1, 2, 4000000000u, 1}), UB_E_FORMAT, {"stages[2]"}},
        {"a global block that pools", list("sam2.trunk.global_blocks", {3}), UB_E_FORMAT, {"has 3"}},
        {"a global block beyond the last", list("sam2.trunk.global_blocks", {6}), UB_E_FORMAT, {"has 6", "6 blocks"}},
        {"heads that do not divide the width", u32("sam2.trunk.head_count", 3), UB_E_FORMAT, {"8 channels", "3 heads"}},
        {"two poolings", u32("sam2.trunk.q_pool", 2), UB_E_UNSUPPORTED, {"q_pool is 2"}},
        {"another width", u32("sam2.trunk.embedding_length", 12), UB_E_FORMAT, {"trunk.patch_embed"}},
        {"top-down into the finest level", list("sam2.neck.top_down_levels", {0, 2, 3}), UB_E_UNSUPPORTED, {"top_down_levels has 0"}},
        {"decoder heads", u32("sam2.decoder.head_count", 7), UB_E_FORMAT, {"sam2.decoder.head_count", "7"}},
        {"one mask", u32("sam2.decoder.mask_count", 1), UB_E_FORMAT, {"sam2.decoder.mask_count"}},
        {"a mask more", u32("sam2.decoder.mask_count", 5), UB_E_FORMAT, {"decoder.hyper.4.0.weight", "decoder.mask_tokens"}},
        {"D that is no multiple of eight", u32("sam2.embedding_length", 36), UB_E_FORMAT, {"36"}},
        {"D of four billion", u32("sam2.embedding_length", 4294967288u), UB_E_FORMAT, {"sam2.embedding_length"}},
        {"a memory that pointers do not divide into", u32("sam2.memory.embedding_length", 12), UB_E_FORMAT, {"sam2.memory.embedding_length", "12"}},
        {"no positions in a memory", u32("sam2.memory.embedding_length", 2), UB_E_FORMAT, {"4"}},
        {"memory heads", u32("sam2.memory.attention_head_count", 16), UB_E_FORMAT, {"4"}},
        {"no memory", u32("sam2.memory.slice_count", 0), UB_E_FORMAT, {"sam2.memory.slice_count"}},
        {"a slice of memory more", u32("sam2.memory.slice_count", 4), UB_E_FORMAT, {"maskmem_tpos_enc"}},
        {"no base of the positions", [](builder & b) { b.f32("sam2.memory.rope_theta", 0); }, UB_E_FORMAT, {"sam2.memory.rope_theta"}},
        {"a scale that is no number", [](builder & b) { b.f32("sam2.memory.mask_scale", NAN); }, UB_E_FORMAT, {"sam2.memory.mask_scale"}},
        {"a key of another type", [](builder & b) { b.f32("sam2.decoder.block_count", 2); }, UB_E_FORMAT, {"sam2.decoder.block_count"}},
        {"a missing key", [](builder & b) { gguf_remove_key(b.g.get(), "sam2.prompted_slices"); }, UB_E_FORMAT, {"sam2.prompted_slices"}},
        {"a missing tensor", [](builder & b) { b.tensors.erase("decoder.iou_head.0.weight"); }, UB_E_FORMAT, {"missing", "decoder.iou_head.0.weight"}},
        {"a tensor of another shape", [](builder & b) { b.random("no_mem_embed", {31}, 1); }, UB_E_FORMAT, {"no_mem_embed", "31", "32"}},
        {"a tensor too many", [](builder & b) { b.random("sam2.extra", {3}, 1); }, UB_E_FORMAT, {"unexpected", "sam2.extra"}},
        {"a patch kernel that is no square", [](builder & b) { b.linear("trunk.patch_embed", 8, 3 * 50); }, UB_E_FORMAT, {"trunk.patch_embed", "150"}},
        {"a large patch kernel", [](builder & b) { b.linear("trunk.patch_embed", 8, 3 * 2 * 2); }, UB_E_FORMAT, {"trunk.patch_embed", "12"}},
    };
    for (const auto & c : cases) {
        CAPTURE(std::string(c.name));
        builder b;
        fixture::add_sam2(b);
        c.edit(b);
        check_refused(b, c.status, c.parts);
    }
}

TEST_CASE("the plan holds") {
    sam2_model s;
    fixture::gguf_builder b;
    fixture::add_sam2(b);
    const std::string path = s.dir.file("again.gguf");
    b.write(path);
    const auto f = fixture::grounding_files(path);
    auto p = fixture::params();
    ub_memory_plan plan{};
    plan.size = sizeof plan;
    ub_error err;
    REQUIRE(ub_model_plan(&f, &p, &plan, &err) == UB_OK);
    CHECK(plan.features >= sizeof(float) * (4 * 256 + 8 * 64 + 2 * 32 * 16));
    CHECK(plan.compute_features > 8 * 256 * sizeof(float));
    CHECK(plan.compute_masks > 0);
    CHECK(plan.compute_memory > 0);
    p.mask_batch = 64;
    ub_memory_plan wide{};
    wide.size = sizeof wide;
    REQUIRE(ub_model_plan(&f, &p, &wide, &err) == UB_OK);
    CHECK(wide.compute_masks > plan.compute_masks);
    CHECK(wide.compute_features == plan.compute_features);
}

TEST_CASE("statistics count what was done") {
    sam2_model s;
    const auto f = s.encode(1);
    const auto hidden = sam2_model::noise(3 * 24, 3);
    s.decode(f.get(), hidden);
    const auto t = s.track(hidden);
    ub_error err;
    ub_masks none = nothing();
    REQUIRE(ub_track_prompt(t.get(), 0, f.get(), &none, nullptr, &err) == UB_OK);
    ub_stage_stats stats[UB_STAGE_COUNT];
    REQUIRE(ub_model_stats(s.m.get(), stats, &err) == UB_OK);
    CHECK(stats[UB_STAGE_FEATURES].calls == 1);
    CHECK(stats[UB_STAGE_FEATURES].items == 1);
    CHECK(stats[UB_STAGE_MASKS].calls == 2);
    CHECK(stats[UB_STAGE_MASKS].items == 4);
    CHECK(stats[UB_STAGE_MEMORY].items == 1);

    // the trunk, block by block: tokens in and out, queries and keys of attention (all of the map, or of a window)
    struct block { uint64_t in, out, cin, cout, keys; bool pool; };
    const block blocks[] = {{256, 256, 8, 8, 16, false}, {256, 64, 8, 16, 16, true}, {64, 64, 16, 16, 4, false},
                            {64, 16, 16, 32, 4, true}, {16, 16, 32, 32, 16, false}, {16, 4, 32, 64, 16, true}};
    uint64_t flop = 2 * 256 * 147 * 8;
    for (const block & b : blocks) {
        flop += 2 * b.in * b.cin * 3 * b.cout + 4 * b.out * b.keys * b.cout + 2 * b.out * b.cout * b.cout + 2 * b.out * b.cout * 8 * b.cout;
        if (b.pool) flop += 2 * b.in * b.cin * b.cout;
    }
    flop += 2 * 32 * (256 * 8 + 64 * 16 + 16 * 32 + 4 * 64) + 2 * 32 * (256 * 4 + 64 * 8);  // neck, conv_s0, conv_s1
    CHECK(stats[UB_STAGE_FEATURES].flop == flop);
}
