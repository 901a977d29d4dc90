// prompt.cpp: from the language model's state at [SEG] to the prompt tokens of the mask decoder.
//
// Reference: text_hidden_fcs of the model, sam2/modeling/sam/prompt_encoder.py. No point, box or mask is ever given: the
// reference pads one point that is none, its prompt encoder another, and the language embedding comes last.

#include "sam2/parts.h"

namespace ub {

prompt_weights load_prompt(weights & w, const sam2_hparams & h) {
    prompt_weights p;
    p.fc_0        = w.linear_f32("text_hidden_fcs.0", h.input, h.input);
    p.fc_2        = w.linear_f32("text_hidden_fcs.2", h.input, h.width);
    p.not_a_point = w.f32("prompt.not_a_point", {h.width});
    p.no_mask     = w.f32("prompt.no_mask", {h.width});
    p.no_mem      = w.f32("no_mem_embed", {h.width});
    return p;
}

ggml_tensor * text_hidden_fcs(const graph & g, const prompt_weights & w, ggml_tensor * hidden) {
    return linear(g, w.fc_2, relu(g, linear(g, w.fc_0, hidden)));
}

ggml_tensor * sparse_tokens(const graph & g, const prompt_weights & w, ggml_tensor * embedding) {
    const int64_t D = w.not_a_point->ne[0], n = embedding != nullptr ? embedding->ne[1] : 1;
    ggml_tensor * points = ggml_repeat_4d(g.ctx, w.not_a_point, D, 2, n, 1);                       // {D, 2, n}
    if (embedding == nullptr) return points;
    return ggml_concat(g.ctx, points, ggml_reshape_3d(g.ctx, embedding, D, 1, n), 1);              // {D, 3, n}
}

} // namespace ub
