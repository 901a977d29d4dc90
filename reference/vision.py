"""The vision tower: InternViT on square tiles, then pixel shuffle. `mlp1` of the model projects its output."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .attention import attention


@dataclass
class VisionConfig:
    """Keys of vision_config in config.json. The defaults are those of the 1B model."""

    image_size: int = 448
    patch_size: int = 14
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True

    @property
    def grid(self):
        """Patches along one side."""
        return self.image_size // self.patch_size


class Embeddings(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, c.hidden_size))
        self.patch_embedding = nn.Conv2d(3, c.hidden_size, c.patch_size, c.patch_size)
        self.position_embedding = nn.Parameter(torch.zeros(1, 1 + c.grid**2, c.hidden_size))

    def forward(self, x):
        """[T, 3, S, S] to [T, 1+N, C]; the class token comes first."""
        x = self.patch_embedding(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
        return x + self.position_embedding.to(x.dtype)


class SelfAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads = c.num_attention_heads
        self.qkv = nn.Linear(c.hidden_size, 3 * c.hidden_size, bias=c.qkv_bias)
        self.proj = nn.Linear(c.hidden_size, c.hidden_size)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        return self.proj(attention(q, k, v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.fc1 = nn.Linear(c.hidden_size, c.intermediate_size)
        self.fc2 = nn.Linear(c.intermediate_size, c.hidden_size)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Layer(nn.Module):
    """Pre-norm block with a learned scale on both branches."""

    def __init__(self, c):
        super().__init__()
        self.norm1 = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        self.attn = SelfAttention(c)
        self.ls1 = nn.Parameter(torch.full((c.hidden_size,), 0.1))
        self.norm2 = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        self.mlp = FeedForward(c)
        self.ls2 = nn.Parameter(torch.full((c.hidden_size,), 0.1))

    def forward(self, x):
        x = x + self.ls1.to(x.dtype) * self.attn(self.norm1(x))
        return x + self.ls2.to(x.dtype) * self.mlp(self.norm2(x))


class Encoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class VisionTower(nn.Module):
    """Tiles [T, 3, S, S] to [T, 1+N, C]. There is no final norm."""

    def __init__(self, c):
        super().__init__()
        self.embeddings, self.encoder = Embeddings(c), Encoder(c)

    def forward(self, x):
        return self.encoder(self.embeddings(x))


def pixel_shuffle(x, version="v2"):
    """[T, 1+N, C] without its class token to [T, N/4, 4C]: each token holds a 2x2 group of patches.

    v2 emits the groups row by row, v1 column by column.
    """
    t, n, c = x[:, 1:].shape
    side = int(n**0.5)
    x = x[:, 1:].reshape(t, side // 2, 2, side // 2, 2, c).permute(0, 1, 3, 2, 4, 5)
    if version == "v1":
        x = x.transpose(1, 2)
    return x.reshape(t, n // 4, 4 * c)
