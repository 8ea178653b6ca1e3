r"""How the noise input, and perhaps a label, a context or an augmentation, enter a network.

The noise input :math:`c`, one number a sample, becomes sines and cosines of fixed angular
frequencies,

.. math:: e(c) = [\sin(\omega_k c), \cos(\omega_k c)]_k,

followed by Dense, activation, Dense. The frequencies of `SINUSOIDS` are constants computed in the
call, so they are no state and no parameter. Those of `FOURIER` (Tancik et al. 2020,
arXiv:2006.10739) were drawn once, :math:`\omega_k = 2 \pi w_k`. Published networks store the
:math:`w_k`, so they are kept with the parameters, but no gradient reaches them.

A label adds a learned vector: to the hidden layer, so that label and noise level interact there, or
to the embedding behind it, as in ADM and diffusers. One extra row stands for "no label". The
embedding of a context (`models.context`) is added in the same place, and so is a linear map without
bias of the numbers that describe an augmentation (Karras et al. 2022, arXiv:2206.00364, appendix
F.2): it adds nothing for zeros.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from .conditions import check_labels
from .context import ContextEmbedding
from .settings import check_choice, check_classes

# name -> the function (number of frequencies) -> angular frequencies.
# Sinusoids resolve inputs between 1 / omega_max and 1 / omega_min.
SINUSOIDS: dict[str, Callable[[int], np.ndarray]] = {
    # c = 999 t or an integer index (Vaswani et al. 2017, arXiv:1706.03762), as in tensor2tensor:
    # the last is 1e-4
    "positional": lambda half: np.geomspace(1.0, 1e-4, half),
    # the same without its end, as in OpenAI's networks
    "positional_open": lambda half: 1e-4 ** (np.arange(half) / half),
    # c = log(sigma) / 4 in about [-2.5, 1.5]: from one e-fold of sigma to the whole range
    "log_noise": lambda half: np.geomspace(8 * np.pi, np.pi / 8, half),
}
# name -> what is done to c before the random frequencies see it.
FOURIER: dict[str, Callable[[Array], Array]] = {
    "fourier": jnp.log,  # c = sigma: NCSN++
    "fourier_raw": lambda c: c,  # c = log(sigma / 2), say: EDM's version of it
}
EMBEDDINGS = (*SINUSOIDS, *FOURIER)
LABEL_INTO = ("hidden", "embedding")


def waves(c: Array, omega: Array | np.ndarray) -> Array:
    """Return [sin, cos] of the angles omega * c, (batch, 2 * frequencies).

    Args:
        c: (batch,).
        omega: angular frequencies (frequencies,), in radians per unit of c.
    """
    angle = c[:, None] * omega[None]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)


def sigma_of(c_noise: Array, sigmas: tuple[float, ...] | None) -> Array:
    """Return the sigma that a noise input (batch,) stands for.

    Without `sigmas` it is the noise input itself. With `sigmas` = (first, last, number) it is the
    member of that geometric sequence whose index is the whole part of the noise input.
    """
    if sigmas is None:
        return c_noise
    first, last, number = sigmas
    return first * (last / first) ** (jnp.floor(c_noise) / (number - 1))


class Conditioning(nnx.Module):
    """Map noise input, label, context and augmentation to the vector that every block sees.

    Args:
        features: number of sinusoids; a Fourier embedding has twice as many.
        out_features: features of the result.
        embedding: a name of EMBEDDINGS.
        num_classes: number of classes; 0 for a network without labels.
        kernel_init: initialiser of the two linear maps.
        rngs: the random keys of the parameters.
        activation: between the two linear maps.
        fourier_scale: standard deviation of the random frequencies of a Fourier embedding.
        label_into: what label, context and augmentation are added to, a name of LABEL_INTO.
        context: features of a context; 0 for a network without.
        augmentation: numbers that describe an augmentation; 0 for a network without.

    Raises:
        ValueError: an unknown name, or a number that is out of range.
    """

    def __init__(
        self,
        features: int,
        out_features: int,
        *,
        embedding: str,
        num_classes: int,
        kernel_init: Callable,
        rngs: nnx.Rngs,
        activation: Callable[[Array], Array] = nnx.silu,
        fourier_scale: float = 16.0,
        label_into: str = "hidden",
        context: int = 0,
        augmentation: int = 0,
    ):
        check_choice("embedding", embedding, EMBEDDINGS)
        check_choice("label_into", label_into, LABEL_INTO)
        if features < 4 or features % 2:
            raise ValueError(
                f"need an even number >= 4 of sinusoids to embed the noise level, got {features}"
            )
        check_classes(num_classes)
        self.embedding = embedding
        self.num_classes = num_classes
        self.label_into = label_into
        self.activation = activation
        self.half = features // 2
        if embedding in FOURIER:
            drawn = fourier_scale * jax.random.normal(rngs.params(), (features,))
            self.frequencies = nnx.Param(drawn)
            sinusoids = 2 * features
        else:
            self.frequencies = None
            sinusoids = features
        linear = partial(nnx.Linear, kernel_init=kernel_init, rngs=rngs)
        self.dense0 = linear(sinusoids, out_features)
        self.dense1 = linear(out_features, out_features)
        self.label = nnx.Embed(num_classes + 1, out_features, rngs=rngs) if num_classes else None
        embed_context = partial(
            ContextEmbedding, kernel_init=kernel_init, activation=activation, rngs=rngs
        )
        self.context = embed_context(context, out_features) if context else None
        unbiased = partial(linear, use_bias=False)
        self.augmentation = unbiased(augmentation, out_features) if augmentation else None

    def __call__(
        self,
        c_noise: Array,
        label: Array | None,
        context: Array | None = None,
        augmentation: Array | None = None,
    ) -> Array:
        """Return the embedding (batch, out_features).

        A label out of range gives NaN, which is loud where a traced value cannot raise.

        Args:
            c_noise: noise inputs (batch,).
            label: labels (batch,) in 0..num_classes, or None for "no label".
            context: (batch, features) or (batch, members, features), see `ContextEmbedding`.
            augmentation: (batch, numbers); None is the same as zeros.
        """
        hidden = self.dense0(self.sinusoids(c_noise))
        conditions = []
        if self.label is not None:
            conditions.append(self.label(self._row(c_noise, label)))
        if self.context is not None:
            conditions.append(self.context(context, len(c_noise)))
        if self.augmentation is not None and augmentation is not None:
            conditions.append(self.augmentation(augmentation))
        if self.label_into == "hidden":
            return self.dense1(self.activation(sum(conditions, hidden)))
        return sum(conditions, self.dense1(self.activation(hidden)))

    def sinusoids(self, c: Array) -> Array:
        """Return sines and cosines of the noise input (batch,), (batch, their number)."""
        if self.frequencies is None:
            return waves(c, SINUSOIDS[self.embedding](self.half).astype(np.float32))
        omega = 2 * np.pi * jax.lax.stop_gradient(self.frequencies[...])
        return waves(FOURIER[self.embedding](c), omega)

    def _row(self, c_noise: Array, label: Array | None) -> Array:
        """Return the row of the label's vector, behind the last row for a negative label."""
        no_label = jnp.full(c_noise.shape, self.num_classes)
        if label is None:
            return no_label
        return jnp.where(label < 0, self.num_classes + 1, label)


