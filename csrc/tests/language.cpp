// The language model and its tokenizer through the C ABI, on a small random file. The Go tests compare with the golden cases.

#include "fixtures.h"

#include <atomic>
#include <thread>

namespace {

struct small {
    fixture::temp_dir dir;
    std::string path = dir.file("language.gguf");
    fixture::gguf_builder b;
    fixture::model_ptr open(bool vocab_only = false) {
        b.write(path);
        auto p = fixture::params();
        p.vocab_only = vocab_only;
        return fixture::open(fixture::files(path.c_str(), nullptr), p);
    }
};

struct model : small {
    fixture::model_ptr m;
    model() { fixture::add_language(b); m = open(); }
    fixture::session_ptr session(uint32_t n_ctx = 0) {
        ub_session * s = nullptr;
        ub_error err;
        REQUIRE(ub_session_open(m.get(), n_ctx, &s, &err) == UB_OK);
        return fixture::session_ptr(s);
    }
};

using fixture::vocab_size;
constexpr int width = 32;

struct state { std::vector<float> logits = std::vector<float>(vocab_size), hidden = std::vector<float>(width); };

state prefill(ub_session * s, const std::vector<int32_t> & ids, const std::vector<float> & rows = {}) {
    state out;
    ub_error err;
    const ub_status status = ub_session_prefill(s, ids.data(), int32_t(ids.size()), rows.data(), int32_t(rows.size() / width),
                                                out.logits.data(), out.hidden.data(), nullptr, &err);
    CAPTURE(std::string(err.message));
    REQUIRE(status == UB_OK);
    return out;
}

state decode(ub_session * s, int32_t id) {
    state out;
    ub_error err;
    REQUIRE(ub_session_decode(s, &id, 1, out.logits.data(), out.hidden.data(), &err) == UB_OK);
    return out;
}

bool same(const state & a, const state & b) {
    return fixture::relative_rms(a.logits, b.logits) < fixture::bar(1e-5) && fixture::relative_rms(a.hidden, b.hidden) < fixture::bar(1e-5);
}

std::vector<int32_t> some_ids(int n) {
    std::vector<int32_t> ids;
    for (int i = 0; i < n; ++i) ids.push_back((i * 37 + 11) % 256);
    return ids;
}

std::vector<int32_t> tokenize(ub_model * m, const std::string & text, bool special) {
    std::vector<int32_t> ids(text.size() + 1);
    int32_t n = -1;
    ub_error err;
    const ub_status status = ub_tokenize(m, text.data(), int32_t(text.size()), special, ids.data(), int32_t(ids.size()), &n, &err);
    CAPTURE(std::string(err.message));
    REQUIRE(status == UB_OK);
    ids.resize(size_t(n));
    return ids;
}

std::vector<int32_t> as_bytes(const std::string & s) {
    std::vector<int32_t> ids;
    for (unsigned char c : s) ids.push_back(c);
    return ids;
}

std::string complaint(fixture::gguf_builder & b, ub_status want = UB_E_FORMAT) {
    const fixture::temp_dir dir;
    const std::string path = dir.file("language.gguf");
    b.write(path);
    const auto f = fixture::files(path.c_str(), nullptr);
    const auto p = fixture::params();
    ub_error err;
    ub_model * m = nullptr;
    CHECK(ub_model_open(&f, &p, nullptr, &m, &err) == want);
    const std::string opened = err.message;
    CHECK(ub_model_check(&f, &err) == want);
    CHECK(opened == err.message);
    CHECK(opened.find(path) != std::string::npos);
    return opened;
}

#define HAS(text, part) CHECK_MESSAGE((text).find(part) != std::string::npos, "'" << (text) << "' has no '" << (part) << "'")

} // namespace

