r"""Between grey levels and the numbers that a model sees, and what that does to likelihoods.

Grey levels :math:`k \in \{0, \dots, L-1\}` are dequantised with uniform noise, :math:`y = k + u` with :math:`u \in [0, 1)`, and mapped to
:math:`x = 2y/L - 1 \in [-1, 1)`. Then :math:`k = \lfloor L(x+1)/2 \rfloor`, and as :math:`dy/dx = L/2` in each of the D dimensions

.. math:: -\tfrac1D \log_2 P(k) \le -\tfrac1D\,\mathbb{E}_u \log_2 p(y) = -\frac{\log p(x)}{D \log 2} + \log_2 \frac L2

(Theis et al. 2016, arXiv:1511.01844, section 3.1). Continuous data (L = None) are left as they are.
"""

import math

import numpy as np

# u takes the 4096 values (j + 1/2)/4096: few enough bits that k + u and its image in [-1, 1] keep their grey level in float32, so that
# `unscale` undoes `scale` exactly, and so fine that no density a network represents changes between two of them.
DEQUANTISATION_BITS = 12


def dequantise(k: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return k + u in float32, with u in (0, 1) made of as many random uint16 words."""
    j = (words >> (16 - DEQUANTISATION_BITS)).astype(np.float32)
    return k.astype(np.float32) + (j + np.float32(0.5)) * np.float32(2.0**-DEQUANTISATION_BITS)


def scale(y, levels: int | None):
    """Map dequantised grey levels y in [0, levels) to [-1, 1), in float32; leave continuous data (levels None) as they are."""
    _check_levels(levels)
    y = np.asarray(y, np.float32)
    return y if levels is None else y * np.float32(2 / levels) - np.float32(1)


def unscale(x, levels: int | None):
    """Return the grey levels, clipped to 0..levels-1, that model values x fall into; leave continuous data as they are.

    Raises:
      ValueError: x holds NaN, which no grey level stands for.
    """
    _check_levels(levels)
    x = np.asarray(x, np.float32)
    if levels is None:
        return x
    if np.isnan(x).any():
        raise ValueError(
            f"cannot turn NaN into grey levels: {np.isnan(x).sum()} of {x.size} values are NaN"
        )
    inside = np.clip(x, np.float32(-1), np.float32(1))  # before the product, which might overflow
    k = np.clip(np.floor((inside + np.float32(1)) * np.float32(levels / 2)), 0, levels - 1)
    return k.astype(np.uint8 if levels <= 256 else np.int32)


def bits_per_dim(log_prob, dim: int, levels: int | None):
    """Convert log p(x), in nats and of the scaled example, to bits per dimension of the unscaled one (module docstring).

    For grey levels it is an upper bound on the code length of the integers; for continuous data it is the differential entropy's unit.
    """
    _check_levels(levels)
    if dim < 1:
        raise ValueError(f"need dim >= 1, the number of values of an example, got {dim}")
    return -log_prob / (dim * math.log(2)) + (0.0 if levels is None else math.log2(levels / 2))


def _check_levels(levels: int | None) -> None:
    if levels is not None and levels < 2:
        raise ValueError(f"levels must be None (continuous data) or at least 2, got {levels}")
