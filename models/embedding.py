r"""What a network is told beside x: how noisy x is, and perhaps a class label.

The noise input :math:`c` (one number a sample) is spread over sines and cosines of fixed angular frequencies,

.. math:: e(c) = [\sin(\omega_k c), \cos(\omega_k c)]_k, \qquad \omega_k = \omega_{\max} (\omega_{\min} / \omega_{\max})^{k / (K - 1)},

followed by Dense, SiLU, Dense. The frequencies are constants computed in the call, so they are no state and no parameter.
A label adds a learned vector before the SiLU, so that label and noise level interact; one extra row stands for "no label".
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.core import Tracer

# name -> (omega_max, omega_min). Sinusoids resolve inputs between 1 / omega_max and 1 / omega_min.
EMBEDDINGS = {
    "positional": (1.0, 1e-4),  # c = 999 t or an integer index (Vaswani et al. 2017, arXiv:1706.03762)
    "log_noise": (8 * np.pi, np.pi / 8),  # c = log(sigma) / 4 in about [-2.5, 1.5]: from one e-fold of sigma to the whole range
}


def sinusoids(c: Array, features: int, omega_max: float, omega_min: float) -> Array:
    """Return [sin, cos] of `c` (batch,) at features / 2 geometrically spaced angular frequencies: (batch, features)."""
    omega = np.geomspace(omega_max, omega_min, features // 2).astype(np.float32)
    angle = c[:, None] * omega[None]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)


class Conditioning(nnx.Module):
    """Map noise input and label to the vector (batch, out_features) that every block sees."""

    def __init__(self, features: int, out_features: int, *, embedding: str, num_classes: int, kernel_init, rngs: nnx.Rngs):
        if embedding not in EMBEDDINGS:
            raise ValueError(f"unknown embedding {embedding!r}; choose one of {', '.join(EMBEDDINGS)}")
        if features < 4 or features % 2:
            raise ValueError(f"need an even number >= 4 of sinusoids to embed the noise level, got {features}")
        if num_classes < 0:
            raise ValueError(f"need num_classes >= 0 (0 = no labels), got {num_classes}")
        self.features, self.embedding, self.num_classes = features, embedding, num_classes
        self.dense0 = nnx.Linear(features, out_features, kernel_init=kernel_init, rngs=rngs)
        self.dense1 = nnx.Linear(out_features, out_features, kernel_init=kernel_init, rngs=rngs)
        self.label = nnx.Embed(num_classes + 1, out_features, rngs=rngs) if num_classes else None

    def __call__(self, c_noise: Array, cond: Array | None) -> Array:
        h = self.dense0(sinusoids(c_noise, self.features, *EMBEDDINGS[self.embedding]))
        if self.label is not None:
            no_label = jnp.full(c_noise.shape, self.num_classes)
            # out of range, negative included, becomes NaN: a loud answer where a traced value cannot raise
            label = no_label if cond is None else jnp.where(cond < 0, self.num_classes + 1, cond)
            h = h + self.label(label)
        return self.dense1(nnx.silu(h))


def check_inputs(x: Array, c_noise: Array, cond: Array | None, shape: tuple[int, ...], num_classes: int) -> None:
    """Raise ValueError unless x is (batch, *shape), c_noise (batch,) and cond None or integer labels (batch,) in 0..num_classes."""
    if x.shape[1:] != shape or x.ndim != len(shape) + 1:
        raise ValueError(f"x has shape {x.shape}, but this network was built for (batch, *{shape}); rebuild it with shape={x.shape[1:]}")
    if jnp.shape(c_noise) != x.shape[:1]:
        raise ValueError(f"c_noise has shape {jnp.shape(c_noise)}, expected {x.shape[:1]}: one noise level per sample")
    if cond is None:
        return
    if not num_classes:
        raise ValueError("labels were given to a network without classes; build it with num_classes > 0, or pass cond=None")
    if jnp.shape(cond) != x.shape[:1] or not jnp.issubdtype(jnp.result_type(cond), jnp.integer):
        raise ValueError(f"cond is {jnp.result_type(cond)}{jnp.shape(cond)}, expected integer labels of shape {x.shape[:1]}")
    if not isinstance(cond, Tracer) and not ((0 <= (labels := np.asarray(cond))) & (labels <= num_classes)).all():
        raise ValueError(f"labels range over {labels.min()}..{labels.max()}, expected 0..{num_classes} ({num_classes} = no label)")