TEST_CASE("a prefix and its continuation give what the whole gives") {
    model m;
    const auto ids = some_ids(300);  // more than one micro-batch
    const auto whole = m.session();
    const state want = prefill(whole.get(), ids);
    CHECK(ub_session_length(whole.get()) == 300);
    CHECK(ub_session_capacity(whole.get()) == 512);

    const auto s = m.session(400);
    CHECK(ub_session_capacity(s.get()) == 400);
    prefill(s.get(), {ids.begin(), ids.begin() + 290});
    state last;
    for (size_t i = 290; i < 300; ++i) last = decode(s.get(), ids[i]);
    CHECK(same(last, want));

    // another continuation, then back
    ub_error err;
    prefill(s.get(), some_ids(17));
    REQUIRE(ub_session_truncate(s.get(), 299, &err) == UB_OK);
    CHECK(ub_session_length(s.get()) == 299);
    CHECK(same(decode(s.get(), ids[299]), want));
    CHECK(ub_session_truncate(s.get(), 301, &err) == UB_E_INVALID);
    CHECK(ub_session_truncate(s.get(), -1, &err) == UB_E_INVALID);
    REQUIRE(ub_session_truncate(s.get(), 0, &err) == UB_OK);
    CHECK(same(prefill(s.get(), ids), want));

    ub_stage_stats stats[UB_STAGE_COUNT];
    REQUIRE(ub_model_stats(m.m.get(), stats, &err) == UB_OK);
    CHECK(stats[UB_STAGE_PREFILL].calls == 4);
    CHECK(stats[UB_STAGE_PREFILL].items == 300 + 290 + 17 + 300);
    CHECK(stats[UB_STAGE_DECODE].items == 11);
    CHECK(stats[UB_STAGE_DECODE].flop > 0);
}

TEST_CASE("embeddings stand for ids") {
    model m;
    const auto ids = some_ids(40);
    const auto a = m.session(), b = m.session();
    const state want = prefill(a.get(), ids);
    auto mixed = ids;
    std::vector<float> rows;
    for (size_t i : {0u, 1u, 2u, 7u, 20u, 21u, 39u}) {
        mixed[i] = UB_EMBEDDING;
        const float * row = &m.b.tensors.at("token_embd.weight").data[size_t(ids[i]) * width];
        rows.insert(rows.end(), row, row + width);
    }
    CHECK(same(prefill(b.get(), mixed, rows), want));
}

TEST_CASE("the hidden state is after the final norm, before the logits, and not normalised to length one") {
    model m;
    const auto s = m.session();
    const state got = prefill(s.get(), some_ids(9));
    std::vector<float> logits;
    double length = 0;
    for (float x : got.hidden) length += double(x) * x;
    const auto & w = m.b.tensors.at("output.weight").data;
    for (size_t v = 0; v < vocab_size; ++v) {
        double sum = 0;
        for (size_t i = 0; i < width; ++i) sum += double(w[v * width + i]) * got.hidden[i];
        logits.push_back(float(sum));
    }
    CHECK(fixture::relative_rms(got.logits, logits) < 1e-5);
    CHECK(std::sqrt(length) > 2);
}

TEST_CASE("without output.weight the logits use the token embeddings") {
    small f;
    fixture::add_language(f.b);
    f.b.tensors.erase("output.weight");
    const auto m = f.open();
    ub_session * opened = nullptr;
    ub_error err;
    REQUIRE(ub_session_open(m.get(), 0, &opened, &err) == UB_OK);
    const fixture::session_ptr s(opened);
    const state got = prefill(s.get(), some_ids(9));
    std::vector<float> logits;
    const auto & w = f.b.tensors.at("token_embd.weight").data;
    for (size_t v = 0; v < vocab_size; ++v) {
        double sum = 0;
        for (size_t i = 0; i < width; ++i) sum += double(w[v * width + i]) * got.hidden[i];
        logits.push_back(float(sum));
    }
    CHECK(fixture::relative_rms(got.logits, logits) < 1e-5);
}

