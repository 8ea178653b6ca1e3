"""Classifiers of noisy data: `net(x, c_noise, cond=None, *, rngs=None)` returns logits.

Here x is ``(batch, *shape)``, the noise input `c_noise` is ``(batch,)``, and the logits are
``(batch, num_classes)``. An image goes down the first half of a U-Net (arXiv:2105.05233, section 4)
and is pooled; a vector goes through the blocks of `MLP`.
"""

from collections.abc import Sequence

from flax import nnx
from jax import Array

from .embedding import Conditioning, check_state
from .layers import BRANCH_END, ResBlock, Style, kernel_init
from .mlp import MLPBlock, features_in, with_waves
from .settings import check_at_least, check_dropout, check_image_shape, check_widths


class ImageClassifier(nnx.Module):
    """The way down of a U-Net for images of `shape` (height, width, channels), and a mean over pixels.

    Height and width must be divisible by 2^(len(ch_mult) - 1).

    Args:
        shape: (height, width, channels) of an image.
        num_classes: number of classes, 2 or more.
        nf: channels of the first level; the embedding of the noise input has 4 * nf features.
        ch_mult: channels of each level, from the finest to the coarsest, as multiples of `nf`.
        num_res_blocks: residual blocks of a level.
        dropout: fraction of the features that training drops in each block.
        embedding: how the noise input is embedded, a name of `EMBEDDINGS`.
        rngs: the random keys of the parameters.

    Raises:
        ValueError: a setting is out of range, or does not fit the shape.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        num_classes: int,
        nf: int = 32,
        ch_mult: Sequence[float] = (1, 2),
        num_res_blocks: int = 1,
        dropout: float = 0.0,
        embedding: str = "log_noise",
        rngs: nnx.Rngs,
    ):
        check_image_shape(tuple(shape), len(ch_mult))
        check_widths(nf, ch_mult)
        check_at_least(1, num_res_blocks=num_res_blocks)
        check_at_least(2, num_classes=num_classes)
        check_dropout(dropout)
        self.shape = tuple(shape)
        self.conditioning = _noise_embedding(nf, 4 * nf, embedding, rngs)
        self.style = Style(dropout=dropout)
        self.conv_in = self.style.conv(shape[-1], nf, 3, rngs)
        blocks = []
        features = nf
        for level, multiple in enumerate(ch_mult):
            if level > 0:
                block = ResBlock(features, features, 4 * nf, self.style, resample="down", rngs=rngs)
                blocks.append(block)
            width = round(nf * multiple)
            for _ in range(num_res_blocks):
                blocks.append(ResBlock(features, width, 4 * nf, self.style, rngs=rngs))
                features = width
        self.blocks = nnx.List(blocks)
        self.norm_out = self.style.norm(features)
        self.dense_out = nnx.Linear(features, num_classes, kernel_init=BRANCH_END, rngs=rngs)

    def __call__(
        self, x: Array, c_noise: Array, cond: None = None, *, rngs: nnx.Rngs | None = None
    ) -> Array:
        """Return the logits (batch, num_classes) of noisy images (batch, height, width, channels).

        Args:
            x: noisy images.
            c_noise: noise inputs (batch,).
            cond: None.
            rngs: with a key of "dropout", for a network in training that has dropout.

        Raises:
            ValueError: an argument has another shape.
        """
        check_state(x, c_noise, self.shape)
        _check_no_condition(cond)
        emb = self.style.act(self.conditioning(c_noise, None))
        h = self.conv_in(x)
        for block in self.blocks:
            h = block(h, emb, rngs)
        return self.dense_out(self.style.act(self.norm_out(h)).mean((1, 2)))


class VectorClassifier(nnx.Module):
    """A residual perceptron for vectors of `shape` (dimensions,).

    Args:
        shape: (dimensions,) of a vector.
        num_classes: number of classes, 2 or more.
        width: features of the state and of the embedding.
        depth: number of blocks.
        dropout: fraction of the inner features of a block that training drops.
        embedding: how the noise input is embedded, a name of `EMBEDDINGS`.
        rngs: the random keys of the parameters.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        num_classes: int,
        width: int = 128,
        depth: int = 2,
        dropout: float = 0.0,
        embedding: str = "log_noise",
        rngs: nnx.Rngs,
    ):
        if len(shape) != 1:
            raise ValueError(
                f"VectorClassifier needs shape (dimensions,), got {tuple(shape)}; "
                "use ImageClassifier for images"
            )
        check_at_least(1, width=width, dimensions=shape[0])
        check_at_least(0, depth=depth)
        check_at_least(2, num_classes=num_classes)
        check_dropout(dropout)
        self.shape = tuple(shape)
        self.conditioning = _noise_embedding(width, width, embedding, rngs)
        size = features_in(shape[0])
        self.dense_in = nnx.Linear(size, width, kernel_init=kernel_init(), rngs=rngs)
        self.blocks = nnx.List([MLPBlock(width, dropout=dropout, rngs=rngs) for _ in range(depth)])
        self.dense_out = nnx.Linear(width, num_classes, kernel_init=BRANCH_END, rngs=rngs)

    def __call__(
        self, x: Array, c_noise: Array, cond: None = None, *, rngs: nnx.Rngs | None = None
    ) -> Array:
        """Return the logits (batch, num_classes) of noisy vectors (batch, dimensions).

        Args:
            x: noisy vectors.
            c_noise: noise inputs (batch,).
            cond: None.
            rngs: with a key of "dropout", for a network in training that has dropout.

        Raises:
            ValueError: an argument has another shape.
        """
        check_state(x, c_noise, self.shape)
        _check_no_condition(cond)
        emb = nnx.silu(self.conditioning(c_noise, None))
        h = self.dense_in(with_waves(x))
        for block in self.blocks:
            h = block(h, emb, rngs)
        return self.dense_out(nnx.silu(h))


def _noise_embedding(
    features: int, out_features: int, embedding: str, rngs: nnx.Rngs
) -> Conditioning:
    """Return the embedding of the noise input."""
    return Conditioning(
        features,
        out_features,
        embedding=embedding,
        num_classes=0,
        kernel_init=kernel_init(),
        rngs=rngs,
    )


def _check_no_condition(cond: object) -> None:
    """Raise a ValueError if a classifier is given a condition."""
    if cond is not None:
        raise ValueError(f"a classifier takes no condition, got a {type(cond).__name__}")
