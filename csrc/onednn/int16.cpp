// int16.cpp: products of s16 rows by s8 weights, for processors with AVX2 that have no dot products of 8 bits, and by s16, for attention.
//
// Without dot products of 8 bits a product of u8 by s8 saturates in 16 bits. vpmaddwd multiplies s16 by s16 and adds pairs in s32, exactly, at
// more than one and a half times the rate of f32; with VNNI vpdpwssd adds to the sum, too. Weights stay s8 in memory and are widened a panel
// at a time, into the L1 cache.
//
// Packed: panels of 16 output channels, the last padded with zeros; in a panel [k / 2][channel][2], so that a pair of input
// channels is 32 bytes, of s16 64.

#include "onednn/kernels.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <utility>

#if defined(__AVX2__)
#  include <immintrin.h>
#endif

namespace ub::accel {

namespace {

constexpr int64_t width = int16_panel;
constexpr int64_t depth_at_once = 512;  // input channels: a widened panel of so many fills half the L1 cache

int64_t panels(int64_t n) { return (n + width - 1) / width; }

} // namespace

size_t int16_packed_size(int64_t k, int64_t n) { return size_t(panels(n) * width * k); }

#if defined(__AVX2__)

bool int16_available() { return true; }

bool int16_is_wide() {
#if defined(__AVX512VNNI__)
    return true;
#else
    return false;
#endif
}

namespace {

// Eight rows of eight pairs, turned: row j of the result has pair j of every row.
inline void transpose(const __m128i in[8], __m128i out[8]) {
    __m128i two[8], four[8];
    for (int i = 0; i < 4; ++i) {
        two[i]     = _mm_unpacklo_epi16(in[2 * i], in[2 * i + 1]);
        two[i + 4] = _mm_unpackhi_epi16(in[2 * i], in[2 * i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        four[i]     = _mm_unpacklo_epi32(two[i], two[i + 1]);
        four[i + 1] = _mm_unpackhi_epi32(two[i], two[i + 1]);
        four[i + 2] = _mm_unpacklo_epi32(two[i + 2], two[i + 3]);
        four[i + 3] = _mm_unpackhi_epi32(two[i + 2], two[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        const int k = i / 2 * 4 + i % 2;
        out[2 * i]     = _mm_unpacklo_epi64(four[k], four[k + 2]);
        out[2 * i + 1] = _mm_unpackhi_epi64(four[k], four[k + 2]);
    }
}

// sums += x[0] * y[0] + x[1] * y[1] in s32, a pair a lane. Written out as GCC 12 copies sums from register to register of the intrinsics.
inline void add_products(__m256i & sums, __m256i x, __m256i y) {
#if defined(__AVXVNNI__)
    __asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sums) : "x"(x), "x"(y));
#else
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(x, y));
#endif
}

// Sixteen s8 as s16.
inline __m256i wide(const int8_t * p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))); }
inline __m256i wide(const int16_t * p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)); }

// C[R, 16] (+)= A[R, k] by a panel, of s8 or s16. Twelve sums, two halves of a pair of input channels, a value of A and a
// product are sixteen registers at R = 6.
template <int R, class T> __attribute__((noinline)) void tile(const int16_t * A, int64_t a, const T * panel, int64_t k, int32_t * C, int64_t c, bool accumulate) {
    __m256i sums[R][2];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
        const __m256i * at = reinterpret_cast<const __m256i *>(C + r * c);
        sums[r][0] = accumulate ? _mm256_loadu_si256(at) : _mm256_setzero_si256();
        sums[r][1] = accumulate ? _mm256_loadu_si256(at + 1) : _mm256_setzero_si256();
    }
    for (int64_t i = 0; i < k; i += 2, panel += 2 * width) {
        const __m256i low = wide(panel), high = wide(panel + width);
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            int32_t pair;
            std::memcpy(&pair, A + r * a + i, sizeof(pair));
            const __m256i x = _mm256_set1_epi32(pair);
            add_products(sums[r][0], x, low);
            add_products(sums[r][1], x, high);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
        __m256i * at = reinterpret_cast<__m256i *>(C + r * c);
        _mm256_storeu_si256(at, sums[r][0]);
        _mm256_storeu_si256(at + 1, sums[r][1]);
    }
}

// multiply_tile: C[R, 16 P] = A[R, k] by P panels, `apart` from each other. weighted_tile: C += factors[R] * that, in f32.

#if defined(__AVX512VNNI__)

