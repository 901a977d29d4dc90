// language.cpp: see language.h.

#include "language.h"

#include "log.h"
#include "onednn/accel.h"
#include "types.h"

#include <algorithm>
#include <climits>
#include <cstring>
#include <exception>
#include <set>
#include <unordered_set>

#include <pthread.h>

namespace ub {

// -------------------------------------------------------------------------------------------------- checking the file

namespace {

bool is_utf8(std::string_view s, size_t & bad) {
    for (size_t i = 0; i < s.size();) {
        const auto c = static_cast<unsigned char>(s[i]);
        const size_t n = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
        bad = i;
        if (n == 0 || i + n > s.size()) return false;
        uint32_t code = n == 1 ? c : c & (0x7fu >> n);
        for (size_t k = 1; k < n; ++k) {
            const auto d = static_cast<unsigned char>(s[i + k]);
            if ((d & 0xc0) != 0x80) return false;
            code = code << 6 | (d & 0x3f);
        }
        if ((n == 3 && (code < 0x800 || (code >= 0xd800 && code < 0xe000))) || (n == 4 && (code < 0x10000 || code > 0x10ffff))) return false;
        i += n;
    }
    return true;
}

enum token_type : int32_t { token_normal = 1, token_unknown, token_control, token_user_defined, token_unused, token_byte };

void check_tokenizer(const gguf_file & f) {
    const char * file = f.path().c_str();
    auto want = [&](const char * key, const char * value) {
        if (const std::string s = f.str(key); s != value) fail(UB_E_UNSUPPORTED, "%s: %s is '%.64s', want '%s'", file, key, s.c_str(), value);
    };
    want("tokenizer.ggml.model", "gpt2");
    want("tokenizer.ggml.pre", "qwen2");

    const size_t n = f.length("tokenizer.ggml.tokens", gguf_type::string);
    if (n < 256 || n > (1u << 24)) fail(UB_E_FORMAT, "%s: tokenizer.ggml.tokens has %zu entries, want 256 to %u", file, n, 1u << 24);
    const auto types = f.i32s("tokenizer.ggml.token_type", n, n);
    if (f.has("tokenizer.ggml.scores")) f.f32s("tokenizer.ggml.scores", n, n);

    std::unordered_set<std::string> seen;
    seen.reserve(n);
    f.strings("tokenizer.ggml.tokens", [&](size_t i, std::string_view s) {
        size_t bad = 0;
        if (s.empty() || s.size() > 4096) fail(UB_E_FORMAT, "%s: token %zu has %zu bytes, want 1 to 4096", file, i, s.size());
        if (!is_utf8(s, bad)) fail(UB_E_FORMAT, "%s: token %zu is not UTF-8 at byte %zu", file, i, bad);
        if (!seen.emplace(s).second) fail(UB_E_FORMAT, "%s: token %zu '%.64s' appears twice", file, i, std::string(s).c_str());
        if (types[i] < token_normal || types[i] > token_byte) fail(UB_E_FORMAT, "%s: token %zu is of type %d, want 1 to 6", file, i, types[i]);
        const bool single = s.size() == (static_cast<unsigned char>(s[0]) < 0x80 ? 1u : static_cast<unsigned char>(s[0]) < 0xe0 ? 2u :
                                         static_cast<unsigned char>(s[0]) < 0xf0 ? 3u : 4u);
        if (types[i] == token_user_defined && single) {
            fail(UB_E_UNSUPPORTED, "%s: token %zu is user-defined and a single character, which can't be told from text", file, i);
        }
    });
    f.strings("tokenizer.ggml.merges", [&](size_t i, std::string_view s) {
        size_t bad = 0;
        const size_t space = s.find(' ', 1);
        if (s.size() > 8192 || space == std::string_view::npos || space + 1 == s.size() || s[0] == ' ' || s.find(' ', space + 1) != std::string_view::npos) {
            fail(UB_E_FORMAT, "%s: merge %zu '%.64s' is not two parts with a space between", file, i, std::string(s.substr(0, 64)).c_str());
        }
        if (!is_utf8(s, bad)) fail(UB_E_FORMAT, "%s: merge %zu is not UTF-8 at byte %zu", file, i, bad);
    });

    // llama.cpp takes token ids of these names; others it does not read
    for (const char * name : {"bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask", "fim_pre", "fim_suf", "fim_mid", "fim_pad",
                              "fim_rep", "fim_sep", "prefix", "suffix", "middle"}) {
        const std::string key = std::string("tokenizer.ggml.") + name + "_token_id";
        if (f.has(key)) f.size_of(key, 0, uint32_t(n - 1));
    }
    f.size_of("tokenizer.ggml.eos_token_id", 0, uint32_t(n - 1));
    for (const char * name : {"add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix", "remove_extra_whitespaces"}) {
        const std::string key = std::string("tokenizer.ggml.") + name;
        if (f.boolean(key, false)) fail(UB_E_UNSUPPORTED, "%s: %s is true, want false", file, key.c_str());
    }
    if (f.has("tokenizer.ggml.precompiled_charsmap")) fail(UB_E_UNSUPPORTED, "%s: key 'tokenizer.ggml.precompiled_charsmap' is not of a gpt2 tokenizer", file);
    if (f.has("tokenizer.ggml.token_type_count")) f.u32("tokenizer.ggml.token_type_count");
}

// Keys that change what llama.cpp computes, or make it open other files, are taken only when they are known here.
void check_key_names(const gguf_file & f) {
    static const std::set<std::string> known = {
        "context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count", "attention.head_count_kv",
        "rope.freq_base", "attention.layer_norm_rms_epsilon", "rope.dimension_count", "attention.key_length", "attention.value_length", "vocab_size"};
    for (const std::string & key : f.key_names()) {
        const bool of_model = key.rfind("qwen2.", 0) == 0;
        if ((of_model && known.count(key.substr(6)) == 0) || key.rfind("split.", 0) == 0) {
            fail(UB_E_UNSUPPORTED, "%s: key '%.200s' is not one of a qwen2 file in one part", f.path().c_str(), key.c_str());
        }
    }
    if (f.has("general.name")) {
        std::string name = f.str("general.name");
        std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return char(std::tolower(c)); });
        // llama.cpp changes how added tokens are found in files of this name
        if (name.find("phi-3") != std::string::npos || name.find("phi3") != std::string::npos) {
            fail(UB_E_UNSUPPORTED, "%s: general.name '%.64s' contains the name of another model family", f.path().c_str(), name.c_str());
        }
    }
    for (const char * key : {"general.file_type", "general.quantization_version"}) {
        if (f.has(key)) f.u32(key);
    }
}

} // namespace

