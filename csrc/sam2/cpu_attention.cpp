// cpu_attention.cpp: see cpu_attention.h. The kernel is compiled for each instruction set and chosen at run time, so that a build
// for any machine is fast on all.

#include "sam2/cpu_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace ub {

namespace {

// Sizes of the buffers, on the stack of each thread: 256 KiB in all.
constexpr int64_t rows_floats = 16384, block_floats = 8192, score_floats = 16384;
constexpr int max_rows = 256, max_keys = 64;

struct buffers {
    float q[rows_floats], out[rows_floats];    // [rows, C], [rows, C padded]
    float k[block_floats], v[block_floats];    // [C, keys], [keys, C padded]
    float scores[score_floats];                // [rows, keys]
    float top[max_rows], sum[max_rows];
};

int up(int64_t n, int to) { return int((n + to - 1) / to * to); }

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // no vector is passed between functions compiled apart
#endif

#define UB_KERNEL plain
#define UB_LANES 4
#define UB_VECTORS 2
#define UB_ROWS 4
#include "sam2/cpu_attention_kernel.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define UB_X86 1

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define UB_KERNEL avx2
#define UB_LANES 8
#define UB_VECTORS 2
#define UB_ROWS 6
#include "sam2/cpu_attention_kernel.h"
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,fma")
#endif
#define UB_KERNEL avx512
#define UB_LANES 16
#define UB_VECTORS 4
#define UB_ROWS 6
#include "sam2/cpu_attention_kernel.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

// The widest kernel that this machine runs.
ggml_custom_op_t best() {
#if defined(UB_X86)
    if (__builtin_cpu_supports("avx512f")) return avx512::compute;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::compute;
#endif
    return plain::compute;
}

} // namespace

ggml_tensor * cpu_attention(ggml_context * ctx, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, int heads) {
    GGML_ASSERT(q->ne[0] % heads == 0 && q->ne[0] / heads <= cpu_attention_head && k->ne[0] == q->ne[0] && v->ne[0] == q->ne[0]);
    GGML_ASSERT(k->ne[1] == v->ne[1] && k->ne[2] == q->ne[2] && v->ne[2] == q->ne[2]);
    ggml_tensor * args[3] = {q, k, v};
    return ggml_custom_4d(ctx, GGML_TYPE_F32, q->ne[0], q->ne[1], q->ne[2], 1, args, 3, best(), GGML_N_TASKS_MAX,
                          reinterpret_cast<void *>(intptr_t(heads)));
}

uint64_t cpu_attention_flop(ggml_cgraph * gf) {
    uint64_t total = 0;
    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        const ggml_tensor * t = ggml_graph_node(gf, i);
        if (t->op == GGML_OP_CUSTOM) total += 4 * uint64_t(ggml_nelements(t)) * uint64_t(t->src[1]->ne[1]);  // {C*heads, Nq, B} by Nk
    }
    return total;
}

} // namespace ub
