// vector.h: a register of floats at a time, and exp and erf on them.
//
// The vectors are the compiler's own extension, as wide as the machine's registers: of wider ones GCC takes comparisons and
// conversions apart into single floats.

#pragma once

#include "ggml-cpu.h"

#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace ub::onednn {

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif
typedef float    floats __attribute__((vector_size(lanes * 4)));
typedef int32_t  ints __attribute__((vector_size(lanes * 4)));
typedef int16_t  signed_shorts __attribute__((vector_size(lanes * 2)));
typedef uint16_t shorts __attribute__((vector_size(lanes * 2)));
typedef uint8_t  bytes __attribute__((vector_size(lanes)));

inline floats load(const float * p) {
    floats v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline floats load(const float * p, int n) {  // n < lanes, zeros behind them
    floats v = {};
    std::memcpy(&v, p, size_t(n) * sizeof(float));
    return v;
}
inline floats load(const uint16_t * p) {  // f16
#if defined(__AVX512F__)
    return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));  // GCC warns about the plain one
#elif defined(__F16C__)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
#else
    float v[lanes];
    ggml_cpu_fp16_to_fp32(p, v, lanes);
    return load(v);
#endif
}
inline void store(float * p, floats v) { std::memcpy(p, &v, sizeof v); }
inline void store(float * p, floats v, int n) { std::memcpy(p, &v, size_t(n) * sizeof(float)); }
inline floats all(float x) { return x - floats{}; }  // an added zero would stay in the code, for the sake of -0

// v, and where its count is below `lanes` the rest behind it.
inline floats padded_with(float rest, floats v, int count) {
    if (count == lanes) return v;
    floats y = all(rest);
    std::memcpy(&y, &v, size_t(count) * sizeof(float));
    return y;
}

// Adding it rounds magnitudes up to 2^22 to whole numbers, ties to even, that stand in the low bits: 1.5 * 2^23, whose bits are 0x4b400000.
constexpr float rounding = 12582912.0f;
inline ints whole(floats v) { return (ints) (v + rounding) - 0x4b400000; }

inline floats larger(floats a, floats b) { return a > b ? a : b; }  // b where a is NaN
inline floats magnitude(floats v) { return (floats) ((ints) v & 0x7fffffff); }

// 0, 1, 2, ... of the lanes.
inline ints lane_numbers() {
    ints i;
    for (int n = 0; n < lanes; ++n) i[n] = n;
    return i;
}
inline float sum(floats v) {
#pragma GCC unroll 4
    for (int n = lanes / 2; n > 0; n /= 2) v += __builtin_shuffle(v, lane_numbers() ^ n);
    return v[0];
}
// Lane i is the sum of v[i]. Overwrites v.
inline floats sums(floats * v) {
    const ints lane = lane_numbers();
#pragma GCC unroll 4
    for (int step = 1; step < lanes; step *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < lanes; i += 2 * step) {
            const ints odd = (lane & step) != 0;
            v[i] = (odd ? v[i + step] : v[i]) + __builtin_shuffle(odd ? v[i] : v[i + step], lane ^ step);
        }
    }
    return v[0];
}
inline float largest(floats v) {
#pragma GCC unroll 4
    for (int n = lanes / 2; n > 0; n /= 2) v = larger(v, __builtin_shuffle(v, lane_numbers() ^ n));
    return v[0];
}

// f(i, n) for a vector at a time, n of it: n < lanes only at the end.
template <class F> inline void each(int64_t count, F && f) {
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) f(i, lanes);
    if (i < count) f(i, int(count - i));
}
inline floats load_n(const float * p, int n) { return n == lanes ? load(p) : load(p, n); }
inline void   store_n(float * p, floats v, int n) { n == lanes ? store(p, v) : store(p, v, n); }

// e^x for x <= 88; 0 below -87.3, NaN for NaN. Relative error 1e-7.
inline floats exp(floats x) {
    const floats n = (x * 1.44269504f + rounding) - rounding;
    const floats r = (x - n * 0.693145751953125f) - n * 1.428606765330187e-06f;  // ln 2 in two parts
    floats p = all(1.0f / 5040);  // Taylor's series; |r| <= ln 2 / 2
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const ints power = (whole(n) + 127) << 23;
    return x < -87.3f ? all(0.0f) : p * (floats) power;
}

// 1 / x for x of magnitude 1e-37 to 1e37, relative error 1e-7: Newton's steps from a guess on the bits, a third of a division's time.
inline floats reciprocal(floats x) {
    floats y = (floats) (0x7ef311c7 - (ints) x);
    y = y * (2.0f - x * y);
    y = y * (2.0f - x * y);
    return y * (2.0f - x * y);
}

// Rounded to bf16, to the nearest, ties to even.
inline void store_bf16(uint16_t * to, floats v, int n) {
    const ints bits = (ints) v, rounded = bits + 0x7fff + ((bits >> 16) & 1);
    const ints safe = v == v ? rounded : bits | 0x400000;
    const shorts s = __builtin_convertvector((safe >> 16) & 0xffff, shorts);
    std::memcpy(to, &s, size_t(n) * sizeof(uint16_t));
}

// Error function, absolute error 3e-7: x P(x^2) / Q(x^2), fitted for this project by weighted least squares over |x| <= 3.92,
// where erf rounds to 1.
inline floats erf(floats x) {
    const float limit = 3.92f;
    x = x > limit ? all(limit) : x < -limit ? all(-limit) : x;
    const floats t = x * x;
    floats p = all(1.9921348126672456e-08f);
    p = p * t + -1.994091689994093e-06f;
    p = p * t + 0.0001489470450906083f;
    p = p * t + 0.003971391823142767f;
    p = p * t + 0.051392730325460434f;
    p = p * t + 0.20608001947402954f;
    p = p * t + 1.1283787488937378f;
    floats q = all(0.0010237464448437095f);
    q = q * t + 0.014886257238686085f;
    q = q * t + 0.11755038052797318f;
    q = q * t + 0.5159624218940735f;
    q = q * t + 1.0f;
    return x * p * reciprocal(q);
}

inline floats gelu(floats x) { return 0.5f * x * (1.0f + erf(x * 0.70710678f)); }

} // namespace ub::onednn