language_hparams language_hparams::read(const gguf_file & f, bool vocab_only) {
    const char * path = f.path().c_str();
    language_hparams h;
    h.n_vocab = int(f.length("tokenizer.ggml.tokens", gguf_type::string));
    if (vocab_only && f.tensors().empty() && !f.has("qwen2.embedding_length")) return h;

    h.n_ctx_train = f.size_of("qwen2.context_length", 1, 1 << 24);
    h.n_embd      = f.size_of("qwen2.embedding_length", 2, 1 << 16);
    h.n_layer     = f.size_of("qwen2.block_count", 1, 512);
    h.n_ff        = f.size_of("qwen2.feed_forward_length", 1, 1 << 18);
    h.n_head      = f.size_of("qwen2.attention.head_count", 1, 1024);
    h.n_head_kv   = f.size_of("qwen2.attention.head_count_kv", 1, 1024);
    auto positive = [&](const char * key) {
        if (const float v = f.f32(key); !(v > 0)) fail(UB_E_FORMAT, "%s: %s is %g, want more than 0", path, key, double(v));
    };
    positive("qwen2.attention.layer_norm_rms_epsilon");
    positive("qwen2.rope.freq_base");
    if (h.n_embd % h.n_head != 0 || h.n_embd / h.n_head % 2 != 0) {
        fail(UB_E_FORMAT, "%s: qwen2.embedding_length %d is not an even number for each of qwen2.attention.head_count %d", path, h.n_embd, h.n_head);
    }
    if (h.n_head % h.n_head_kv != 0) {
        fail(UB_E_FORMAT, "%s: qwen2.attention.head_count_kv %d does not divide qwen2.attention.head_count %d", path, h.n_head_kv, h.n_head);
    }
    for (const char * key : {"qwen2.rope.dimension_count", "qwen2.attention.key_length", "qwen2.attention.value_length"}) {
        const int head = h.n_embd / h.n_head;
        if (f.has(key) && f.u32(key) != uint32_t(head)) fail(UB_E_FORMAT, "%s: %s is %u, want %d", path, key, f.u32(key), head);
    }
    if (f.has("qwen2.vocab_size") && f.u32("qwen2.vocab_size") != uint32_t(h.n_vocab)) {
        fail(UB_E_FORMAT, "%s: qwen2.vocab_size is %u, tokenizer.ggml.tokens has %d entries", path, f.u32("qwen2.vocab_size"), h.n_vocab);
    }
    h.tied    = f.find("output.weight") == nullptr;
    h.all_f32 = std::all_of(f.tensors().begin(), f.tensors().end(), [](const auto & t) { return t.type == GGML_TYPE_F32; });
    return h;
}

