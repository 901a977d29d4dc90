// The mask decoder against the golden case seg_1tile, from the reference's own F0, F1, F2 and state at [SEG]. The weights are
// those of the golden checkpoint, renamed as docs/model-folder.md says. The trunk and volumes need images, whose preparation
// is Go's: the Go tests compare those stages.

#include "sam2_fixture.h"

namespace {

using fixture::array;

bool strip(std::string & s, const std::string & prefix) {
    if (s.compare(0, prefix.size(), prefix) != 0) return false;
    s.erase(0, prefix.size());
    return true;
}

void replace(std::string & s, const std::string & from, const std::string & to) {
    const size_t at = s.find(from);
    if (at != std::string::npos) s.replace(at, from.size(), to);
}

float bf16(float x) {
    uint32_t u;
    std::memcpy(&u, &x, 4);
    u = (u + 0x7fff + ((u >> 16) & 1)) & 0xffff0000u;
    std::memcpy(&x, &u, 4);
    return x;
}

// The dense positions of spec/pitfalls.md P7: every step rounded to bf16.
array dense_pe(const array & gaussian, int64_t side) {
    const int64_t half = gaussian.shape[1];
    array out{{side, side, 2 * half}, std::vector<float>(size_t(side * side * 2 * half))};
    for (int64_t y = 0; y < side; ++y) for (int64_t x = 0; x < side; ++x) for (int64_t c = 0; c < half; ++c) {
        const auto at = [&](int64_t i) { return float(2 * i + 1) / float(side) - 1; };
        const float p = bf16(at(x) * bf16(gaussian.data[size_t(c)]) + at(y) * bf16(gaussian.data[size_t(half + c)]));
        const float a = bf16(p * 6.2831855f);
        float * to = &out.data[size_t((y * side + x) * 2 * half)];
        to[c]        = bf16(std::sin(a));
        to[half + c] = bf16(std::cos(a));
    }
    return out;
}

// The checkpoint's tensors under this project's names.
void add_checkpoint(fixture::gguf_builder & b, std::map<std::string, array> && all) {
    for (auto & [full, a] : all) {
        std::string n = full;
        if (n.compare(0, 16, "text_hidden_fcs.") == 0) {
            b.tensors[n] = a;
            continue;
        }
        if (!strip(n, "grounding_encoder.sam2_model.")) continue;
        auto & s = a.shape;
        const bool matrix = s.size() == 4 && s[2] == 1 && s[3] == 1;
        if (n.find("pos_embed") != std::string::npos) continue;
        if (strip(n, "image_encoder.")) {
            replace(n, "patch_embed.proj", "patch_embed");
            replace(n, "mlp.layers.", "mlp.");
            replace(n, "neck.convs.", "neck.");
            replace(n, ".conv.", ".");
            if (n == "trunk.patch_embed.weight") s = {s[0], s[1] * s[2] * s[3]};
        } else if (strip(n, "sam_prompt_encoder.")) {
            if (n == "pe_layer.positional_encoding_gaussian_matrix") {
                b.tensors["decoder.dense_pe"] = dense_pe(a, 64);
                continue;
            }
            if (n != "not_a_point_embed.weight" && n != "no_mask_embed.weight") continue;
            n = n == "no_mask_embed.weight" ? "prompt.no_mask" : "prompt.not_a_point";
            s = {s[1]};
        } else if (strip(n, "sam_mask_decoder.")) {
            if (!strip(n, "transformer.")) replace(n, ".layers.", ".");
            replace(n, "mlp.layers.", "mlp.");
            replace(n, "output_upscaling", "upscale");
            replace(n, "output_hypernetworks_mlps", "hyper");
            replace(n, "iou_prediction_head", "iou_head");
            replace(n, "pred_obj_score_head", "obj_score_head");
            if (n.find("_token") != std::string::npos && s.size() == 2 && s[0] == 1) s = {s[1]};
            if (n == "iou_token.weight" || n == "obj_score_token.weight" || n == "mask_tokens.weight") n.resize(n.size() - 7);
            if (n.compare(0, 7, "upscale") == 0 && s.size() == 4) {  // [in, out, 2, 2] -> [(dy, dx, out), in]
                const int64_t in = s[0], out = s[1];
                std::vector<float> m(a.data.size());
                for (int64_t i = 0; i < in; ++i) for (int64_t o = 0; o < out; ++o) for (int64_t k = 0; k < 4; ++k) {
                    m[size_t((k * out + o) * in + i)] = a.data[size_t((i * out + o) * 4 + k)];
                }
                a.data = m;
                s = {4 * out, in};
            }
            n = "decoder." + n;
        } else if (n == "no_mem_embed" || n == "no_obj_ptr") {
            s = {s.back()};
        } else if (n == "maskmem_tpos_enc") {
            s = {s[0], s.back()};
        } else {
            if (n == "no_mem_pos_enc" || n.compare(0, 15, "mask_downsample") == 0) continue;
            replace(n, "obj_ptr_proj.layers.", "obj_ptr_proj.");
            replace(n, "mask_downsampler.encoder", "mask_downsampler");
            replace(n, "fuser.layers", "fuser");
        }
        if (matrix) s = {s[0], s[1]};
        b.tensors[n] = a;
    }
}

// The first number after "key" in a golden JSON file.
std::vector<double> numbers(const std::string & json, const std::string & key) {
    std::vector<double> out;
    size_t at = json.find("\"" + key + "\":");
    REQUIRE(at != std::string::npos);
    at += key.size() + 3;
    while (at < json.size() && json[at] != '"' && json[at] != '}') {
        char * end;
        const double v = std::strtod(&json[at], &end);
        if (end == &json[at]) { ++at; continue; }
        out.push_back(v);
        at = size_t(end - json.data());
    }
    return out;
}

} // namespace

