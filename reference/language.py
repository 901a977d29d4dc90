"""The language model: Qwen2 with grouped-query attention and half-split RoPE."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .attention import attention


@dataclass
class LanguageConfig:
    """Keys of llm_config in config.json. The defaults are those of the 1B model."""

    vocab_size: int = 151679
    hidden_size: int = 896
    intermediate_size: int = 4864
    num_hidden_layers: int = 24
    num_attention_heads: int = 14
    num_key_value_heads: int = 2
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6


class RmsNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        f = x.float()
        f = f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.weight * f).to(x.dtype)


def rope(position, dim, theta):
    """Cosine and sine, each [..., 1, N, dim/2], of RoPE at positions [..., N]."""
    half = dim // 2
    angle = position[..., None, :, None].float() * theta ** -(torch.arange(half) / half)
    return angle.cos(), angle.sin()


def rotate(x, turn):
    """RoPE of [B, heads, N, D]: channel i turns together with channel i + D/2."""
    cos, sin = (t.to(x.dtype) for t in turn)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class SelfAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        dim, head = c.hidden_size, c.hidden_size // c.num_attention_heads
        self.head = head
        self.group = c.num_attention_heads // c.num_key_value_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, c.num_key_value_heads * head)
        self.v_proj = nn.Linear(dim, c.num_key_value_heads * head)
        self.o_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x, turn, mask, cache):
        q, k, v = (p(x).unflatten(-1, (-1, self.head)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, turn), rotate(k, turn)
        if cache is not None:
            if cache:
                k, v = torch.cat([cache[0], k], dim=2), torch.cat([cache[1], v], dim=2)
            cache[:] = [k, v]
        k, v = k.repeat_interleave(self.group, dim=1), v.repeat_interleave(self.group, dim=1)
        return self.o_proj(attention(q, k, v, mask).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = RmsNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = SelfAttention(c)
        self.post_attention_layernorm = RmsNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = FeedForward(c)

    def forward(self, x, turn, mask, cache):
        x = x + self.self_attn(self.input_layernorm(x), turn, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Stack(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))
        self.norm = RmsNorm(c.hidden_size, c.rms_norm_eps)


class LanguageModel(nn.Module):
    """Embeddings in, final states out; `lm_head` turns states into logits."""

    def __init__(self, c):
        super().__init__()
        self.heads, self.theta = c.num_attention_heads, c.rope_theta
        self.model = Stack(c)
        self.lm_head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)

    def forward(self, x, cache=None, start=0, position=None, mask=None):
        """x [B, N, H] at positions start.. to states [B, N, H] after the final norm. Every token sees itself and what is before it.

        cache: a list of one list a layer, empty at the start; it grows by the N keys and values.
        position [B, N] and mask [B, 1, N, N], added to the scores, replace these rules for packed sequences.
        """
        n = x.shape[1]
        if position is None:
            position = torch.arange(start, start + n)
            mask = torch.full((n, start + n), float("-inf"), dtype=x.dtype).triu(start + 1)
        turn = rope(position, x.shape[-1] // self.heads, self.theta)
        for i, layer in enumerate(self.model.layers):
            x = layer(x, turn, mask, None if cache is None else cache[i])
        return self.model.norm(x)

    def new_cache(self):
        return [[] for _ in self.model.layers]