void language::check(std::shared_ptr<const gguf_file> file, bool vocab_only) {
    if (const std::string arch = file->str("general.architecture"); arch != "qwen2") {
        fail(UB_E_UNSUPPORTED, "%s: general.architecture is '%.64s', want 'qwen2'", file->path().c_str(), arch.c_str());
    }
    check_key_names(*file);
    check_tokenizer(*file);
    const language_hparams h = language_hparams::read(*file, vocab_only);
    if (vocab_only && file->tensors().empty()) return;

    weights w(file);
    const int64_t e = h.n_embd, kv = h.n_embd_kv(), ff = h.n_ff, v = h.n_vocab;
    w.matrix("token_embd.weight", {e, v});
    if (!h.tied) w.matrix("output.weight", {e, v});
    w.f32("output_norm.weight", {e});
    for (int i = 0; i < h.n_layer; ++i) {
        const std::string b = "blk." + std::to_string(i) + ".";
        w.f32(b + "attn_norm.weight", {e});
        w.linear(b + "attn_q", e, e);
        w.linear(b + "attn_k", e, kv);
        w.linear(b + "attn_v", e, kv);
        w.linear(b + "attn_output", e, e, false);
        w.f32(b + "ffn_norm.weight", {e});
        w.linear(b + "ffn_gate", e, ff, false);
        w.linear(b + "ffn_up", e, ff, false);
        w.linear(b + "ffn_down", ff, e, false);
    }
    w.finish();
}

// ----------------------------------------------------------------------------------------------------------- tokenizer

