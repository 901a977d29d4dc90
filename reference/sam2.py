"""SAM 2: Hiera trunk, FPN neck, prompt encoder and mask decoder, steered by one language embedding a target.

Images are channels first [B, 3, S, S]; the trunk works channels last [B, H, W, C], everything after the neck channels first.
Module names are the published tensor names.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from .attention import attention
from .memory import MemoryAttention, MemoryEncoder


@dataclass
class Sam2Config:
    """Sizes of SAM 2 under the names of sam2_config.json. The defaults are those of hiera-L."""

    image_size: int = 1024
    backbone_stride: int = 16
    hiera_embed_dim: int = 144
    hiera_num_heads: int = 2
    hiera_stages: list = field(default_factory=lambda: [2, 6, 36, 4])
    hiera_global_att_blocks: list = field(default_factory=lambda: [23, 33, 43])
    hiera_window_spec: list = field(default_factory=lambda: [8, 4, 16, 8])
    hiera_window_pos_embed_bkg_spatial_size: list = field(default_factory=lambda: [7, 7])
    hiera_q_pool: int = 3
    hiera_q_stride: int = 2
    hiera_dim_mul: int = 2
    hiera_head_mul: int = 2
    hiera_mlp_ratio: int = 4
    fpn_top_down_levels: list = field(default_factory=lambda: [2, 3])
    scalp: int = 1
    d_model: int = 256
    memory_dim: int = 64
    memory_attention_num_layers: int = 4
    memory_attention_num_heads: int = 1
    memory_attention_mlp_dim: int = 2048
    memory_attention_rope_theta: float = 10000.0
    memory_encoder_fuser_layers: int = 2
    num_maskmem: int = 7
    max_obj_ptrs_in_encoder: int = 16
    decoder_depth: int = 2
    decoder_num_heads: int = 8
    decoder_mlp_dim: int = 2048
    decoder_attention_downsample_rate: int = 2
    decoder_num_multimask_outputs: int = 3
    decoder_iou_head_hidden_dim: int = 256
    sigmoid_scale_for_mem_enc: float = 20.0
    sigmoid_bias_for_mem_enc: float = -10.0

    @property
    def map_size(self):
        """Side of the feature map that the mask decoder attends to."""
        return self.image_size // self.backbone_stride


class Mlp(nn.Module):
    """Linear layers with an activation between them."""

    def __init__(self, *dims, activation=F.relu):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(dims, dims[1:]))
        self.activation = activation

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of [B, C, H, W]."""

    def __init__(self, dim, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x):
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps).movedim(-1, 1)


def pointwise(conv, x):
    """A 1x1 convolution of [B, C, H, W] as a matrix product over the channels."""
    return F.linear(x.movedim(1, -1), conv.weight[:, :, 0, 0], conv.bias).movedim(-1, 1)


# Trunk


