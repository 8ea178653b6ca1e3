"""DDPM++ written plainly in PyTorch, to be timed beside ours: the same layers of the same widths.

Images come channels first. Needs PyTorch.
"""

import math
from collections.abc import Sequence

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]


def norm(features: int) -> nn.GroupNorm:
    """Return the family's normalisation."""
    return nn.GroupNorm(min(features // 4, 32), features, eps=1e-6)


class Attention(nn.Module):
    """Residual self-attention over all pixels."""

    def __init__(self, features: int):
        super().__init__()
        self.norm = norm(features)
        self.qkv = nn.Conv2d(features, 3 * features, 1)
        self.out = nn.Conv2d(features, features, 1)

    def forward(self, x):
        """Return features shaped as `x` (batch, channels, height, width)."""
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, c, h * w)
        q, k, v = qkv.transpose(2, 3).unbind(1)  # (batch, pixels, features)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        change = self.out(mixed.transpose(1, 2).reshape(b, c, h, w))
        return (x + change) / math.sqrt(2)


class Block(nn.Module):
    """Residual block of BigGAN kind."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        emb: int,
        dropout: float,
        resample: str = "none",
        attend: bool = False,
    ):
        super().__init__()
        self.resample = resample
        self.norm0 = norm(features_in)
        self.conv0 = nn.Conv2d(features_in, features_out, 3, padding=1)
        self.cond = nn.Linear(emb, features_out)
        self.norm1 = norm(features_out)
        self.dropout = nn.Dropout(dropout)
        self.conv1 = nn.Conv2d(features_out, features_out, 3, padding=1)
        project = features_in != features_out or resample != "none"
        self.shortcut = nn.Conv2d(features_in, features_out, 1) if project else nn.Identity()
        self.attention = Attention(features_out) if attend else nn.Identity()

    def change(self, x):
        """Return `x` at the resolution that the block ends in."""
        if self.resample == "down":
            return functional.avg_pool2d(x, 2)
        if self.resample == "up":
            return functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return x

    def forward(self, x, emb):
        """Return the features after the block, for an embedding (batch, features)."""
        h = self.conv0(self.change(functional.silu(self.norm0(x))))
        h = h + self.cond(emb)[:, :, None, None]
        h = self.conv1(self.dropout(functional.silu(self.norm1(h))))
        return self.attention((self.shortcut(self.change(x)) + h) / math.sqrt(2))


class UNet(nn.Module):
    """DDPM++ for square images."""

    def __init__(
        self,
        size: int,
        channels: int,
        nf: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        attn_resolutions: Sequence[int],
        dropout: float,
    ):
        super().__init__()
        emb = 4 * nf
        widths = [nf * multiplier for multiplier in ch_mult]
        self.nf = nf
        self.dense = nn.Sequential(nn.Linear(nf, emb), nn.SiLU(), nn.Linear(emb, emb), nn.SiLU())
        self.conv_in = nn.Conv2d(channels, nf, 3, padding=1)
        features = nf
        skips = [nf]  # features of what goes from the way down to the way up
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            attend = size >> level in attn_resolutions
            for _ in range(num_res_blocks):
                self.down.append(Block(features, width, emb, dropout, attend=attend))
                features = width
                skips.append(features)
            if level < len(widths) - 1:
                self.down.append(Block(features, features, emb, dropout, "down"))
                skips.append(features)
        middle = [Block(features, features, emb, dropout, attend=way) for way in (True, False)]
        self.middle = nn.ModuleList(middle)
        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for i in range(num_res_blocks + 1):
                attend = size >> level in attn_resolutions and i == num_res_blocks
                features_in = features + skips.pop()
                self.up.append(Block(features_in, width, emb, dropout, attend=attend))
                features = width
            if level > 0:
                self.up.append(Block(features, features, emb, dropout, "up"))
        self.norm_out = norm(features)
        self.conv_out = nn.Conv2d(features, channels, 3, padding=1)

    def forward(self, x, t):
        """Return the noise in images `x` (batch, channels, height, width) at times `t` (batch,)."""
        omega = torch.logspace(0, -4, self.nf // 2, device=t.device)
        angle = t[:, None] * omega[None]
        emb = self.dense(torch.cat([angle.sin(), angle.cos()], 1))
        h = self.conv_in(x)
        skips = [h]
        for block in self.down:
            h = block(h, emb)
            skips.append(h)
        for block in self.middle:
            h = block(h, emb)
        for block in self.up:
            if block.resample != "up":
                h = torch.cat([h, skips.pop()], 1)
            h = block(h, emb)
        return self.conv_out(functional.silu(self.norm_out(h)))