namespace {

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_ascii(char c) { return static_cast<unsigned char>(c) < 0x80; }

// Whether Qwen2's pre-tokenizer always ends a word between these bytes, whatever stands around them: after a digit, and
// between a letter and an ASCII byte that is none. Text cut there gives the same tokens as the whole.
bool always_splits(char before, char after) {
    return is_digit(before) || (is_letter(before) && is_ascii(after) && !is_letter(after));
}

// Calls f on a thread with a stack of that many bytes. llama.cpp splits words with std::regex, which recurses for each
// character of a word.
template <class F> void with_stack(size_t stack, F && f) {
    struct job { F & f; std::exception_ptr thrown; } j{f, nullptr};
    pthread_attr_t attr;
    pthread_t thread;
    if (pthread_attr_init(&attr) != 0) throw std::bad_alloc();
    int rc = pthread_attr_setstacksize(&attr, stack);
    if (rc == 0) {
        rc = pthread_create(&thread, &attr, [](void * p) -> void * {
            auto & j = *static_cast<job *>(p);
            try { j.f(); } catch (...) { j.thrown = std::current_exception(); }
            return nullptr;
        }, &j);
    }
    pthread_attr_destroy(&attr);
    if (rc != 0) fail(UB_E_NOMEM, "can't start a thread with a stack of %zu bytes", stack);
    pthread_join(thread, nullptr);
    if (j.thrown) std::rethrow_exception(j.thrown);
}

constexpr size_t max_text       = size_t(1) << 22;
constexpr size_t piece_target   = 512;               // bytes that are encoded at a time, where the text can be cut
constexpr size_t piece_on_stack = 1024;              // larger pieces get a stack of their own
constexpr size_t piece_max      = size_t(1) << 16;
constexpr size_t stack_per_byte = 2048;              // four times what was measured

} // namespace

tokenizer::tokenizer(const gguf_file & f, const llama_vocab * vocab) : vocab(vocab) {
    const auto types = f.i32s("tokenizer.ggml.token_type", 0, SIZE_MAX);
    kinds.reserve(types.size());
    for (int32_t t : types) kinds.push_back(t == token_control ? 3 : t == token_user_defined ? 1 : 0);
    f.strings("tokenizer.ggml.tokens", [&](size_t i, std::string_view s) {
        // llama.cpp knows some tokens by their text and makes control tokens of them
        const int attr = llama_vocab_get_attr(vocab, int32_t(i));
        const bool control = attr & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN), user = attr & LLAMA_TOKEN_ATTR_USER_DEFINED;
        if (!control && !user) return;
        size_t cut = 0;
        for (size_t k = 1; k < s.size() && cut == 0; ++k) {
            if (always_splits(s[k - 1], s[k])) cut = k;
        }
        for (size_t k = 1; k < s.size() && cut == 0; ++k) {
            if ((static_cast<unsigned char>(s[k]) & 0xc0) != 0x80) cut = k;
        }
        all_added.push_back({std::string(s), user && !control, cut});
    });
}

void tokenizer::encode_piece(const char * text, size_t length, bool special, std::vector<int32_t> & ids) const {
    auto run = [&] {
        const size_t at = ids.size();
        ids.resize(at + length);  // a token has at least one byte
        const int32_t n = llama_tokenize(vocab, text, int32_t(length), ids.data() + at, int32_t(length), /*add_special=*/false, special);
        if (n < 0) fail(UB_E_INTERNAL, "%zu bytes of text gave more tokens than bytes", length);
        ids.resize(at + size_t(n));
    };
    if (length > piece_max) {
        fail(UB_E_INVALID, "text has %zu bytes without an end of a word, at most %zu are read", length, piece_max);
    }
    if (length <= piece_on_stack) run();
    else with_stack((size_t(1) << 20) + length * stack_per_byte, run);
}

std::vector<int32_t> tokenizer::encode(const char * text, size_t length, bool special) const {
    UB_REQUIRE(length <= max_text, "text has %zu bytes, at most %zu are read", length, max_text);
    const std::string_view whole(text, length);
    size_t bad = 0;
    if (!is_utf8(whole, bad)) fail(UB_E_INVALID, "text is not UTF-8 at byte %zu", bad);

    // Without special tokens the text must be cut inside what llama.cpp would take for one; with them it must not.
    enum : uint8_t { anywhere = 0, here = 1, not_here = 2 };
    std::vector<uint8_t> cut(length + 1, anywhere);
    for (const auto & a : all_added) {
        if (!special && !a.parsed_as_text) continue;
        for (size_t at = whole.find(a.text); at != std::string_view::npos; at = whole.find(a.text, at + 1)) {
            if (special) std::fill_n(cut.begin() + std::ptrdiff_t(at) + 1, a.text.size() - 1, not_here);
            else cut[at + a.cut] = here;
        }
    }

    std::vector<int32_t> ids;
    size_t start = 0;
    for (size_t i = 1; i < length; ++i) {
        if (cut[i] == here || (cut[i] == anywhere && i - start >= piece_target && always_splits(text[i - 1], text[i]))) {
            encode_piece(text + start, i - start, special, ids);
            start = i;
        }
    }
    if (start < length) encode_piece(text + start, length - start, special, ids);
    return ids;
}

