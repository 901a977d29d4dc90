// fixtures.h: what the tests share: small model files written on the spot, golden tensors, temporary files.

#pragma once

#include "unibiomed.h"

#include "ggml-cpp.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace fixture {

// --------------------------------------------------------------------------------------------------------------- files

// A folder that is removed at the end of the test.
struct temp_dir {
    std::filesystem::path path;
    temp_dir() {
        std::string name = (std::filesystem::temp_directory_path() / "unibiomed-test-XXXXXX").string();
        path = mkdtemp(name.data());
    }
    ~temp_dir() { std::error_code ignored; std::filesystem::remove_all(path, ignored); }
    std::string file(const std::string & name) const { return (path / name).string(); }
};

inline std::vector<char> read_file(const std::string & path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

inline void write_file(const std::string & path, const std::vector<char> & data) {
    std::ofstream(path, std::ios::binary).write(data.data(), std::streamsize(data.size()));
}

// The shared data beside the repository, or an empty path and a line that says why a test is skipped.
inline std::filesystem::path shared(const std::string & below) {
    const char * env = std::getenv("UNIBIOMED_SHARED");
    const std::filesystem::path p = std::filesystem::path(env != nullptr ? env : "../shared") / below;
    if (std::filesystem::exists(p)) return p;
    std::printf("SKIP: %s is not there (set UNIBIOMED_SHARED)\n", p.string().c_str());
    return {};
}

// ---------------------------------------------------------------------------------------------------------- GGUF files

struct array { std::vector<int64_t> shape; std::vector<float> data; };  // slowest axis first

// Collects keys and f32 tensors and writes them with ggml's own writer.
class gguf_builder {
  public:
    gguf_context_ptr g{gguf_init_empty()};

    void u32(const char * key, uint32_t v) { gguf_set_val_u32(g.get(), key, v); }
    void f32(const char * key, float v) { gguf_set_val_f32(g.get(), key, v); }
    void boolean(const char * key, bool v) { gguf_set_val_bool(g.get(), key, v); }
    void str(const char * key, const char * v) { gguf_set_val_str(g.get(), key, v); }
    void f32s(const char * key, const std::vector<float> & v) { gguf_set_arr_data(g.get(), key, GGUF_TYPE_FLOAT32, v.data(), v.size()); }
    void i32s(const char * key, const std::vector<int32_t> & v) { gguf_set_arr_data(g.get(), key, GGUF_TYPE_INT32, v.data(), v.size()); }
    void strs(const char * key, const std::vector<std::string> & v) {
        std::vector<const char *> p;
        for (auto & s : v) p.push_back(s.c_str());
        gguf_set_arr_str(g.get(), key, p.data(), p.size());
    }

    std::map<std::string, array> tensors;

    // Values of about the given size around `mean`, the same for the same name.
    void random(const std::string & name, std::vector<int64_t> shape, float size, float mean = 0) {
        array a{shape, {}};
        int64_t n = 1;
        for (int64_t s : shape) n *= s;
        std::minstd_rand rng(unsigned(std::hash<std::string>{}(name)) | 1u);
        std::uniform_real_distribution<float> dist(-1, 1);
        for (int64_t i = 0; i < n; ++i) a.data.push_back(mean + size * dist(rng));
        tensors[name] = a;
    }
    void linear(const std::string & name, int64_t out, int64_t in, bool bias = true) {
        random(name + ".weight", {out, in}, std::sqrt(3.0f / float(in)));
        if (bias) random(name + ".bias", {out}, 0.1f);
    }
    void norm(const std::string & name, int64_t n) {
        random(name + ".weight", {n}, 0.2f, 1);
        random(name + ".bias", {n}, 0.1f);
    }

    void write(const std::string & path) {
        size_t bytes = 0;
        for (auto & t : tensors) bytes += t.second.data.size() * sizeof(float) + ggml_tensor_overhead() + 64;
        ggml_context_ptr ctx(ggml_init({bytes + 4096, nullptr, false}));
        for (auto & t : tensors) {
            std::vector<int64_t> ne(t.second.shape.rbegin(), t.second.shape.rend());
            ggml_tensor * x = ggml_new_tensor(ctx.get(), GGML_TYPE_F32, int(ne.size()), ne.data());
            ggml_set_name(x, t.first.c_str());
            std::memcpy(x->data, t.second.data.data(), t.second.data.size() * sizeof(float));
            gguf_add_tensor(g.get(), x);
        }
        REQUIRE(gguf_write_to_file(g.get(), path.c_str(), false));
    }
};

// The way byte-level BPE writes a byte: printable ones as themselves, others from U+0100 on.
inline std::string byte_token(int byte) {
    int code = byte;
    const auto printable = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255); };
    if (!printable(byte)) {
        code = 256;
        for (int b = 0; b < byte; ++b) code += !printable(b);
    }
    return code < 128 ? std::string(1, char(code)) : std::string{char(0xc0 | code >> 6), char(0x80 | (code & 63))};
}

