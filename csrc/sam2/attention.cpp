// attention.cpp: multi-head attention over projected tokens, shared by the trunk, the mask decoder and the memory.

#include "sam2/cpu_attention.h"
#include "sam2/parts.h"

#include <cmath>

namespace ub {

ggml_tensor * multi_head(graph & g, const linear_weights & out, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, int heads,
                         ggml_tensor * residual, precision products) {
    const int64_t C = q->ne[0] / heads;
    const accel::epilogue after{nullptr, false, nullptr, residual};
    // Where the weights are is where the graph runs. Biases tell: they are mapped even where matrices are packed.
    const bool host = out.bias->buffer != nullptr && ggml_backend_buffer_is_host(out.bias->buffer);
    if (host && !g.accelerated && C <= cpu_attention_head) return linear(g, out, cpu_attention(g.ctx, q, k, v, heads), after);
    const float scale = 1.0f / std::sqrt(float(C));
    return linear(g, out, attention(g, split_heads(g, q, heads), split_heads(g, k, heads), split_heads(g, v, heads), scale, products), after);
}

} // namespace ub