std::string tokenizer::bytes(int32_t id) const {
    std::string s(64, '\0');
    int32_t n = llama_token_to_piece(vocab, id, s.data(), int32_t(s.size()), 0, /*special=*/true);
    if (n < 0) {
        s.resize(size_t(-int64_t(n)));
        n = llama_token_to_piece(vocab, id, s.data(), int32_t(s.size()), 0, true);
    }
    s.resize(size_t(std::max(n, 0)));
    return s;
}

int tokenizer::kind(int32_t id) const { return id < 0 || size_t(id) >= kinds.size() ? -1 : kinds[size_t(id)]; }

// ------------------------------------------------------------------------------------------------------ language model

namespace {

// Positions that llama.cpp computes at once.
uint32_t micro_batch(const device & dev, uint32_t n_ctx) { return std::min<uint32_t>(n_ctx, dev.is_cpu() ? 256 : dev.is_roomy() ? 1024 : 512); }

uint64_t padded(uint32_t n_ctx) { return (uint64_t(n_ctx) + 255) / 256 * 256; }  // as llama.cpp rounds a context

} // namespace

uint32_t language::context_size(const language_hparams & h, uint32_t n_ctx) {
    UB_REQUIRE(n_ctx <= uint32_t(h.n_ctx_train), "n_ctx is %u, the model was trained on %d positions", n_ctx, h.n_ctx_train);
    return n_ctx > 0 ? n_ctx : std::min<uint32_t>(default_ctx, uint32_t(h.n_ctx_train));
}

ggml_type language_hparams::kv_type(const char * name) const {
    if (name == nullptr || std::strcmp(name, "auto") == 0) return all_f32 ? GGML_TYPE_F32 : GGML_TYPE_F16;
    const weight_type * t = find_type(name);
    UB_REQUIRE(t != nullptr && (t->type == GGML_TYPE_F32 || t->type == GGML_TYPE_F16 || t->type == GGML_TYPE_Q8_0),
               "kv_cache is '%.32s', want auto, f32, f16 or q8_0", name);
    UB_REQUIRE(n_embd / n_head % int(ggml_blck_size(t->type)) == 0, "kv_cache is %s, whose blocks of %d values do not divide heads of %d", name,
               int(ggml_blck_size(t->type)), n_embd / n_head);
    return t->type;
}

language::plan language::measure(const language_hparams & h, const device & dev, uint32_t n_ctx, ggml_type kv_type) {
    const uint64_t n = padded(context_size(h, n_ctx)), u = micro_batch(dev, uint32_t(n)), f = sizeof(float);
    plan p{};
    p.kv_cache = 2 * uint64_t(h.n_layer) * n * ggml_row_size(kv_type, h.n_embd_kv());
    // What lives together at the widest place of llama.cpp's qwen2 graph: the residual stream, the mask, and either the
    // attention scores, the feed-forward layer, or the logits, which llama.cpp reserves for every position
    const uint64_t stream = 3 * u * h.n_embd * f, mask = n * u * f;
    const uint64_t scores = n * u * h.n_head * f, ffn = 2 * u * h.n_ff * f, logits = u * h.n_vocab * f;
    p.compute = stream + mask + std::max({scores, ffn, logits});
    return p;
}