def with_no_label(params: Any) -> Any:
    """Return parameters in which "no label" is the mean of the labels where it was NaN.

    It is NaN in a converted network that never knew "no label", so that a missing label gives NaN.
    With the mean it can be trained.
    """

    def one(path, p):
        names = [getattr(key, "key", None) for key in path[-2:]]
        if names != ["label", "embedding"]:
            return p
        labels, no_label = p[:-1], p[-1]
        return p.at[-1].set(jnp.where(jnp.isnan(no_label), labels.mean(0), no_label))

    return jax.tree_util.tree_map_with_path(one, params)


def check_inputs(
    x: Array, c_noise: Array, cond: Array | None, shape: tuple[int, ...], num_classes: int
) -> None:
    """Raise a ValueError unless the arguments of a call fit a network that takes labels only.

    Args:
        x: data, expected (batch, *shape).
        c_noise: noise inputs, expected (batch,).
        cond: None, or labels, expected whole numbers (batch,) in 0..num_classes.
        shape: of one example.
        num_classes: number of classes; 0 if the network takes no labels.
    """
    check_state(x, c_noise, shape)
    if cond is not None:
        check_labels(cond, x.shape[:1], num_classes)


def check_state(x: Array, c_noise: Array, shape: tuple[int, ...]) -> None:
    """Raise a ValueError unless data and noise inputs fit a network; see `check_inputs`."""
    if x.shape[1:] != shape or x.ndim != len(shape) + 1:
        raise ValueError(
            f"x has shape {x.shape}, but this network was built for (batch, *{shape}); "
            f"rebuild it with shape={x.shape[1:]}"
        )
    if jnp.shape(c_noise) != x.shape[:1]:
        raise ValueError(
            f"c_noise has shape {jnp.shape(c_noise)}, expected {x.shape[:1]}: "
            "one noise level per sample"
        )
