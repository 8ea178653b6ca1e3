"""DDPM++ written plainly in PyTorch, to be timed beside ours: the same layers of the same widths, channels first. Needs PyTorch."""

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
        self.norm, self.qkv, self.out = (
            norm(features),
            nn.Conv2d(features, 3 * features, 1),
            nn.Conv2d(features, features, 1),
        )

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, c, h * w).transpose(2, 3).unbind(1)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return (x + self.out(mixed.transpose(1, 2).reshape(b, c, h, w))) / math.sqrt(2)


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
        self.norm0, self.conv0 = (
            norm(features_in),
            nn.Conv2d(features_in, features_out, 3, padding=1),
        )
        self.cond, self.norm1 = nn.Linear(emb, features_out), norm(features_out)
        self.dropout, self.conv1 = (
            nn.Dropout(dropout),
            nn.Conv2d(features_out, features_out, 3, padding=1),
        )
        project = features_in != features_out or resample != "none"
        self.shortcut = nn.Conv2d(features_in, features_out, 1) if project else nn.Identity()
        self.attention = Attention(features_out) if attend else nn.Identity()

    def change(self, x):
        if self.resample == "down":
            return functional.avg_pool2d(x, 2)
        return (
            functional.interpolate(x, scale_factor=2.0, mode="nearest")
            if self.resample == "up"
            else x
        )

    def forward(self, x, emb):
        h = (
            self.conv0(self.change(functional.silu(self.norm0(x))))
            + self.cond(emb)[:, :, None, None]
        )
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
        self.nf, emb, levels = nf, 4 * nf, len(ch_mult)
        self.dense = nn.Sequential(nn.Linear(nf, emb), nn.SiLU(), nn.Linear(emb, emb), nn.SiLU())
        self.conv_in = nn.Conv2d(channels, nf, 3, padding=1)
        features, kept, down, up = nf, [nf], [], []
        for level in range(levels):
            for _ in range(num_res_blocks):
                down.append(
                    Block(
                        features,
                        nf * ch_mult[level],
                        emb,
                        dropout,
                        attend=size >> level in attn_resolutions,
                    )
                )
                features = nf * ch_mult[level]
                kept.append(features)
            if level < levels - 1:
                down.append(Block(features, features, emb, dropout, "down"))
                kept.append(features)
        self.middle = nn.ModuleList(
            [
                Block(features, features, emb, dropout, attend=True),
                Block(features, features, emb, dropout),
            ]
        )
        for level in reversed(range(levels)):
            for i in range(num_res_blocks + 1):
                attend = size >> level in attn_resolutions and i == num_res_blocks
                up.append(
                    Block(features + kept.pop(), nf * ch_mult[level], emb, dropout, attend=attend)
                )
                features = nf * ch_mult[level]
            if level > 0:
                up.append(Block(features, features, emb, dropout, "up"))
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.norm_out, self.conv_out = norm(features), nn.Conv2d(features, channels, 3, padding=1)

    def forward(self, x, t):
        omega = torch.logspace(0, -4, self.nf // 2, device=t.device)
        angle = t[:, None] * omega[None]
        emb = self.dense(torch.cat([angle.sin(), angle.cos()], 1))
        h = self.conv_in(x)
        kept = [h]
        for block in self.down:
            h = block(h, emb)
            kept.append(h)
        for block in self.middle:
            h = block(h, emb)
        for block in self.up:
            h = block(h if block.resample == "up" else torch.cat([h, kept.pop()], 1), emb)
        return self.conv_out(functional.silu(self.norm_out(h)))