language::language(std::shared_ptr<const gguf_file> f, std::shared_ptr<const device> d, uint32_t n_ctx, const char * kv_cache, bool vocab_only,
                   stage_counters & totals, reporter & r)
    : file(std::move(f)), hparams(language_hparams::read(*file, vocab_only)), dev(std::move(d)),
      n_ctx(vocab_only ? 0 : context_size(hparams, n_ctx)),
      kv_type(vocab_only ? GGML_TYPE_F16 : hparams.kv_type(kv_cache)), vocab_only(vocab_only), totals(totals) {
    quiet_log();
    llama_model_params p = llama_model_default_params();
    ggml_backend_dev_t devices[2] = {vocab_only || dev->is_cpu() ? nullptr : dev->main(), nullptr};
    p.devices         = devices;
    p.n_gpu_layers    = devices[0] != nullptr ? INT_MAX : 0;
    p.split_mode      = devices[0] != nullptr ? LLAMA_SPLIT_MODE_NONE : LLAMA_SPLIT_MODE_LAYER;
    p.use_mmap        = true;
    p.use_extra_bufts = dev->is_cpu() && accel::int8_buffer_type() != nullptr;  // ours is the only one, see accel.cpp
    p.vocab_only      = vocab_only;
    p.progress_callback = [](float done, void * user) { return static_cast<reporter *>(user)->at(done); };
    p.progress_callback_user_data = &r;
    accel::from_mapping dropped(dev->n_threads());
    model.reset(llama_model_load_from_file(file->path().c_str(), p));
    r.check();
    if (!model) fail(UB_E_FORMAT, "%s: llama.cpp can't load it: %s", file->path().c_str(), take_complaints().c_str());
    tok = std::make_unique<tokenizer>(*file, llama_model_get_vocab(model.get()));
}

void language::embed(int32_t id, float * row) const {
    const auto * t = file->find("token_embd.weight");
    const size_t bytes = ggml_row_size(t->type, hparams.n_embd);
    std::vector<char> stored(bytes);
    file->read(t->offset + uint64_t(id) * bytes, stored.data(), bytes);
    if (t->type == GGML_TYPE_F32) std::memcpy(row, stored.data(), bytes);
    else ggml_get_type_traits(t->type)->to_float(stored.data(), row, hparams.n_embd);
}

session::session(language & lm, uint32_t n) : lm(lm), n_ctx(n > 0 ? language::context_size(lm.hparams, n) : lm.n_ctx) {
    UB_REQUIRE(!lm.vocab_only, "the model was opened for its tokenizer only");
    const auto need = language::measure(lm.hparams, *lm.dev, n_ctx, lm.kv_type);
    if (const uint64_t free = lm.dev->memory_free(); need.kv_cache + need.compute > free) {
        fail(UB_E_NOMEM, "a session of %u positions needs %llu bytes of KV cache and %llu of working memory, device %s has %llu free", n_ctx,
             (unsigned long long) need.kv_cache, (unsigned long long) need.compute, lm.dev->name().c_str(), (unsigned long long) free);
    }

    llama_context_params p = llama_context_default_params();
    p.n_ctx           = n_ctx;
    p.n_batch         = micro_batch(*lm.dev, n_ctx);
    p.n_ubatch        = p.n_batch;
    p.n_seq_max       = 1;
    p.n_threads       = lm.dev->n_threads();
    p.n_threads_batch = lm.dev->n_threads();
    p.pooling_type    = LLAMA_POOLING_TYPE_NONE;
    p.attention_type  = LLAMA_ATTENTION_TYPE_CAUSAL;
    // On a CPU as one operation where accel.h has it, and where llama.cpp has no other way; it would round an f32 cache to f16 for it.
    const bool fused = lm.kv_type == GGML_TYPE_Q8_0 || (accel::enabled() && lm.kv_type == GGML_TYPE_F16);
    p.flash_attn_type = !lm.dev->is_cpu() ? LLAMA_FLASH_ATTN_TYPE_AUTO : fused ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    p.type_k          = lm.kv_type;
    p.type_v          = lm.kv_type;
    p.embeddings      = true;  // with causal attention and no pooling: logits, and the state after the final norm
    p.no_perf         = true;
    p.op_offload      = false;
    p.cb_eval_user_data = &running;
    p.cb_eval         = [](ggml_tensor * t, bool ask, void * user) {  // sees each node before it runs, and asks for none
        if (counters * c = *static_cast<counters **>(user); ask && c != nullptr) c->ran.add(t);
        return !ask;
    };
    quiet_log();
    ctx.reset(llama_init_from_model(lm.model.get(), p));
    if (!ctx) fail(UB_E_NOMEM, "a session of %u positions can't be made: %s", n_ctx, take_complaints().c_str());
    llama_attach_threadpool(ctx.get(), lm.dev->pool(), lm.dev->pool());
}

