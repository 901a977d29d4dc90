"""The memory of SAM 2 for volumes: encoding slices with their masks, and attending to them from later slices."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .attention import attention


def sine_positions(dim, h, w, temperature=10000.0):
    """Sine map [dim, h, w]: the first half of the channels is y, the second x, sine and cosine interleaved."""
    half = dim // 2
    scale = temperature ** (2 * (torch.arange(half) // 2) / half)

    def axis(n):
        a = (torch.arange(1, n + 1) / (n + 1e-6) * 2 * math.pi)[:, None] / scale
        return torch.stack([a[:, 0::2].sin(), a[:, 1::2].cos()], dim=2).flatten(1)

    y = axis(h)[:, None].expand(h, w, half)
    x = axis(w)[None].expand(h, w, half)
    return torch.cat([y, x], dim=-1).permute(2, 0, 1)


def rope_table(dim, h, w, theta):
    """Rotation angles [h*w, dim/2] of an axial RoPE: the first half of the pairs turns with x, the second with y."""
    freq = theta ** -(torch.arange(0, dim, 4)[: dim // 4].float() / dim)
    at = torch.arange(h * w)
    return torch.cat([torch.outer((at % w).float(), freq), torch.outer((at // w).float(), freq)], dim=1)


def rotate(x, angles):
    """Turns neighbouring channel pairs of x [..., N, dim] by angles [N, dim/2]."""
    a, b = x[..., 0::2], x[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


class RopeAttention(nn.Module):
    def __init__(self, dim, heads, theta, key_dim=None):
        super().__init__()
        self.heads, self.theta = heads, theta
        self.q_proj, self.out_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.k_proj, self.v_proj = nn.Linear(key_dim or dim, dim), nn.Linear(key_dim or dim, dim)

    def forward(self, q, k, v, side, unrotated=0):
        """q [1, side*side, C]; k and v hold whole maps of that size and `unrotated` tokens without a position at the end."""
        q, k, v = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        angles = rope_table(q.shape[-1], side, side, self.theta)
        q = rotate(q, angles)
        n = k.shape[2] - unrotated
        k = torch.cat([rotate(k[:, :, :n], angles.repeat(n // len(angles), 1)), k[:, :, n:]], dim=2)
        return self.out_proj(attention(q, k, v).transpose(1, 2).flatten(2))


class MemoryAttentionLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, heads, theta = c.d_model, c.memory_attention_num_heads, c.memory_attention_rope_theta
        self.self_attn = RopeAttention(d, heads, theta)
        self.cross_attn_image = RopeAttention(d, heads, theta, key_dim=c.memory_dim)
        self.linear1 = nn.Linear(d, c.memory_attention_mlp_dim)
        self.linear2 = nn.Linear(c.memory_attention_mlp_dim, d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)

    def forward(self, x, memory, memory_pos, side, pointers):
        n = self.norm1(x)
        x = x + self.self_attn(n, n, n, side)
        x = x + self.cross_attn_image(self.norm2(x), memory + memory_pos, memory, side, pointers)
        return x + self.linear2(F.relu(self.linear1(self.norm3(x))))


class MemoryAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.layers = nn.ModuleList(MemoryAttentionLayer(c) for _ in range(c.memory_attention_num_layers))
        self.norm = nn.LayerNorm(c.d_model)

    def forward(self, p2, memory, memory_pos, pointers):
        """p2 [1, D, h, h], memory and its positions [1, n, M] whose last `pointers` rows are object pointers. Replaces F2."""
        _, d, h, w = p2.shape
        x = (p2 + 0.1 * sine_positions(d, h, w)).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x, memory, memory_pos, h, pointers)
        return self.norm(x).transpose(1, 2).reshape(1, d, h, w)


class MaskDownsampler(nn.Module):
    def __init__(self, c, norm):
        super().__init__()
        steps, width = [], 1
        for _ in range(int(math.log2(c.backbone_stride))):
            steps += [nn.Conv2d(width, 4 * width, 3, stride=2, padding=1), norm(4 * width), nn.GELU()]
            width *= 4
        self.encoder = nn.Sequential(*steps, nn.Conv2d(width, c.d_model, 1))

    def forward(self, x):
        return self.encoder(x)


class ConvNextBlock(nn.Module):
    def __init__(self, dim, norm):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = norm(dim)
        self.pwconv1, self.pwconv2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.g_weight = nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, x):
        y = self.norm(self.dwconv(x)).movedim(1, -1)
        y = self.g_weight * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.movedim(-1, 1)


class Fuser(nn.Module):
    def __init__(self, c, norm):
        super().__init__()
        self.layers = nn.ModuleList(ConvNextBlock(c.d_model, norm) for _ in range(c.memory_encoder_fuser_layers))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    def __init__(self, c, norm):
        super().__init__()
        self.scale, self.bias = c.sigmoid_scale_for_mem_enc, c.sigmoid_bias_for_mem_enc
        self.mask_downsampler = MaskDownsampler(c, norm)
        self.pix_feat_proj = nn.Conv2d(c.d_model, c.d_model, 1)
        self.fuser = Fuser(c, norm)
        self.out_proj = nn.Conv2d(c.d_model, c.memory_dim, 1)

    def forward(self, p2, logits):
        """p2 [1, D, h, w] without no_mem_embed, mask logits [1, 1, S, S] at the image size; memory [1, M, h, w]."""
        mask = self.scale * logits.sigmoid() + self.bias
        return self.out_proj(self.fuser(self.pix_feat_proj(p2) + self.mask_downsampler(mask)))