enum : int32_t { token_ab = 256, token_seg = 257, token_p = 258, token_end = 259, token_unused = 260, vocab_size = 264 };

// A tokenizer: 256 bytes, "ab", [SEG] (control), <p> (user-defined), <end> (control), unused rows.
inline void add_tokenizer(gguf_builder & b) {
    std::vector<std::string> tokens;
    std::vector<int32_t> types;
    for (int i = 0; i < 256; ++i) { tokens.push_back(byte_token(i)); types.push_back(1); }
    for (auto & t : {std::make_pair("ab", 1), {"[SEG]", 3}, {"<p>", 4}, {"<end>", 3}}) { tokens.push_back(t.first); types.push_back(t.second); }
    while (tokens.size() < vocab_size) { tokens.push_back("[UNUSED" + std::to_string(tokens.size()) + "]"); types.push_back(5); }
    b.str("general.architecture", "qwen2");
    b.str("general.name", "a test model");
    b.str("tokenizer.ggml.model", "gpt2");
    b.str("tokenizer.ggml.pre", "qwen2");
    b.strs("tokenizer.ggml.tokens", tokens);
    b.i32s("tokenizer.ggml.token_type", types);
    b.strs("tokenizer.ggml.merges", {"a b"});
    b.u32("tokenizer.ggml.eos_token_id", token_end);
    b.boolean("tokenizer.ggml.add_bos_token", false);
}

// A language model of two layers with random weights: hidden size 32, 4 heads, 2 of keys and values, context 512.
inline void add_language(gguf_builder & b) {
    add_tokenizer(b);
    const int64_t e = 32, kv = 16, ff = 48;
    b.u32("qwen2.context_length", 512);
    b.u32("qwen2.embedding_length", e);
    b.u32("qwen2.block_count", 2);
    b.u32("qwen2.feed_forward_length", ff);
    b.u32("qwen2.attention.head_count", 4);
    b.u32("qwen2.attention.head_count_kv", 2);
    b.f32("qwen2.rope.freq_base", 1e6f);
    b.f32("qwen2.attention.layer_norm_rms_epsilon", 1e-6f);
    b.random("token_embd.weight", {vocab_size, e}, 1);
    b.random("output.weight", {vocab_size, e}, 0.3f);
    b.random("output_norm.weight", {e}, 0.2f, 1);
    for (int i = 0; i < 2; ++i) {
        const std::string p = "blk." + std::to_string(i) + ".";
        b.random(p + "attn_norm.weight", {e}, 0.2f, 1);
        b.linear(p + "attn_q", e, e);
        b.linear(p + "attn_k", kv, e);
        b.linear(p + "attn_v", kv, e);
        b.linear(p + "attn_output", e, e, false);
        b.random(p + "ffn_norm.weight", {e}, 0.2f, 1);
        b.linear(p + "ffn_gate", ff, e, false);
        b.linear(p + "ffn_up", ff, e, false);
        b.linear(p + "ffn_down", e, ff, false);
    }
}

// The keys of a vision tower.
inline void add_vision_keys(gguf_builder & b, uint32_t image, uint32_t patch, uint32_t width, uint32_t ffn, uint32_t blocks, uint32_t heads, uint32_t out) {
    b.str("general.architecture", "unibiomed-vision");
    b.u32("unibiomed.format_version", 1);
    b.u32("vision.image_size", image);
    b.u32("vision.patch_size", patch);
    b.u32("vision.embedding_length", width);
    b.u32("vision.feed_forward_length", ffn);
    b.u32("vision.block_count", blocks);
    b.u32("vision.attention.head_count", heads);
    b.f32("vision.attention.layer_norm_epsilon", 1e-6f);
    b.u32("vision.pixel_shuffle_factor", 2);
    b.u32("vision.pixel_shuffle_version", 2);
    b.u32("vision.projection_length", out);
    b.f32("vision.projector.layer_norm_epsilon", 1e-5f);
    b.u32("vision.tiles.min", 1);
    b.u32("vision.tiles.max", 12);
    b.boolean("vision.tiles.thumbnail", true);
    b.f32s("vision.image_mean", {0.485f, 0.456f, 0.406f});
    b.f32s("vision.image_std", {0.229f, 0.224f, 0.225f});
}