TEST_CASE("what a session refuses") {
    model m;
    const auto s = m.session(64);
    ub_error err;
    const auto ids = some_ids(65);
    CHECK(ub_session_prefill(s.get(), ids.data(), 65, nullptr, 0, nullptr, nullptr, nullptr, &err) == UB_E_CONTEXT);
    HAS(std::string(err.message), "65 positions do not fit: the session has 0 of 64");
    CHECK(ub_session_prefill(s.get(), ids.data(), 0, nullptr, 0, nullptr, nullptr, nullptr, &err) == UB_E_INVALID);
    for (int32_t bad : {-2, int32_t(vocab_size), INT32_MAX, INT32_MIN}) {
        CHECK(ub_session_prefill(s.get(), &bad, 1, nullptr, 0, nullptr, nullptr, nullptr, &err) == UB_E_INVALID);
        CHECK(ub_session_decode(s.get(), &bad, 1, nullptr, nullptr, &err) == UB_E_INVALID);
    }
    const int32_t embedding = UB_EMBEDDING;
    CHECK(ub_session_decode(s.get(), &embedding, 1, nullptr, nullptr, &err) == UB_E_INVALID);
    CHECK(ub_session_decode(s.get(), ids.data(), 0, nullptr, nullptr, &err) == UB_E_INVALID);
    CHECK(ub_session_decode(s.get(), nullptr, 1, nullptr, nullptr, &err) == UB_E_INVALID);
    CHECK(ub_session_decode(s.get(), ids.data(), UB_DECODE_AT_ONCE + 1, nullptr, nullptr, &err) == UB_E_INVALID);
    HAS(std::string(err.message), "17 ids, want 1 to 16");
    const std::vector<float> row(2 * width);
    CHECK(ub_session_prefill(s.get(), &embedding, 1, row.data(), 2, nullptr, nullptr, nullptr, &err) == UB_E_INVALID);
    CHECK(ub_session_prefill(s.get(), &embedding, 1, nullptr, 1, nullptr, nullptr, nullptr, &err) == UB_E_INVALID);
    CHECK(ub_session_prefill(s.get(), &embedding, 1, nullptr, 0, nullptr, nullptr, nullptr, &err) == UB_E_INVALID);
    CHECK(ub_session_length(s.get()) == 0);
    prefill(s.get(), some_ids(64));
    CHECK(ub_session_decode(s.get(), ids.data(), 1, nullptr, nullptr, &err) == UB_E_CONTEXT);
    CHECK(ub_session_length(s.get()) == 64);

    ub_session * none = nullptr;
    CHECK(ub_session_open(m.m.get(), 513, &none, &err) == UB_E_INVALID);
    HAS(std::string(err.message), "n_ctx is 513, the model was trained on 512");
    CHECK(ub_session_length(nullptr) == 0);
    ub_session_close(nullptr);
    ub_model_close(nullptr);
}

TEST_CASE("several ids in one run give what one by one do") {
    model m;
    const auto s = m.session(), t = m.session();
    const auto ids = some_ids(50);
    prefill(s.get(), {ids.begin(), ids.begin() + 40});
    prefill(t.get(), {ids.begin(), ids.begin() + 40});
    std::vector<float> logits(10 * size_t(vocab_size)), hidden(10 * size_t(width));
    ub_error err;
    REQUIRE(ub_session_decode(s.get(), ids.data() + 40, 10, logits.data(), hidden.data(), &err) == UB_OK);
    CHECK(ub_session_length(s.get()) == 50);
    for (size_t i = 0; i < 10; ++i) {
        const state one = decode(t.get(), ids[40 + i]);
        const state row{{logits.begin() + long(i * vocab_size), logits.begin() + long((i + 1) * vocab_size)},
                        {hidden.begin() + long(i * width), hidden.begin() + long((i + 1) * width)}};
        CAPTURE(i);
        CHECK(same(row, one));
    }
    // what was guessed wrong is taken back
    REQUIRE(ub_session_truncate(s.get(), 43, &err) == UB_OK);
    REQUIRE(ub_session_truncate(t.get(), 43, &err) == UB_OK);
    CHECK(same(decode(s.get(), 5), decode(t.get(), 5)));
}

