// Rows of f32 to rows of a weight type and back.

#include "fixtures.h"

namespace {

struct type_case { const char * name; int64_t block, bytes; double tolerance; };  // tolerance: relative rms of a round trip

const type_case types[] = {
    {"f32", 1, 4, 0},           {"f16", 1, 2, 3e-4},        {"bf16", 1, 2, 3e-3},       {"q8_0", 32, 34, 6e-3},
    {"q6_k", 256, 210, 2.5e-2}, {"q5_k", 256, 176, 5e-2},   {"q4_k", 256, 144, 9e-2},   {"q5_1", 32, 24, 5e-2},
    {"q5_0", 32, 22, 6e-2},     {"q4_1", 32, 20, 9e-2},     {"q4_0", 32, 18, 1.2e-1},   {"iq4_nl", 32, 18, 1.2e-1}};

std::vector<float> noise(size_t n) {
    std::minstd_rand rng(7);
    std::normal_distribution<float> dist;
    std::vector<float> v(n);
    for (float & x : v) x = dist(rng);
    return v;
}

} // namespace

TEST_CASE("round trips") {
    const int64_t rows = 301, length = 512;
    const auto src = noise(size_t(rows * length));
    for (const auto & t : types) {
        CAPTURE(t.name);
        CHECK(ub_type_id(t.name) >= 0);
        REQUIRE(ub_row_size(t.name, length) == length / t.block * t.bytes);
        std::vector<char> one(size_t(rows * ub_row_size(t.name, length))), many(one.size());
        std::vector<float> back(src.size());
        ub_error err;
        REQUIRE(ub_quantize(t.name, src.data(), rows, length, one.data(), one.size(), 1, &err) == UB_OK);
        REQUIRE(ub_quantize(t.name, src.data(), rows, length, many.data(), many.size(), 4, &err) == UB_OK);
        CHECK(one == many);  // threads change nothing
        REQUIRE(ub_dequantize(t.name, one.data(), one.size(), rows, length, back.data(), &err) == UB_OK);
        CHECK(fixture::relative_rms(back, src) <= t.tolerance);
    }
}

TEST_CASE("what can't be quantized") {
    ub_error err;
    std::vector<float> src = noise(512);
    std::vector<char> dst(4096);

    CHECK(ub_row_size("q8_0", 33) == -1);
    CHECK(ub_row_size("q4_k", 128) == -1);
    CHECK(ub_row_size("q9_0", 32) == -1);
    CHECK(ub_row_size("f32", 0) == -1);
    CHECK(ub_row_size("f32", INT64_MAX) == -1);
    CHECK(ub_row_size(nullptr, 32) == -1);
    CHECK(ub_type_id("") == -1);

    CHECK(ub_quantize("q9_0", src.data(), 2, 256, dst.data(), 544, 1, &err) == UB_E_INVALID);
    CHECK(std::string(err.message).find("q9_0") != std::string::npos);
    CHECK(ub_quantize("q8_0", src.data(), 2, 250, dst.data(), 544, 1, &err) == UB_E_INVALID);
    CHECK(ub_quantize("q8_0", src.data(), 2, 256, dst.data(), 543, 1, &err) == UB_E_INVALID);
    CHECK(std::string(err.message).find("543") != std::string::npos);
    CHECK(ub_quantize("q8_0", src.data(), -1, 256, dst.data(), 0, 1, &err) == UB_E_INVALID);
    CHECK(ub_quantize("q8_0", src.data(), INT64_MAX / 256, 256, dst.data(), 544, 1, &err) == UB_E_INVALID);
    CHECK(ub_quantize("q8_0", src.data(), 2, 256, dst.data(), 544, -1, &err) == UB_E_INVALID);
    CHECK(ub_quantize("q8_0", nullptr, 2, 256, dst.data(), 544, 1, &err) == UB_E_INVALID);
    CHECK(ub_quantize("q8_0", nullptr, 0, 256, nullptr, 0, 1, &err) == UB_OK);
    CHECK(ub_dequantize("q8_0", dst.data(), 545, 2, 256, src.data(), &err) == UB_E_INVALID);

    for (const auto & t : types) {
        CAPTURE(t.name);
        for (float bad : {std::nanf(""), INFINITY, -INFINITY}) {
            auto v = noise(512);
            v[300] = bad;
            v[301] = bad;
            CHECK(ub_quantize(t.name, v.data(), 2, 256, dst.data(), size_t(2 * ub_row_size(t.name, 256)), 2, &err) == UB_E_FORMAT);
            CHECK(std::string(err.message).find("value 300 (row 1, column 44)") != std::string::npos);
        }
    }
    src[5] = 1e5f;  // f16 has no such number
    CHECK(ub_quantize("f16", src.data(), 2, 256, dst.data(), 1024, 1, &err) == UB_E_FORMAT);
    CHECK(ub_quantize("bf16", src.data(), 2, 256, dst.data(), 1024, 1, &err) == UB_OK);
}