constexpr int rows_at_once = 12, panels_at_once = 2;

inline void add_products(__m512i & sums, __m512i x, __m512i y) { __asm__("vpdpwssd %2, %1, %0" : "+v"(sums) : "v"(x), "v"(y)); }

// sums[R][P] = A[R, k] by P panels `apart`, whose pair of input channels is one register.
template <int R, int P> inline void products(const int16_t * A, int64_t a, const int16_t * panel, int64_t apart, int64_t k, __m512i sums[R][P]) {
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) for (int p = 0; p < P; ++p) sums[r][p] = _mm512_setzero_si512();
    for (int64_t i = 0; i < k; i += 2, panel += 2 * width) {
        __m512i b[P];
        for (int p = 0; p < P; ++p) b[p] = _mm512_loadu_si512(panel + p * apart);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            int32_t pair;
            std::memcpy(&pair, A + r * a + i, sizeof(pair));
            const __m512i x = _mm512_set1_epi32(pair);
            for (int p = 0; p < P; ++p) add_products(sums[r][p], b[p], x);
        }
    }
}

template <int R, int P>
__attribute__((noinline)) void multiply_tile(const int16_t * A, int64_t a, const int16_t * panel, int64_t apart, int64_t k, int32_t * C, int64_t c) {
    __m512i sums[R][P];
    products<R, P>(A, a, panel, apart, k, sums);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) for (int p = 0; p < P; ++p) _mm512_storeu_si512(C + r * c + p * width, sums[r][p]);
}

template <int R, int P>
__attribute__((noinline)) void weighted_tile(const int16_t * A, int64_t a, const int16_t * panel, int64_t apart, int64_t k, const float * factors, int64_t f,
                                             float * C, int64_t c) {
    __m512i sums[R][P];
    products<R, P>(A, a, panel, apart, k, sums);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) for (int p = 0; p < P; ++p) {
        float * at = C + r * c + p * width;
        onednn::store(at, onednn::load(at) + __builtin_convertvector((onednn::ints) sums[r][p], onednn::floats) * factors[r * f]);
    }
}

#else

constexpr int rows_at_once = 6, panels_at_once = 1;

template <int R, int P> void multiply_tile(const int16_t * A, int64_t a, const int16_t * panel, int64_t, int64_t k, int32_t * C, int64_t c) {
    static_assert(P == 1);
    tile<R>(A, a, panel, k, C, c, false);
}

template <int R, int P>
void weighted_tile(const int16_t * A, int64_t a, const int16_t * panel, int64_t, int64_t k, const float * factors, int64_t f, float * C, int64_t c) {
    static_assert(P == 1);
    alignas(32) int32_t sums[R * width];
    tile<R>(A, a, panel, k, sums, width, false);
    for (int r = 0; r < R; ++r) {
        const __m256 factor = _mm256_set1_ps(factors[r * f]);
        for (int half = 0; half < 2; ++half) {
            float * at = C + r * c + 8 * half;
            const __m256 x = _mm256_cvtepi32_ps(_mm256_load_si256(reinterpret_cast<const __m256i *>(sums + r * width + 8 * half)));
            _mm256_storeu_ps(at, _mm256_add_ps(_mm256_mul_ps(x, factor), _mm256_loadu_ps(at)));
        }
    }
}

#endif

// f(r, n) for groups of n rows from r on, as even as can be, `most` at most.
template <class F> void by_groups(int64_t rows, int64_t most, F && f) {
    for (int64_t r = 0, groups = (rows + most - 1) / most; r < rows; --groups) {
        const int64_t n = (rows - r + groups - 1) / groups;
        f(r, n);
        r += n;
    }
}

template <class T> void rows_by_panel(int64_t rows, const int16_t * A, int64_t a, const T * panel, int64_t k, int32_t * C, int64_t c, bool accumulate) {
    using kernel = void (*)(const int16_t *, int64_t, const T *, int64_t, int32_t *, int64_t, bool);
    constexpr kernel kernels[] = {tile<1, T>, tile<2, T>, tile<3, T>, tile<4, T>, tile<5, T>, tile<6, T>};
    by_groups(rows, std::size(kernels), [&](int64_t r, int64_t n) { kernels[n - 1](A + r * a, a, panel, k, C + r * c, c, accumulate); });
}

} // namespace