// A vision tower of two blocks with random weights: tiles of 32, patches of 4, width 16, H 32.
inline void add_vision(gguf_builder & b) {
    const int64_t c = 16, ffn = 24, out = 32, tokens = 8 * 8 + 1;
    add_vision_keys(b, 32, 4, uint32_t(c), uint32_t(ffn), 2, 4, uint32_t(out));
    b.linear("patch_embed", c, 3 * 4 * 4);
    b.random("class_embed", {c}, 1);
    b.random("pos_embed", {tokens, c}, 1);
    for (int i = 0; i < 2; ++i) {
        const std::string p = "blocks." + std::to_string(i) + ".";
        b.norm(p + "norm1", c);
        b.norm(p + "norm2", c);
        b.linear(p + "attn.qkv", 3 * c, c);
        b.linear(p + "attn.proj", c, c);
        b.linear(p + "mlp.fc1", ffn, c);
        b.linear(p + "mlp.fc2", c, ffn);
        b.random(p + "ls1", {c}, 0.1f, 0.5f);
        b.random(p + "ls2", {c}, 0.1f, 0.5f);
    }
    b.norm("projector.norm", 4 * c);
    b.linear("projector.fc1", out, 4 * c);
    b.linear("projector.fc2", out, out);
}

// ------------------------------------------------------------------------------------------------------ golden tensors

// A reader of the golden safetensors files, which are trusted: F32 tensors only.
inline std::map<std::string, array> read_safetensors(const std::filesystem::path & path) {
    std::ifstream in(path, std::ios::binary);
    uint64_t n = 0;
    in.read(reinterpret_cast<char *>(&n), 8);
    std::string head(n, ' ');
    in.read(head.data(), std::streamsize(n));
    std::map<std::string, array> all;
    // entries look like "name":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}
    for (size_t at = head.find("\"dtype\":\"F32\""); at != std::string::npos; at = head.find("\"dtype\":\"F32\"", at + 1)) {
        const size_t brace = head.rfind('{', at), end = head.find('}', at), quote = head.rfind('"', brace), open = head.rfind('"', quote - 1);
        const std::string entry = head.substr(brace, end - brace);
        const auto numbers = [&](const char * key) {
            std::vector<int64_t> v;
            const size_t from = entry.find('[', entry.find(key)) + 1;
            std::stringstream s(entry.substr(from, entry.find(']', from) - from));
            for (std::string x; std::getline(s, x, ',');) v.push_back(std::stoll(x));
            return v;
        };
        array a{numbers("\"shape\""), {}};
        const auto offsets = numbers("\"data_offsets\"");
        a.data.resize(size_t(offsets[1] - offsets[0]) / 4);
        in.seekg(std::streamoff(8 + n + uint64_t(offsets[0])));
        in.read(reinterpret_cast<char *>(a.data.data()), offsets[1] - offsets[0]);
        all[head.substr(open + 1, quote - open - 1)] = a;
    }
    return all;
}

// Root mean square of the difference over that of b.
inline double relative_rms(const std::vector<float> & a, const std::vector<float> & b) {
    REQUIRE(a.size() == b.size());
    double d = 0, s = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        d += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
        s += double(b[i]) * b[i];
    }
    return std::sqrt(d / s);
}

// ------------------------------------------------------------------------------------------------------------ the C ABI

struct model_deleter { void operator()(ub_model * m) { ub_model_close(m); } };
using model_ptr = std::unique_ptr<ub_model, model_deleter>;
struct session_deleter { void operator()(ub_session * s) { ub_session_close(s); } };
using session_ptr = std::unique_ptr<ub_session, session_deleter>;

inline ub_model_files files(const char * language, const char * vision) {
    ub_model_files f;
    ub_model_files_init(&f);
    f.language = language;
    f.vision   = vision;
    return f;
}

inline ub_model_params params() {
    ub_model_params p;
    ub_model_params_init(&p);
    // another device for a whole run of the tests, for instance vulkan0
    const char * device = std::getenv("UNIBIOMED_TEST_DEVICE");
    p.device    = device != nullptr ? device : "cpu";
    p.n_threads = 2;
    return p;
}

// The bar of a comparison that f32 arithmetic passes at `f32`. A GPU's products may be of f16.
inline double bar(double f32) { return std::string(params().device) == "cpu" ? f32 : std::max(f32, 2e-3); }

inline model_ptr open(const ub_model_files & f, const ub_model_params & p) {
    ub_model * m = nullptr;
    ub_error err;
    const ub_status status = ub_model_open(&f, &p, nullptr, &m, &err);
    CAPTURE(std::string(err.message));
    REQUIRE(status == UB_OK);
    return model_ptr(m);
}

} // namespace fixture