TEST_CASE("a canceled prefill leaves the session as it was") {
    model m;
    const auto s = m.session(), t = m.session();
    const auto ids = some_ids(400);
    const state want = prefill(t.get(), {ids.begin(), ids.begin() + 10});
    prefill(s.get(), {ids.begin(), ids.begin() + 9});
    ub_call call{};
    call.size = sizeof call;
    ub_error err;
    call.progress = [](float, void *) { return false; };
    CHECK(ub_session_prefill(s.get(), ids.data() + 9, 391, nullptr, 0, nullptr, nullptr, &call, &err) == UB_E_CANCELED);
    CHECK(ub_session_length(s.get()) == 9);
    CHECK(same(decode(s.get(), ids[9]), want));
}

TEST_CASE("sessions outlive their model and work side by side") {
    model m;
    const auto ids = some_ids(120);
    const auto a = m.session();
    const state want = prefill(a.get(), ids);
    std::vector<fixture::session_ptr> sessions;
    for (int i = 0; i < 3; ++i) sessions.push_back(m.session());
    m.m.reset();
    std::atomic<int> good{0};
    std::vector<std::thread> threads;
    for (auto & s : sessions) {
        threads.emplace_back([&, p = s.get()] {
            state out;
            bool ok = true;
            for (int round = 0; round < 3; ++round) {
                ok = ok && ub_session_truncate(p, 0, nullptr) == UB_OK;
                ok = ok && ub_session_prefill(p, ids.data(), 119, nullptr, 0, nullptr, nullptr, nullptr, nullptr) == UB_OK;
                ok = ok && ub_session_decode(p, &ids[119], 1, out.logits.data(), out.hidden.data(), nullptr) == UB_OK;
            }
            good += ok && fixture::relative_rms(out.logits, want.logits) < fixture::bar(1e-5);
        });
    }
    for (auto & t : threads) t.join();
    CHECK(good == 3);
}

TEST_CASE("tokens of text") {
    small f;
    fixture::add_tokenizer(f.b);  // no sizes, no tensors
    const auto m = f.open(true);
    const auto plain = [&](const std::string & s) { return tokenize(m.get(), s, false); };
    const auto special = [&](const std::string & s) { return tokenize(m.get(), s, true); };
    using ids = std::vector<int32_t>;
    const int32_t ab = fixture::token_ab, seg = fixture::token_seg, p = fixture::token_p;

    CHECK(plain("") == ids{});
    CHECK(plain("xab") == ids{'x', ab});
    CHECK(special("a[SEG]b") == ids{'a', seg, 'b'});
    CHECK(plain("a[SEG]b") == as_bytes("a[SEG]b"));
    CHECK(special("<p>ab<p>") == ids{p, ab, p});
    CHECK(plain("<p>ab<p>") == ids{'<', 'p', '>', ab, '<', 'p', '>'});
    CHECK(special("[UNUSED261]") == as_bytes("[UNUSED261]"));
    CHECK(plain(std::string("a\0ab", 4)) == ids{'a', 0, ab});
    CHECK(plain("\xc3\xa9") == ids{0xc3, 0xa9});

    // long text is encoded in pieces; the pieces must not show
    std::string text;
    ids want;
    for (int i = 0; i < 4000; ++i) {
        text += i % 7 == 0 ? "[SEG]" : i % 3 == 0 ? "ab 12" : "x-ab";
        const ids part = i % 7 == 0 ? ids{seg} : i % 3 == 0 ? ids{ab, ' ', '1', '2'} : ids{'x', '-', ab};
        want.insert(want.end(), part.begin(), part.end());
    }
    CHECK(special(text) == want);
    for (const char c : {'a', ' ', '-', '\n'}) CHECK(plain(std::string(30000, c)) == as_bytes(std::string(30000, c)));  // no recursion runs out of stack

    int32_t n = 0;
    ub_error err;
    CHECK(ub_tokenize(m.get(), "\xff", 1, false, nullptr, 0, &n, &err) == UB_E_INVALID);
    HAS(std::string(err.message), "not UTF-8 at byte 0");
    CHECK(ub_tokenize(m.get(), "ab\xe2\x82", 4, false, nullptr, 0, &n, &err) == UB_E_INVALID);
    const std::string huge(100000, 'a');
    CHECK(ub_tokenize(m.get(), huge.data(), int32_t(huge.size()), false, nullptr, 0, &n, &err) == UB_E_INVALID);
    HAS(std::string(err.message), "without an end of a word");
    CHECK(ub_tokenize(m.get(), nullptr, 1, false, nullptr, 0, &n, &err) == UB_E_INVALID);
    CHECK(ub_tokenize(m.get(), "xx", -1, false, nullptr, 0, &n, &err) == UB_E_INVALID);
    int32_t one = -7;
    CHECK(ub_tokenize(m.get(), "xx", 2, false, &one, 1, &n, &err) == UB_OK);
    CHECK(n == 2);
    CHECK(one == -7);  // not written: it does not fit
}

