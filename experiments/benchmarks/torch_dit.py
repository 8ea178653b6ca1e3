"""DiT written plainly in PyTorch, to be timed beside ours: the same layers of the same widths.

Needs PyTorch.
"""

import math

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]


class Block(nn.Module):
    """Self-attention and a perceptron, both steered by the embedding."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm0 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.steer = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dense0 = nn.Linear(width, 4 * width)
        self.dense1 = nn.Linear(4 * width, width)

    def forward(self, h, emb):
        """Return tokens (batch, tokens, width), given as `h`, for an embedding (batch, width)."""
        b1, s1, g1, b2, s2, g2 = self.steer(emb)[:, None].chunk(6, -1)
        batch, tokens, width = h.shape
        qkv = self.qkv(self.norm0(h) * (1 + s1) + b1)
        qkv = qkv.reshape(batch, tokens, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (batch, heads, tokens, features)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        h = h + g1 * self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        inner = functional.gelu(self.dense0(self.norm1(h) * (1 + s2) + b2), approximate="tanh")
        return h + g2 * self.dense1(inner)


class DiT(nn.Module):
    """Transformer over squares of `patch` pixels; images come channels first."""

    def __init__(self, size: int, channels: int, patch: int, width: int, depth: int, heads: int):
        super().__init__()
        self.patch = patch
        self.channels = channels
        self.side = size // patch
        self.dense_in = nn.Conv2d(channels, width, patch, stride=patch)
        self.places = nn.Parameter(torch.randn(self.side**2, width) * 0.02, requires_grad=False)
        self.embed = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.norm_out = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.steer = nn.Linear(width, 2 * width)
        self.dense_out = nn.Linear(width, patch * patch * channels)

    def forward(self, x, t):
        """Return the noise in images `x` (batch, channels, height, width) at times `t` (batch,)."""
        omega = torch.exp(-math.log(1e4) * torch.arange(128, device=t.device) / 128)
        angle = t[:, None] * omega[None]
        emb = functional.silu(self.embed(torch.cat([angle.cos(), angle.sin()], 1)))
        h = self.dense_in(x).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            h = block(h, emb)
        shift, scale = self.steer(emb)[:, None].chunk(2, -1)
        h = self.dense_out(self.norm_out(h) * (1 + scale) + shift)
        h = h.reshape(len(x), self.side, self.side, self.patch, self.patch, self.channels)
        return h.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)