int32_t session::length() const {
    std::lock_guard<std::mutex> lock(mutex);
    return used;
}

void session::truncate(int32_t length) {
    std::lock_guard<std::mutex> lock(mutex);
    UB_REQUIRE(length >= 0 && length <= used, "length is %d, the session has %d positions", length, used);
    if (length == used) return;
    if (!llama_memory_seq_rm(llama_get_memory(ctx.get()), 0, length, -1)) fail(UB_E_INTERNAL, "llama.cpp can't cut the session back to %d positions", length);
    used = length;
}

void session::prefill(const int32_t * ids, int32_t n, const float * embeddings, int32_t n_embeddings, float * logits, float * hidden, reporter & r) {
    UB_REQUIRE(n > 0, "%d ids, want at least 1", n);
    int32_t rows = 0;
    for (int32_t i = 0; i < n; ++i) {
        rows += ids[i] == UB_EMBEDDING;
        UB_REQUIRE(ids[i] == UB_EMBEDDING || (ids[i] >= 0 && ids[i] < lm.hparams.n_vocab), "id %d at index %d, want -1 to %d", ids[i], i, lm.hparams.n_vocab - 1);
    }
    UB_REQUIRE(rows == n_embeddings, "%d rows of embeddings, %d ids ask for one", n_embeddings, rows);
    std::lock_guard<std::mutex> lock(mutex);
    append(ids, n, n_embeddings > 0 ? embeddings : nullptr, results::last, logits, hidden, r, lm.totals[UB_STAGE_PREFILL]);
}

void session::decode(const int32_t * ids, int32_t n, float * logits, float * hidden) {
    UB_REQUIRE(n >= 1 && n <= UB_DECODE_AT_ONCE, "%d ids, want 1 to %d", n, UB_DECODE_AT_ONCE);
    for (int32_t i = 0; i < n; ++i) {
        UB_REQUIRE(ids[i] >= 0 && ids[i] < lm.hparams.n_vocab, "id %d at index %d, want 0 to %d", ids[i], i, lm.hparams.n_vocab - 1);
    }
    std::lock_guard<std::mutex> lock(mutex);
    reporter r;
    append(ids, n, nullptr, results::each, logits, hidden, r, lm.totals[UB_STAGE_DECODE]);
}

