// attention.cpp: multi-head attention over projected tokens, shared by the trunk, the mask decoder and the memory.

#include "sam2/parts.h"

#include <cmath>

namespace ub {

ggml_tensor * multi_head(graph & g, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, int heads) {
    const float scale = 1.0f / std::sqrt(float(q->ne[0] / heads));
    return attention(g, split_heads(g, q, heads), split_heads(g, k, heads), split_heads(g, v, heads), scale);
}

} // namespace ub