def max_pool(x):
    """2x2 maximum of [B, H, W, C]."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


class HieraAttention(nn.Module):
    def __init__(self, dim, dim_out, heads, pool):
        super().__init__()
        self.heads, self.pool = heads, pool
        self.qkv = nn.Linear(dim, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x):
        """[B, h, w, C] to [B, h', w', C'], full attention; only Q is pooled."""
        b, h, w, _ = x.shape
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.pool:
            q = max_pool(q)
            h, w = h // 2, w // 2
        q, k, v = (t.reshape(b, -1, self.heads, t.shape[-1] // self.heads).transpose(1, 2) for t in (q, k, v))
        x = attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(b, h, w, -1))


class HieraBlock(nn.Module):
    def __init__(self, dim, dim_out, heads, window, pool, mlp_ratio):
        super().__init__()
        self.window, self.pool = window, pool
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = HieraAttention(dim, dim_out, heads, pool)
        self.norm2 = nn.LayerNorm(dim_out, eps=1e-6)
        self.mlp = Mlp(dim_out, mlp_ratio * dim_out, dim_out, activation=F.gelu)
        if dim != dim_out:
            self.proj = nn.Linear(dim, dim_out)

    def forward(self, x):
        b, h, w, _ = x.shape
        n = self.norm1(x)
        # The shortcut of a pool block takes the normed tensor.
        shortcut = max_pool(self.proj(n)) if self.pool else x
        side = self.window or h
        n = n.reshape(b, h // side, side, w // side, side, -1).transpose(2, 3).reshape(-1, side, side, n.shape[-1])
        n = self.attn(n)
        if self.pool:
            h, w, side = h // 2, w // 2, side // 2
        n = n.reshape(b, h // side, w // side, side, side, -1).transpose(2, 3).reshape(b, h, w, -1)
        x = shortcut + n
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=7, stride=4, padding=3)

    def forward(self, x):
        return self.proj(x).permute(0, 2, 3, 1)


class Hiera(nn.Module):
    """The image trunk. Returns one map a stage, [B, H, W, C], finest first."""

    def __init__(self, c):
        super().__init__()
        dim, heads = c.hiera_embed_dim, c.hiera_num_heads
        self.patch_embed = PatchEmbed(dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, *c.hiera_window_pos_embed_bkg_spatial_size))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, dim, c.hiera_window_spec[0], c.hiera_window_spec[0]))
        self.blocks, self.ends, side = nn.ModuleList(), [], c.image_size // 4
        for stage, depth in enumerate(c.hiera_stages):
            for i in range(depth):
                first = stage > 0 and i == 0
                pool = first and stage <= c.hiera_q_pool
                # The first block of a stage still works on the previous stage's windows.
                window = c.hiera_window_spec[stage - 1 if first else stage]
                if len(self.blocks) in c.hiera_global_att_blocks:
                    if pool:
                        raise ValueError(f"sam2_config.json: block {len(self.blocks)} pools and cannot be global")
                    window = 0
                if window and side % window:
                    raise ValueError(f"sam2_config.json: map of {side} does not divide into windows of {window}")
                dim_out = dim * c.hiera_dim_mul if first else dim
                heads = heads * c.hiera_head_mul if first else heads
                self.blocks.append(HieraBlock(dim, dim_out, heads, window, pool, c.hiera_mlp_ratio))
                dim, side = dim_out, side // 2 if pool else side
            self.ends.append(len(self.blocks) - 1)

    def positions(self, h, w):
        """The position table for an h x w map, [1, h, w, C]: a coarse map enlarged plus a tile repeated."""
        table = F.interpolate(self.pos_embed, size=(h, w), mode="bicubic")
        tile = self.pos_embed_window
        table = table + tile.tile(1, 1, h // tile.shape[2], w // tile.shape[3])
        return table.permute(0, 2, 3, 1)

    def forward(self, x):
        x = self.patch_embed(x)
        x = x + self.positions(x.shape[1], x.shape[2]).to(x.dtype)
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.ends:
                maps.append(x)
        return maps


class NeckLevel(nn.Module):
    def __init__(self, dim, dim_out):
        super().__init__()
        self.conv = nn.Conv2d(dim, dim_out, 1)

    def forward(self, x):
        return pointwise(self.conv, x.permute(0, 3, 1, 2))


class Neck(nn.Module):
    """1x1 convolutions to the width D, with a nearest top-down sum on the listed levels. Returns P0, P1, P2."""

    def __init__(self, c):
        super().__init__()
        dims = [c.hiera_embed_dim * c.hiera_dim_mul**i for i in range(len(c.hiera_stages))]
        self.convs = nn.ModuleList(NeckLevel(d, c.d_model) for d in reversed(dims))
        self.top_down, self.scalp = c.fpn_top_down_levels, c.scalp

    def forward(self, maps):
        out, above = [None] * len(maps), None
        for level in reversed(range(len(maps))):
            p = self.convs[len(maps) - 1 - level](maps[level])
            if level in self.top_down and above is not None:
                p = p + F.interpolate(above, scale_factor=2.0, mode="nearest")
            out[level] = above = p
        return out[: len(out) - self.scalp]


class ImageEncoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.trunk, self.neck = Hiera(c), Neck(c)

    def forward(self, x):
        return self.neck(self.trunk(x))


# Prompt encoder


class PositionalEncoding(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, dim // 2))

    def forward(self, h, w):
        """Random Fourier features of the pixel centres, [D, h, w] f32, every step rounded to bf16 as the reference does."""
        bf16 = lambda t: t.to(torch.bfloat16).float()
        g = bf16(self.positional_encoding_gaussian_matrix.float())
        x = bf16((2 * torch.arange(w) + 1) / w - 1)
        y = bf16((2 * torch.arange(h) + 1) / h - 1)
        p = bf16(x[None, :, None] * g[0] + y[:, None, None] * g[1])
        a = bf16(p * torch.tensor(2 * math.pi, dtype=torch.float32))
        return bf16(torch.cat([a.sin(), a.cos()], dim=-1)).permute(2, 0, 1)


class PromptEncoder(nn.Module):
    """Holds the constant tokens. Points, boxes and mask prompts are never used, their weights travel along."""

    def __init__(self, c):
        super().__init__()
        d = c.d_model
        self.pe_layer = PositionalEncoding(d)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, d) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, d)
        self.no_mask_embed = nn.Embedding(1, d)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, 4, 2, 2), LayerNorm2d(4), nn.GELU(), nn.Conv2d(4, 16, 2, 2), LayerNorm2d(16), nn.GELU(), nn.Conv2d(16, d, 1)
        )

    def forward(self, e, n):
        """Sparse tokens [n, 3, D] for embeddings e [n, D], or [n, 2, D] when e is None."""
        tokens = self.not_a_point_embed.weight.expand(n, 2, -1)
        return tokens if e is None else torch.cat([tokens, e[:, None]], dim=1)


