// cpu_attention.h: attention on the CPU as one operator of a ggml graph.

#pragma once

#include "ggml.h"

#include <cstdint>

namespace ub {

// The largest head that fits the operator's buffers.
constexpr int64_t cpu_attention_head = 256;

// softmax(q k^T / sqrt(C)) v in f32 for q {C*heads, Nq, B}, k and v {C*heads, Nk, B} -> {C*heads, Nq, B}, heads side by side.
// Rows may be strided. Runs on the CPU backend only. Threads share out (item, head, rows of q), so there is one barrier, and
// scores live in a cache-sized buffer only; ggml's own products would take two barriers a head and item and store all scores.
ggml_tensor * cpu_attention(ggml_context * ctx, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, int heads);

// Floating-point operations of a graph's attention of this kind, which no operator of ggml's stands for.
uint64_t cpu_attention_flop(ggml_cgraph * gf);

} // namespace ub