void session::append(const int32_t * ids, int32_t n, const float * embeddings, results of, float * logits, float * hidden, reporter & r,
                     counters & c) {
    if (uint32_t(n) > n_ctx - uint32_t(used)) {
        fail(UB_E_CONTEXT, "%d positions do not fit: the session has %d of %u", n, used, n_ctx);
    }
    const auto & h = lm.hparams;
    running = &c;
    const int32_t before = used, limit = int32_t(llama_n_batch(ctx.get()));
    llama_set_abort_callback(ctx.get(), [](void * user) { return !static_cast<reporter *>(user)->poll(); }, &r);
    // whatever ends this call early, the session is as it was
    struct undo {
        session & s;
        int32_t   length;
        ~undo() {
            llama_set_abort_callback(s.ctx.get(), nullptr, nullptr);
            if (s.used != length) llama_memory_seq_rm(llama_get_memory(s.ctx.get()), 0, s.used = length, -1);
        }
    } at_end{*this, before};

    std::vector<int32_t>   pos(static_cast<size_t>(limit)), n_seq(size_t(limit), 1);
    int32_t                first_seq = 0;
    std::vector<int32_t *> seq(size_t(limit), &first_seq);
    std::vector<int8_t>    want(static_cast<size_t>(limit));
    std::vector<float>     inputs(embeddings != nullptr ? size_t(std::min(limit, n)) * size_t(h.n_embd) : 0);
    uint64_t ns = 0, flop = 0;

    for (int32_t i = 0; i < n;) {
        const int32_t count = std::min(limit, n - i);
        for (int32_t k = 0; k < count; ++k) {
            pos[size_t(k)]  = used + k;
            want[size_t(k)] = of == results::each || i + k == n - 1;
        }
        llama_batch b{};
        b.n_tokens = count;
        if (embeddings != nullptr) {
            // llama.cpp takes ids or embeddings: ids between embeddings become embeddings, which saves a pass over the weights for each change
            for (int32_t k = 0; k < count; ++k) {
                float * row = inputs.data() + size_t(k) * size_t(h.n_embd);
                if (ids[i + k] != UB_EMBEDDING) {
                    lm.embed(ids[i + k], row);
                    continue;
                }
                std::copy_n(embeddings, h.n_embd, row);
                embeddings += h.n_embd;
            }
            b.embd = inputs.data();
        } else {
            b.token = const_cast<int32_t *>(ids + i);
        }
        b.pos = pos.data(); b.n_seq_id = n_seq.data(); b.seq_id = seq.data(); b.logits = want.data();

        r.check();
        turn my_turn(lm.dev->turns);
        const uint64_t start = now_ns();
        quiet_log();
        used += count;  // what undo would take back
        const int status = llama_decode(ctx.get(), b);
        llama_synchronize(ctx.get());
        ns += now_ns() - start;
        r.check();
        if (status == -2) fail(UB_E_NOMEM, "the language model ran out of memory: %s", take_complaints().c_str());
        if (status != 0) fail(UB_E_INTERNAL, "llama_decode returned %d: %s", status, take_complaints().c_str());

        const uint64_t e = uint64_t(h.n_embd), linear = 2 * e * e + 2 * e * uint64_t(h.n_embd_kv()) + 3 * e * uint64_t(h.n_ff);
        const uint64_t context = uint64_t(count) * uint64_t(used - count) + uint64_t(count) * uint64_t(count + 1) / 2;
        flop += 2 * uint64_t(h.n_layer) * (uint64_t(count) * linear + 2 * e * context);
        i += count;
        r.at(float(i) / float(n));
    }
    r.check();
    const int32_t rows = of == results::each ? n : 1;
    flop += 2 * uint64_t(rows) * uint64_t(h.n_embd) * uint64_t(h.n_vocab);
    for (int32_t i = 0; i < rows; ++i) {  // counted from the end, as only the last batch of a prefill has results
        const float * row_logits = llama_get_logits_ith(ctx.get(), i - rows), * row_hidden = llama_get_embeddings_ith(ctx.get(), i - rows);
        if (row_logits == nullptr || row_hidden == nullptr) fail(UB_E_INTERNAL, "llama.cpp gave no %s", row_logits == nullptr ? "logits" : "hidden state");
        if (logits != nullptr) std::copy_n(row_logits, h.n_vocab, logits + size_t(i) * size_t(h.n_vocab));
        if (hidden != nullptr) std::copy_n(row_hidden, h.n_embd, hidden + size_t(i) * size_t(h.n_embd));
    }

    at_end.length = used;
    ++c.calls;
    c.items += uint64_t(n);
    c.nanoseconds += ns;
    c.flop += flop;
}

} // namespace ub