# Mask decoder


class Attention(nn.Module):
    """Multi-head attention whose inner width may be smaller than the outer one."""

    def __init__(self, dim, heads, downsample=1):
        super().__init__()
        inner = dim // downsample
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(dim, inner), nn.Linear(dim, inner), nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q, k, v):
        q, k, v = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return self.out_proj(attention(q, k, v).transpose(1, 2).flatten(2))


class TwoWayBlock(nn.Module):
    def __init__(self, c, first):
        super().__init__()
        d, heads, rate = c.d_model, c.decoder_num_heads, c.decoder_attention_downsample_rate
        self.first = first
        self.self_attn = Attention(d, heads)
        self.norm1 = nn.LayerNorm(d)
        self.cross_attn_token_to_image = Attention(d, heads, rate)
        self.norm2 = nn.LayerNorm(d)
        self.mlp = Mlp(d, c.decoder_mlp_dim, d)
        self.norm3, self.norm4 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.cross_attn_image_to_token = Attention(d, heads, rate)

    def forward(self, q, k, q_pos, k_pos):
        if self.first:  # no position and no residual
            q = self.norm1(self.self_attn(q, q, q))
        else:
            q = self.norm1(q + self.self_attn(q + q_pos, q + q_pos, q))
        q = self.norm2(q + self.cross_attn_token_to_image(q + q_pos, k + k_pos, k))
        q = self.norm3(q + self.mlp(q))
        k = self.norm4(k + self.cross_attn_image_to_token(k + k_pos, q + q_pos, q))
        return q, k


class TwoWayTransformer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(c, i == 0) for i in range(c.decoder_depth))
        self.final_attn_token_to_image = Attention(c.d_model, c.decoder_num_heads, c.decoder_attention_downsample_rate)
        self.norm_final_attn = nn.LayerNorm(c.d_model)

    def forward(self, tokens, image, image_pos):
        """tokens [n, T, D], image [n, N, D], image_pos [1, N, D]; returns both streams."""
        q, k = tokens, image
        for layer in self.layers:
            q, k = layer(q, k, tokens, image_pos)
        q = self.norm_final_attn(q + self.final_attn_token_to_image(q + tokens, k + image_pos, k))
        return q, k


class MaskDecoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, masks = c.d_model, c.decoder_num_multimask_outputs + 1
        self.transformer = TwoWayTransformer(c)
        self.iou_token = nn.Embedding(1, d)
        self.mask_tokens = nn.Embedding(masks, d)
        self.obj_score_token = nn.Embedding(1, d)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(d, d // 4, 2, 2), LayerNorm2d(d // 4), nn.GELU(), nn.ConvTranspose2d(d // 4, d // 8, 2, 2), nn.GELU()
        )
        self.conv_s0 = nn.Conv2d(d, d // 8, 1)
        self.conv_s1 = nn.Conv2d(d, d // 4, 1)
        self.output_hypernetworks_mlps = nn.ModuleList(Mlp(d, d, d, d // 8) for _ in range(masks))
        self.iou_prediction_head = Mlp(d, c.decoder_iou_head_hidden_dim, c.decoder_iou_head_hidden_dim, masks)
        self.pred_obj_score_head = Mlp(d, d, d, 1)

    def read(self, src, f1, f0, image_pos, sparse):
        """src [n, D, h, w] (dense prompt added), f1 at twice and f0 at four times its size, sparse [n, s, D].

        Returns the states of the tokens hs [n, T, D] and the upscaled map [n, D/8, 4h, 4w].
        """
        n, d, h, w = src.shape
        fixed = torch.cat([self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([fixed.expand(n, -1, -1), sparse], dim=1)
        hs, src = self.transformer(tokens, src.flatten(2).transpose(1, 2), image_pos)
        src = src.transpose(1, 2).reshape(n, d, h, w)
        up0, norm, gelu, up1, _ = self.output_upscaling
        u = gelu(norm(up0(src) + f1))
        return hs, gelu(up1(u) + f0)

    def heads(self, hs, u):
        """Mask logits [n, masks, 4h, 4w], IoU [n, masks] in 0..1 and object score [n] (a logit) of what `read` returns."""
        hyper = torch.stack([mlp(hs[:, 2 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1)
        masks = torch.einsum("nmc,nchw->nmhw", hyper, u)
        return masks, self.iou_prediction_head(hs[:, 1]).sigmoid(), self.pred_obj_score_head(hs[:, 0])[:, 0]

    def forward(self, src, f1, f0, image_pos, sparse):
        """What `heads` returns of what `read` takes, and hs."""
        hs, u = self.read(src, f1, f0, image_pos, sparse)
        return *self.heads(hs, u), hs


class Sam2(nn.Module):
    """The grounding part. `encode` once an image, `decode` for each embedding; `select` picks the mask."""

    def __init__(self, c):
        super().__init__()
        self.config = c
        d, m = c.d_model, c.memory_dim
        self.image_encoder = ImageEncoder(c)
        self.sam_prompt_encoder = PromptEncoder(c)
        self.sam_mask_decoder = MaskDecoder(c)
        self.memory_attention = MemoryAttention(c)
        self.memory_encoder = MemoryEncoder(c, LayerNorm2d)
        self.maskmem_tpos_enc = nn.Parameter(torch.zeros(c.num_maskmem, 1, 1, m))
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, d))
        self.no_mem_pos_enc = nn.Parameter(torch.zeros(1, 1, d))
        self.no_obj_ptr = nn.Parameter(torch.zeros(1, d))
        self.mask_downsample = nn.Conv2d(1, 1, 4, 4)
        self.obj_ptr_proj = Mlp(d, d, d, d)

    def encode(self, x):
        """Image [B, 3, S, S] to (F0, F1, P2): features at strides 4, 8 and 16. F2 is P2 plus no_mem_embed."""
        p0, p1, p2 = self.image_encoder(x)
        decoder = self.sam_mask_decoder
        return pointwise(decoder.conv_s0, p0), pointwise(decoder.conv_s1, p1), p2

    def prompted(self, f0, f1, f2, e):
        """Features repeated to one row a target, and e [n, D] (None for a tracked slice), as MaskDecoder.read takes them."""
        n, d, h, w = f2.shape
        prompt = self.sam_prompt_encoder
        dense = prompt.no_mask_embed.weight[:, :, None, None]
        image_pos = prompt.pe_layer(h, w).flatten(1).T[None].to(f2.dtype)
        return f2 + dense, f1, f0, image_pos, prompt(e, n)

    def decode(self, f0, f1, f2, e):
        """See `prompted` and MaskDecoder.heads; also the states of the tokens."""
        return self.sam_mask_decoder(*self.prompted(f0, f1, f2, e))

    def with_no_memory(self, p2):
        return p2 + self.no_mem_embed.reshape(1, -1, 1, 1)

    def select(self, masks, iou):
        """The mask of best predicted IoU among 1..3: ([n, h, w], index [n]). Mask 0 is never used."""
        k = 1 + iou[:, 1:].argmax(dim=1)
        return masks[torch.arange(len(k)), k], k


def resize_mask(logits, size, image_size):
    """Low-res logits [n, h, w] to booleans [n, *size]: bilinear to the SAM 2 image size, then to (height, width)."""
    x = logits.float()[:, None]
    x = F.interpolate(x, size=(image_size, image_size), mode="bilinear", align_corners=False)
    x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return (x.sigmoid() > 0.5)[:, 0]