TEST_CASE("bytes and kinds of tokens, metadata") {
    small f;
    fixture::add_tokenizer(f.b);
    const auto m = f.open(true);
    ub_error err;
    char buffer[16];
    int32_t n = 0;
    for (int id = 0; id < 256; ++id) {
        REQUIRE(ub_token_bytes(m.get(), id, buffer, sizeof buffer, &n, &err) == UB_OK);
        CHECK(n == 1);
        CHECK(static_cast<unsigned char>(buffer[0]) == id);
        CHECK(ub_token_kind(m.get(), id) == 0);
    }
    REQUIRE(ub_token_bytes(m.get(), fixture::token_seg, buffer, sizeof buffer, &n, &err) == UB_OK);
    CHECK(std::string(buffer, size_t(n)) == "[SEG]");
    buffer[0] = 'x';
    REQUIRE(ub_token_bytes(m.get(), fixture::token_seg, buffer, 4, &n, &err) == UB_OK);
    CHECK(n == 5);
    CHECK(buffer[0] == 'x');
    CHECK(ub_token_kind(m.get(), fixture::token_seg) == 3);
    CHECK(ub_token_kind(m.get(), fixture::token_p) == 1);
    CHECK(ub_token_kind(m.get(), fixture::token_unused) == 0);
    CHECK(ub_token_kind(m.get(), vocab_size) == -1);
    CHECK(ub_token_kind(m.get(), -1) == -1);
    CHECK(ub_token_bytes(m.get(), vocab_size, buffer, 4, &n, &err) == UB_E_INVALID);

    REQUIRE(ub_model_metadata(m.get(), "general.name", buffer, 5, &n, &err) == UB_OK);
    CHECK(n == 12);
    CHECK(std::string(buffer) == "a te");
    REQUIRE(ub_model_metadata(m.get(), "tokenizer.ggml.eos_token_id", buffer, sizeof buffer, &n, &err) == UB_OK);
    CHECK(std::string(buffer) == "259");
    REQUIRE(ub_model_metadata(m.get(), "nothing", buffer, sizeof buffer, &n, &err) == UB_OK);
    CHECK(n == -1);

    ub_session * s = nullptr;
    CHECK(ub_session_open(m.get(), 0, &s, &err) == UB_E_INVALID);
    ub_model_info info{};
    info.size = sizeof info;
    REQUIRE(ub_model_get_info(m.get(), &info, &err) == UB_OK);
    CHECK(info.n_vocab == vocab_size);
}

TEST_CASE("the plan counts a session") {
    small f;
    fixture::add_language(f.b);
    f.b.write(f.path);
    const auto files = fixture::files(f.path.c_str(), nullptr);
    auto p = fixture::params();
    p.n_ctx = 300;
    ub_memory_plan plan{};
    plan.size = sizeof plan;
    ub_error err;
    REQUIRE(ub_model_plan(&files, &p, &plan, &err) == UB_OK);
    CHECK(plan.kv_cache == 2ull * 2 * 512 * 16 * 4);  // keys and values, layers, positions rounded up to 256, f32
    CHECK(plan.total == plan.weights_language + plan.kv_cache + plan.compute_language);
    p.n_ctx = 600;
    CHECK(ub_model_plan(&files, &p, &plan, &err) == UB_E_INVALID);
}

