r"""What a network is told beside x: how noisy x is, and perhaps a class label.

The noise input :math:`c` (one number a sample) is spread over sines and cosines of fixed angular frequencies,

.. math:: e(c) = [\sin(\omega_k c), \cos(\omega_k c)]_k,

followed by Dense, activation, Dense. The frequencies of `SINUSOIDS` are constants computed in the call, so they are no state and no
parameter. Those of `FOURIER` (Tancik et al. 2020, arXiv:2006.10739) were drawn once, :math:`\omega_k = 2 \pi w_k`; published networks store
the :math:`w_k`, so they are kept with the parameters, but no gradient reaches them.
A label adds a learned vector: to the hidden layer, so that label and noise level interact there, or to the embedding behind it, as ADM
and diffusers do. One extra row stands for "no label".
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.core import Tracer

# name -> number of frequencies -> angular frequencies. Sinusoids resolve inputs between 1 / omega_max and 1 / omega_min.
SINUSOIDS: dict[str, Callable[[int], np.ndarray]] = {
    # c = 999 t or an integer index (Vaswani et al. 2017, arXiv:1706.03762), as in tensor2tensor: the last is 1e-4
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
    """Return [sin, cos] of `c` (batch,) at angular frequencies `omega` (half,): (batch, 2 half)."""
    angle = c[:, None] * omega[None]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)


def sigma_of(c_noise: Array, sigmas: tuple[float, ...] | None) -> Array:
    """Return the sigma that a noise input stands for: itself, or, of a geometric sequence (first, last, number), that of its whole part."""
    if sigmas is None:
        return c_noise
    first, last, number = sigmas
    return first * (last / first) ** (jnp.floor(c_noise) / (number - 1))


class Conditioning(nnx.Module):
    """Map noise input and label to the vector (batch, out_features) that every block sees."""

    def __init__(
        self,
        features: int,
        out_features: int,
        *,
        embedding: str,
        num_classes: int,
        kernel_init,
        rngs: nnx.Rngs,
        activation: Callable[[Array], Array] = nnx.silu,
        fourier_scale: float = 16.0,
        label_into: str = "hidden",
    ):
        if embedding not in EMBEDDINGS:
            raise ValueError(
                f"unknown embedding {embedding!r}; choose one of {', '.join(EMBEDDINGS)}"
            )
        if label_into not in LABEL_INTO:
            raise ValueError(
                f"unknown label_into {label_into!r}; choose one of {', '.join(LABEL_INTO)}"
            )
        if features < 4 or features % 2:
            raise ValueError(
                f"need an even number >= 4 of sinusoids to embed the noise level, got {features}"
            )
        if num_classes < 0:
            raise ValueError(f"need num_classes >= 0 (0 = no labels), got {num_classes}")
        self.embedding, self.num_classes, self.label_into = embedding, num_classes, label_into
        self.activation, self.half = activation, features // 2
        drawn = embedding in FOURIER  # `features` frequencies, for twice as many sinusoids
        self.frequencies = (
            nnx.Param(fourier_scale * jax.random.normal(rngs.params(), (features,)))
            if drawn
            else None
        )
        features *= 1 + drawn
        self.dense0 = nnx.Linear(features, out_features, kernel_init=kernel_init, rngs=rngs)
        self.dense1 = nnx.Linear(out_features, out_features, kernel_init=kernel_init, rngs=rngs)
        self.label = nnx.Embed(num_classes + 1, out_features, rngs=rngs) if num_classes else None

    def __call__(self, c_noise: Array, cond: Array | None) -> Array:
        hidden = self.dense0(self.spread(c_noise))
        if self.label is None:
            return self.dense1(self.activation(hidden))
        no_label = jnp.full(c_noise.shape, self.num_classes)
        # out of range, negative included, becomes NaN: a loud answer where a traced value cannot raise
        label = self.label(
            no_label if cond is None else jnp.where(cond < 0, self.num_classes + 1, cond)
        )
        if self.label_into == "hidden":
            return self.dense1(self.activation(hidden + label))
        return self.dense1(self.activation(hidden)) + label

    def spread(self, c: Array) -> Array:
        """Return the sinusoids of the noise input (batch,)."""
        if self.frequencies is None:
            return waves(c, SINUSOIDS[self.embedding](self.half).astype(np.float32))
        omega = 2 * np.pi * jax.lax.stop_gradient(self.frequencies[...])
        return waves(FOURIER[self.embedding](c), omega)


def with_no_label(params):
    """Return parameters in which "no label" is the mean of the labels where it was NaN, so that it can be trained.

    NaN it is in a converted network that was never told of it: a loud answer to a missing label.
    """

    def one(path, p):
        if [getattr(key, "key", None) for key in path[-2:]] != ["label", "embedding"]:
            return p
        return p.at[-1].set(jnp.where(jnp.isnan(p[-1]), p[:-1].mean(0), p[-1]))

    return jax.tree_util.tree_map_with_path(one, params)


def check_inputs(
    x: Array, c_noise: Array, cond: Array | None, shape: tuple[int, ...], num_classes: int
) -> None:
    """Raise ValueError unless x is (batch, *shape), c_noise (batch,) and cond None or integer labels (batch,) in 0..num_classes."""
    if x.shape[1:] != shape or x.ndim != len(shape) + 1:
        raise ValueError(
            f"x has shape {x.shape}, but this network was built for (batch, *{shape}); rebuild it with shape={x.shape[1:]}"
        )
    if jnp.shape(c_noise) != x.shape[:1]:
        raise ValueError(
            f"c_noise has shape {jnp.shape(c_noise)}, expected {x.shape[:1]}: one noise level per sample"
        )
    if cond is None:
        return
    if not num_classes:
        raise ValueError(
            "labels were given to a network without classes; build it with num_classes > 0, or pass cond=None"
        )
    if jnp.shape(cond) != x.shape[:1] or not jnp.issubdtype(jnp.result_type(cond), jnp.integer):
        raise ValueError(
            f"cond is {jnp.result_type(cond)}{jnp.shape(cond)}, expected integer labels of shape {x.shape[:1]}"
        )
    if (
        not isinstance(cond, Tracer)
        and not ((0 <= (labels := np.asarray(cond))) & (labels <= num_classes)).all()
    ):
        raise ValueError(
            f"labels range over {labels.min()}..{labels.max()}, expected 0..{num_classes} ({num_classes} = no label)"
        )
