// neck.cpp: the feature pyramid over the trunk's four maps, and the decoder's own reduction of the two finest.
//
// Reference: sam2/modeling/backbones/image_encoder.py (FpnNeck), sam2_base.py (forward_image).

#include "sam2/parts.h"

namespace ub {

neck_weights load_neck(weights & w, const sam2_hparams & h) {
    neck_weights k;
    w.may_pack("neck.");
    for (int i = 0; i < 4; ++i) k.convs.push_back(w.linear("neck." + std::to_string(i), h.stages[size_t(3 - i)].width, h.width));
    k.conv_s0 = w.linear_f32("decoder.conv_s0", h.width, h.width / 8);
    k.conv_s1 = w.linear_f32("decoder.conv_s1", h.width, h.width / 4);
    return k;
}

ggml_tensor * upsample_nearest(const graph & g, ggml_tensor * x) {
    const int64_t C = x->ne[0], W = x->ne[1], H = x->ne[2];
    x = ggml_repeat_4d(g.ctx, ggml_reshape_3d(g.ctx, x, C, 1, W * H), C, 2, W * H, 1);             // {C, 2, W*H}
    x = ggml_repeat_4d(g.ctx, ggml_reshape_3d(g.ctx, x, C * 2 * W, 1, H), C * 2 * W, 2, H, 1);     // {C*2W, 2, H}
    return ggml_reshape_3d(g.ctx, x, C, 2 * W, 2 * H);
}

} // namespace ub
