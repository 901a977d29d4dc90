// The bounded GGUF reader against files that are cut, changed, or lie about their sizes.

#include "fixtures.h"

#include "gguf_file.h"

using ub::gguf_file;

namespace {

// A file written by hand, byte for byte.
struct raw {
    std::vector<char> data;
    template <class T> raw & put(T v) {
        const char * p = reinterpret_cast<const char *>(&v);
        data.insert(data.end(), p, p + sizeof v);
        return *this;
    }
    raw & str(const std::string & s) {
        put<uint64_t>(s.size());
        data.insert(data.end(), s.begin(), s.end());
        return *this;
    }
    raw & header(uint64_t tensors, uint64_t keys, uint32_t version = 3) { return put<uint32_t>(0x46554747).put(version).put(tensors).put(keys); }
    raw & tensor(const std::string & name, std::vector<uint64_t> shape, uint32_t type, uint64_t offset) {
        str(name).put<uint32_t>(uint32_t(shape.size()));
        for (uint64_t n : shape) put(n);
        return put(type).put(offset);
    }
    raw & pad(size_t to = 32) { data.resize((data.size() + to - 1) / to * to); return *this; }
    raw & zeros(size_t n) { data.resize(data.size() + n); return *this; }
};

// The message of the error that opening the file gives, or "".
std::string complaint(const std::vector<char> & data, ub_status want = UB_E_FORMAT) {
    static const fixture::temp_dir dir;
    const std::string path = dir.file("a.gguf");
    fixture::write_file(path, data);
    try {
        gguf_file f(path);
        return "";
    } catch (const ub::error & e) {
        CHECK(e.status == want);
        CHECK(e.message.find(path) != std::string::npos);
        return e.message;
    }
}

#define HAS(text, part) CHECK_MESSAGE((text).find(part) != std::string::npos, "'" << (text) << "' has no '" << (part) << "'")

} // namespace

TEST_CASE("a sound file") {
    const fixture::temp_dir dir;
    const std::string path = dir.file("v.gguf");
    fixture::gguf_builder b;
    fixture::add_vision(b);
    b.i32s("numbers", {1, -2, 3});
    b.strs("words", {"a", "", "ccc"});
    b.write(path);

    const gguf_file f(path);
    CHECK(f.u32("vision.image_size") == 32);
    CHECK(f.u32("nothing", 5) == 5);
    CHECK(f.f32("vision.projector.layer_norm_epsilon") == 1e-5f);
    CHECK(f.boolean("vision.tiles.thumbnail"));
    CHECK(f.str("general.architecture") == "unibiomed-vision");
    CHECK(f.f32s("vision.image_mean", 3, 3) == std::vector<float>{0.485f, 0.456f, 0.406f});
    CHECK(f.i32s("numbers", 0, 9) == std::vector<int32_t>{1, -2, 3});
    std::vector<std::string> words;
    f.strings("words", [&](size_t, std::string_view s) { words.emplace_back(s); });
    CHECK(words == std::vector<std::string>{"a", "", "ccc"});
    std::string text;
    CHECK(f.text("vision.image_size", text));
    CHECK(text == "32");
    CHECK(f.text("numbers", text));
    CHECK(text == "[3]");
    CHECK_FALSE(f.text("nothing", text));

    const auto * t = f.find("projector.fc1.weight");
    REQUIRE(t != nullptr);
    CHECK(t->ne[0] == 64);
    CHECK(t->ne[1] == 32);
    CHECK(t->size == 64 * 32 * 4);
    std::vector<float> values(64 * 32);
    f.read(t->offset, values.data(), t->size);
    CHECK(values == b.tensors["projector.fc1.weight"].data);
    CHECK(f.find("nothing") == nullptr);
}

TEST_CASE("a key of another type, length or value") {
    const fixture::temp_dir dir;
    const std::string path = dir.file("v.gguf");
    fixture::gguf_builder b;
    fixture::add_vision(b);
    b.f32("inf", INFINITY);
    b.write(path);
    const gguf_file f(path);
    const auto message = [](auto && get) -> std::string {
        try { get(); } catch (const ub::error & e) { CHECK(e.status == UB_E_FORMAT); return e.message; }
        return "";
    };
    HAS(message([&] { f.f32("vision.image_size"); }), "key 'vision.image_size' is of type u32, want f32");
    HAS(message([&] { f.u32("nothing"); }), "key 'nothing' is missing, want u32");
    HAS(message([&] { f.f32s("vision.image_mean", 4, 4); }), "has 3 elements, want 4 to 4");
    HAS(message([&] { f.u32s("vision.image_mean", 3, 3); }), "is an array of f32, want u32");
    HAS(message([&] { f.size_of("vision.image_size", 33, 99); }), "is 32, want 33 to 99");
    HAS(message([&] { f.f32("inf"); }), "not a finite number");
}

TEST_CASE("every cut of a file is refused") {
    const fixture::temp_dir dir;
    const std::string path = dir.file("v.gguf");
    fixture::gguf_builder b;
    add_tokenizer(b);
    b.random("x", {3, 40}, 1);
    b.write(path);
    const auto whole = fixture::read_file(path);
    CHECK(complaint(whole) == "");
    const size_t data_end = gguf_file(path).find("x")->offset + 3 * 40 * 4;
    for (size_t n = 0; n < data_end; n += n < 200 || n + 700 > data_end ? 1 : 97) {
        CAPTURE(n);
        CHECK(complaint({whole.begin(), whole.begin() + std::ptrdiff_t(n)}) != "");
    }
}