void int16_pack(int64_t k, int64_t n, const int8_t * rows, void * packed) {
    int8_t * panel = static_cast<int8_t *>(packed);
    for (int64_t c = 0; c < n; c += width, panel += width * k) {
        for (int64_t i = 0; i < k; i += 16) {
            for (int64_t half = 0; half < 2; ++half) {
                __m128i in[8], out[8];
                for (int64_t r = 0; r < 8; ++r) {
                    const int64_t channel = c + half * 8 + r;
                    in[r] = channel < n ? _mm_loadu_si128(reinterpret_cast<const __m128i *>(rows + channel * k + i)) : _mm_setzero_si128();
                }
                transpose(in, out);
                for (int64_t j = 0; j < 8; ++j) _mm_storeu_si128(reinterpret_cast<__m128i *>(panel + (i + 2 * j) * width + half * 16), out[j]);
            }
        }
    }
}

void int16_multiply(int64_t m, int64_t n, int64_t k, const int16_t * A, int64_t a, const void * packed, int32_t * C, int64_t c) {
    const int8_t * panel = static_cast<const int8_t *>(packed);
    // few rows: widening pays for itself no more
    if (m <= 6) {
        for (int64_t p = 0; p < panels(n); ++p) rows_by_panel(m, A, a, panel + p * width * k, k, C + p * width, c, false);
        return;
    }
    alignas(64) int16_t wider[width * depth_at_once];
    for (int64_t from = 0; from < k; from += depth_at_once) {
        const int64_t depth = std::min(depth_at_once, k - from);
        for (int64_t p = 0; p < panels(n); ++p) {
            const int8_t * part = panel + p * width * k + from * width;
            for (int64_t i = 0; i < width * depth; i += 16) _mm256_store_si256(reinterpret_cast<__m256i *>(wider + i), wide(part + i));
            rows_by_panel(m, A + from, a, wider, depth, C + p * width, c, from > 0);
        }
    }
}

namespace {

// Tiles of P panels and of each number of rows.
template <int P, int... R> constexpr auto multiply_tiles(std::integer_sequence<int, R...>) { return std::array{multiply_tile<R + 1, P>...}; }
template <int P, int... R> constexpr auto weighted_tiles(std::integer_sequence<int, R...>) { return std::array{weighted_tile<R + 1, P>...}; }
using row_counts = std::make_integer_sequence<int, rows_at_once>;

} // namespace

void int16_multiply(int64_t m, int64_t k, const int16_t * A, int64_t a, const int16_t * panel, int64_t apart, int64_t n, int32_t * C, int64_t c) {
    static constexpr auto most = multiply_tiles<panels_at_once>(row_counts{}), one = multiply_tiles<1>(row_counts{});
    for (; n > 0; n -= panels_at_once, panel += panels_at_once * apart, C += panels_at_once * width) {
        const auto & tiles = n >= panels_at_once ? most : one;
        by_groups(m, rows_at_once, [&](int64_t r, int64_t rows) { tiles[size_t(rows - 1)](A + r * a, a, panel, apart, k, C + r * c, c); });
    }
}

void int16_add_weighted(int64_t m, int64_t k, const int16_t * A, int64_t a, const int16_t * panel, int64_t apart, int64_t n, const float * factors, int64_t f,
                        float * C, int64_t c) {
    static constexpr auto most = weighted_tiles<panels_at_once>(row_counts{}), one = weighted_tiles<1>(row_counts{});
    for (; n > 0; n -= panels_at_once, panel += panels_at_once * apart, C += panels_at_once * width) {
        const auto & tiles = n >= panels_at_once ? most : one;
        by_groups(m, rows_at_once, [&](int64_t r, int64_t rows) { tiles[size_t(rows - 1)](A + r * a, a, panel, apart, k, factors + r * f, f, C + r * c, c); });
    }
}

#else

bool int16_available() { return false; }
bool int16_is_wide() { return false; }

namespace {
[[noreturn]] void fail() { throw std::logic_error("products of s16 need AVX2"); }
} // namespace

void int16_pack(int64_t, int64_t, const int8_t *, void *) { fail(); }
void int16_multiply(int64_t, int64_t, int64_t, const int16_t *, int64_t, const void *, int32_t *, int64_t) { fail(); }
void int16_multiply(int64_t, int64_t, const int16_t *, int64_t, const int16_t *, int64_t, int64_t, int32_t *, int64_t) { fail(); }
void int16_add_weighted(int64_t, int64_t, const int16_t *, int64_t, const int16_t *, int64_t, int64_t, const float *, int64_t, float *, int64_t) { fail(); }

#endif

} // namespace ub::accel