TEST_CASE("files that llama.cpp would abort on, or read as something else") {
    const auto with = [](const std::function<void(fixture::gguf_builder &)> & change) {
        auto b = std::make_unique<fixture::gguf_builder>();
        fixture::add_language(*b);
        change(*b);
        return b;
    };
    std::vector<std::string> tokens;
    for (int i = 0; i < vocab_size; ++i) tokens.push_back("t" + std::to_string(i));

    HAS(complaint(*with([](auto & b) { b.str("general.architecture", "llama"); }), UB_E_UNSUPPORTED), "'llama'");
    HAS(complaint(*with([](auto & b) { b.u32("qwen2.expert_count", 8); }), UB_E_UNSUPPORTED), "qwen2.expert_count");
    HAS(complaint(*with([](auto & b) { b.str("qwen2.rope.scaling.type", "odd"); }), UB_E_UNSUPPORTED), "qwen2.rope.scaling.type");
    HAS(complaint(*with([](auto & b) { gguf_set_val_u16(b.g.get(), "split.count", 2); }), UB_E_UNSUPPORTED), "split.count");
    HAS(complaint(*with([](auto & b) { b.u32("qwen2.attention.head_count", 3); })), "head_count 3");
    HAS(complaint(*with([](auto & b) { b.u32("qwen2.attention.head_count_kv", 3); })), "does not divide");
    HAS(complaint(*with([](auto & b) { b.u32("qwen2.block_count", 3); })), "missing: 'blk.2.attn_norm.weight'");
    HAS(complaint(*with([](auto & b) { b.u32("qwen2.block_count", 1); })), "unexpected: 'blk.1.");
    HAS(complaint(*with([](auto & b) { b.str("qwen2.block_count", "2"); })), "is of type string, want u32");
    HAS(complaint(*with([](auto & b) { b.u32("qwen2.vocab_size", 9); })), "vocab_size is 9");
    HAS(complaint(*with([](auto & b) { b.random("output.weight", {vocab_size - 1, 32}, 1); })), "'output.weight' is [263, 32], want [264, 32]");
    HAS(complaint(*with([](auto & b) { b.str("tokenizer.ggml.model", "llama"); }), UB_E_UNSUPPORTED), "want 'gpt2'");
    HAS(complaint(*with([](auto & b) { b.str("tokenizer.ggml.pre", "default"); }), UB_E_UNSUPPORTED), "want 'qwen2'");
    HAS(complaint(*with([](auto & b) { b.i32s("tokenizer.ggml.token_type", {1, 1}); })), "has 2 elements, want 264");
    HAS(complaint(*with([](auto & b) { b.f32s("tokenizer.ggml.token_type", std::vector<float>(vocab_size)); })), "array of f32, want i32");
    HAS(complaint(*with([](auto & b) { b.f32s("tokenizer.ggml.scores", {1}); })), "has 1 elements");
    HAS(complaint(*with([&](auto & b) { auto t = tokens; t[9] = t[8]; b.strs("tokenizer.ggml.tokens", t); })), "token 9 't8' appears twice");
    HAS(complaint(*with([&](auto & b) { auto t = tokens; t[9] = ""; b.strs("tokenizer.ggml.tokens", t); })), "token 9 has 0 bytes");
    HAS(complaint(*with([&](auto & b) { auto t = tokens; t[9] = "\xff"; b.strs("tokenizer.ggml.tokens", t); })), "token 9 is not UTF-8");
    HAS(complaint(*with([&](auto & b) { b.strs("tokenizer.ggml.tokens", {"a"}); })), "has 1 entries");
    HAS(complaint(*with([](auto & b) { b.strs("tokenizer.ggml.merges", {"ab"}); })), "merge 0 'ab'");
    HAS(complaint(*with([](auto & b) { b.strs("tokenizer.ggml.merges", {"a b c"}); })), "merge 0 'a b c'");
    HAS(complaint(*with([](auto & b) { b.u32("tokenizer.ggml.merges", 1); })), "is of type u32, want array");
    HAS(complaint(*with([](auto & b) { b.u32("tokenizer.ggml.eos_token_id", 264); })), "is 264, want 0 to 263");
    HAS(complaint(*with([](auto & b) { b.boolean("tokenizer.ggml.add_bos_token", true); }), UB_E_UNSUPPORTED), "add_bos_token is true");
    HAS(complaint(*with([](auto & b) { gguf_remove_key(b.g.get(), "tokenizer.ggml.merges"); })), "is missing");
}