TEST_CASE("changed bytes never do harm") {
    const fixture::temp_dir dir;
    const std::string path = dir.file("v.gguf");
    fixture::gguf_builder b;
    add_tokenizer(b);
    b.random("x", {3, 40}, 1);
    b.write(path);
    const auto whole = fixture::read_file(path);
    std::minstd_rand rng(1);
    for (int i = 0; i < 3000; ++i) {
        auto data = whole;
        for (int k = 0; k < 1 + i % 4; ++k) data[rng() % data.size()] = char(rng());
        fixture::write_file(path, data);
        try {
            gguf_file f(path);
            for (const auto & t : f.tensors()) CHECK(t.offset + t.size <= f.size());
        } catch (const ub::error & e) {
            CHECK((e.status == UB_E_FORMAT || e.status == UB_E_UNSUPPORTED));
        }
    }
}

TEST_CASE("files that lie") {
    constexpr uint64_t huge = 1ull << 62;
    HAS(complaint({}), "has 0 left");
    HAS(complaint({'P', 'K', 3, 4, 0, 0, 0, 0}), "not a GGUF file");
    HAS(complaint(raw().header(0, 0, 1).data, UB_E_UNSUPPORTED), "GGUF version 1");
    HAS(complaint(raw().header(0, 0, 4).data, UB_E_UNSUPPORTED), "GGUF version 4");
    HAS(complaint(raw().header(0, 0, 0x03000000).data), "big-endian");
    HAS(complaint(raw().header(huge, 0).data), "tensors claimed");
    HAS(complaint(raw().header(0, huge).data), "keys claimed");
    HAS(complaint(raw().header(0, 1).put(huge).zeros(64).data), "needs 4611686018427387904 bytes");
    HAS(complaint(raw().header(0, 1).str("k").put<uint32_t>(8).put(huge).zeros(64).data), "key 'k' needs");
    HAS(complaint(raw().header(0, 1).str("k").put<uint32_t>(9).put<uint32_t>(4).put(huge).zeros(64).data), "key 'k' claims");
    HAS(complaint(raw().header(0, 1).str("k").put<uint32_t>(9).put<uint32_t>(8).put(huge).zeros(64).data), "key 'k' claims");
    HAS(complaint(raw().header(0, 1).str("k").put<uint32_t>(9).put<uint32_t>(9).put<uint64_t>(1).zeros(64).data), "array of unknown type 9");
    HAS(complaint(raw().header(0, 1).str("k").put<uint32_t>(13).zeros(64).data), "unknown type 13");
    HAS(complaint(raw().header(0, 1).str("k").put<uint32_t>(7).put<uint8_t>(2).zeros(64).data), "bool of 2");
    HAS(complaint(raw().header(0, 1).str("").put<uint32_t>(4).zeros(64).data), "empty name");
    HAS(complaint(raw().header(0, 2).str("k").put<uint32_t>(4).put(1u).str("k").put<uint32_t>(4).put(1u).zeros(64).data), "appears twice");
    HAS(complaint(raw().header(0, 1).str("general.alignment").put<uint32_t>(4).put(48u).zeros(64).data), "power of two");
    HAS(complaint(raw().header(0, 1).str("general.alignment").put<uint32_t>(4).put(8u).zeros(64).data, UB_E_UNSUPPORTED), "at least 32");
    HAS(complaint(raw().header(0, 1).str("general.alignment").put<uint32_t>(10).put<uint64_t>(32).zeros(64).data), "is of type u64, want u32");

    const auto tensor = [](const std::string & name, std::vector<uint64_t> shape, uint32_t type, uint64_t offset) {
        return raw().header(1, 0).tensor(name, std::move(shape), type, offset).pad().zeros(256).data;
    };
    CHECK(complaint(tensor("t", {8, 8}, 0, 0)) == "");
    HAS(complaint(tensor(std::string(64, 't'), {8}, 0, 0)), "has 64 bytes, at most 63");
    HAS(complaint(tensor("", {8}, 0, 0)), "empty name");
    HAS(complaint(tensor("t", {}, 0, 0)), "0 dimensions");
    HAS(complaint(tensor("t", {1, 1, 1, 1, 1}, 0, 0)), "5 dimensions");
    HAS(complaint(tensor("t", {0}, 0, 0)), "extent 0");
    HAS(complaint(tensor("t", {huge, huge}, 0, 0)), "extent 4611686018427387904");
    HAS(complaint(tensor("t", {1ull << 32, 1ull << 32}, 0, 0)), "extent");
    HAS(complaint(tensor("t", {8, 9}, 0, 0)), "needs 288 bytes");
    HAS(complaint(tensor("t", {8}, 0, 32)), "offset 32, want 0");
    HAS(complaint(tensor("t", {8}, 0, huge)), "offset 4611686018427387904");
    HAS(complaint(tensor("t", {8}, 999, 0)), "unknown type 999");
    HAS(complaint(tensor("t", {31}, 8, 0)), "rows of 31, want a multiple of 32");
    HAS(complaint(raw().header(2, 0).tensor("t", {8}, 0, 0).tensor("t", {8}, 0, 32).pad().zeros(64).data), "appears twice");
    HAS(complaint(raw().header(2, 0).tensor("t", {8}, 0, 0).tensor("u", {8}, 0, 0).pad().zeros(64).data), "offset 0, want 32");
}

TEST_CASE("paths that are no files") {
    try { gguf_file f("no/such/file.gguf"); FAIL("opened"); } catch (const ub::error & e) { CHECK(e.status == UB_E_IO); HAS(e.message, "no/such/file.gguf"); }
    try { gguf_file f("."); FAIL("opened"); } catch (const ub::error & e) { CHECK(e.status == UB_E_IO); HAS(e.message, "not a regular file"); }
}