TEST_CASE("the mask decoder, from golden features") {
    const auto golden = fixture::shared("golden/tiny");
    if (golden.empty()) return;
    fixture::sam2_sizes s;
    s.input = 256; s.image = 1024; s.embd = 16; s.width = 64; s.memory = 16; s.iou_hidden = 256;
    s.stages = {1, 2, 3, 1}; s.windows = {8, 4, 16, 8}; s.global_blocks = {4};
    s.decoder_heads = 8; s.decoder_ffn = 256; s.memory_ffn = 256; s.slice_count = 7; s.pointer_count = 16;
    fixture::gguf_builder b;
    fixture::add_sam2_keys(b, s);
    add_checkpoint(b, fixture::read_safetensors(golden / "checkpoint/model.safetensors"));
    b.random("trunk.pos_embed", {256, 256, 16}, 1);  // not used here
    const fixture::temp_dir dir;
    const std::string path = dir.file("grounding.gguf");
    b.write(path);
    const auto m = fixture::open(fixture::grounding_files(path), fixture::params());
    ub_error err;
    ub_model_info info{};
    info.size = sizeof info;
    REQUIRE(ub_model_get_info(m.get(), &info, &err) == UB_OK);

    auto full = fixture::read_safetensors(golden / "cases/seg_1tile.full.safetensors");
    auto want = fixture::read_safetensors(golden / "cases/seg_1tile.safetensors");
    ub_features * f = nullptr;
    REQUIRE(ub_features_from(m.get(), full.at("F0").data.data(), full.at("F1").data.data(), full.at("F2").data.data(), &f, &err) == UB_OK);
    const fixture::features_ptr owner(f);

    fixture::tracer t;
    fixture::masks got(info, 1);
    REQUIRE(ub_masks_decode(m.get(), f, want.at("seg_hidden").data.data(), 1, &got.out, &t.call, &err) == UB_OK);

    CHECK(t.all.at("dense_pe").shape == std::vector<int64_t>{64, 64, 64});
    CHECK(fixture::cut(t.all.at("dense_pe"), {8, 2, 2}).data == want.at("dense_pe").data);
    CHECK(t.all.at("dense_prompt_vector").data == want.at("dense_prompt_vector").data);
    for (const char * name : {"seg_embedding", "sparse_tokens", "hs.0"}) {
        CAPTURE(std::string(name));
        CHECK(t.all.at(name).shape == want.at(name).shape);
        CHECK(fixture::relative_rms(t.all.at(name).data, want.at(name).data) < fixture::bar(1e-5));
    }
    CHECK(fixture::relative_rms(fixture::cut(t.all.at("mask_logits.0"), {1, 8, 8}).data, want.at("mask_logits.0.strided").data) < fixture::bar(1e-5));
    CHECK(fixture::relative_rms(got.logits, want.at("mask_logits.0.selected").data) < fixture::bar(1e-5));
    CHECK(fixture::relative_rms(got.embedding, want.at("seg_embedding").data) < fixture::bar(1e-5));

    const auto text = fixture::read_file((golden / "cases/seg_1tile.json").string());
    const std::string json(text.begin(), text.end());
    const auto iou = numbers(json, "iou");
    REQUIRE(iou.size() >= 4);
    for (size_t i = 0; i < 4; ++i) CHECK(std::fabs(got.iou[i] - iou[i]) < fixture::bar(1e-4));
    const double score = numbers(json, "object_score").at(0);  // a logit of about 14: a GPU's bar is relative
    CHECK(std::fabs(got.object_score[0] - score) < std::max(1e-4, fixture::bar(0) * std::fabs(score)));
    CHECK(got.selected[0] == int(numbers(json, "selected").at(0)));
}