TEST_CASE("changed bytes give an error or a model, never a crash") {
    small f;
    fixture::add_language(f.b);
    f.b.write(f.path);
    const auto whole = fixture::read_file(f.path);
    const std::string head(whole.begin(), whole.end());
    const size_t metadata = head.find("token_embd.weight") + 200;
    std::minstd_rand rng(3);
    int opened = 0;
    for (int i = 0; i < 400; ++i) {
        auto data = whole;
        for (int k = 0; k < 1 + i % 3; ++k) data[rng() % metadata] = i % 2 == 0 ? char(rng()) : char('a' + rng() % 26);
        fixture::write_file(f.path, data);
        const auto files = fixture::files(f.path.c_str(), nullptr);
        const auto p = fixture::params();
        ub_error err;
        ub_model * m = nullptr;
        const ub_status status = ub_model_open(&files, &p, nullptr, &m, &err);
        CAPTURE(std::string(err.message));
        CHECK((status == UB_OK || status == UB_E_FORMAT || status == UB_E_UNSUPPORTED));
        if (status != UB_OK) continue;
        ++opened;
        const fixture::model_ptr owner(m);
        ub_session * s = nullptr;
        if (ub_session_open(m, 16, &s, &err) == UB_OK) {
            const fixture::session_ptr session(s);
            const int32_t id = 7;
            CHECK(ub_session_prefill(s, &id, 1, nullptr, 0, nullptr, nullptr, nullptr, &err) == UB_OK);
        }
        int32_t n;
        CHECK(ub_tokenize(m, "ab [SEG] <p> 12", 15, true, nullptr, 0, &n, &err) == UB_OK);
    }
    CHECK(opened > 0);
}

TEST_CASE("files of different models") {
    small f;
    fixture::add_language(f.b);
    f.b.u32("qwen2.embedding_length", 64);
    for (auto & t : f.b.tensors) {  // twice as wide
        for (int64_t & n : t.second.shape) n = n == 32 ? 64 : n == 16 ? 32 : n;
        const auto shape = t.second.shape;
        f.b.random(t.first, shape, 0.1f);
    }
    f.b.write(f.path);
    fixture::gguf_builder v;
    fixture::add_vision(v);
    const std::string vision = f.dir.file("vision.gguf");
    v.write(vision);
    const auto files = fixture::files(f.path.c_str(), vision.c_str());
    ub_error err;
    CHECK(ub_model_check(&files, &err) == UB_E_FORMAT);
    HAS(std::string(err.message), "files of different models");
    HAS(std::string(err.message), "vision.projection_length 32");
}

TEST_CASE("the rate of products") {
    model m;
    ub_error err;
    double rate = 0;
    for (const char * type : {"f32", "f16", "q8_0"}) {
        REQUIRE(ub_peak_rate(m.m.get(), type, 256, 0.01f, &rate, &err) == UB_OK);
        CHECK(rate > (std::string(fixture::params().device) == "cpu" ? 1e6 : 1e4));  // a GPU's first product waits for its driver to compile
    }
    CHECK(ub_peak_rate(m.m.get(), "q8_0", 100, 0.01f, &rate, &err) == UB_E_INVALID);
    CHECK(ub_peak_rate(m.m.get(), "f32", 0, 0.01f, &rate, &err) == UB_E_INVALID);
    CHECK(ub_peak_rate(m.m.get(), "f33", 64, 0.01f, &rate, &err) == UB_E_INVALID);
}
