r"""Codecs: between the raw values of a data set and the numbers that a model sees.

A codec turns raw examples into model values and back. `GreyLevels` serves images, `Continuous`
everything else. A data set may override `DataSet.codec` for training; the modes that open a run
without its data know these two only.

Grey levels :math:`k \in \{0, \dots, L-1\}` are dequantised with uniform noise, :math:`y = k + u`
with :math:`u \in [0, 1)`, and mapped to :math:`x = 2y/L - 1 \in [-1, 1)`. Then
:math:`k = \lfloor L(x+1)/2 \rfloor`, and as :math:`dy/dx = L/2` in each of the D dimensions

.. math:: -\tfrac1D \log_2 P(k) \le -\tfrac1D\,\mathbb{E}_u \log_2 p(y) = -\frac{\log p(x)}{D \log 2} + \log_2 \frac L2

(Theis et al. 2016, arXiv:1511.01844, section 3.1).
"""

import abc
import math
from dataclasses import dataclass

import numpy as np

# u takes the 4096 values (j + 1/2)/4096: few enough bits that k + u and its image in [-1, 1] keep
# their grey level in float32, so that decoding undoes encoding exactly, and so fine that no density
# a network represents changes between two of them.
DEQUANTISATION_BITS = 12


class Codec(abc.ABC):
    """How raw values become model values, and model values raw ones again.

    Model values are float32, about 1 in size.
    """

    #: bits a dimension by which a code length of raw values exceeds one of model values
    bits_of_scale: float
    #: variance that encoding adds to each model value, by its noise
    noise_variance: float

    @abc.abstractmethod
    def encode(self, raw: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Return model values of raw ones, both (batch, ...).

        Discrete values get noise, which is made of as many random uint16 `words`.
        """

    @abc.abstractmethod
    def expected(self, raw: np.ndarray) -> np.ndarray:
        """Return the expected model values of raw ones, in float64."""

    @abc.abstractmethod
    def decode(self, x) -> np.ndarray:
        """Return the raw values that model values x stand for.

        Raises:
            ValueError: x holds NaN, and raw values cannot.
        """

    @abc.abstractmethod
    def brightness(self, x: np.ndarray) -> np.ndarray:
        """Return how bright model values x are in a picture, from 0 to 255."""

    @abc.abstractmethod
    def range(self, low: float, high: float) -> tuple[float, float]:
        """Return the model values between which raw values from `low` to `high` are encoded."""

    @abc.abstractmethod
    def problem(self, raw: np.ndarray) -> str | None:
        """Return what is wrong with raw values of a numeric type, None if nothing is."""

    def bits_per_dim(self, log_prob, dim: int):
        """Return the bits per dimension of a raw example of `dim` values.

        `log_prob` is log p(x) of the encoded example, in nats. For grey levels it is an upper bound
        on the code length of the integers; for continuous data it is the differential entropy's
        unit.
        """
        if dim < 1:
            raise ValueError(f"need dim >= 1, the number of values of an example, got {dim}")
        return -log_prob / (dim * math.log(2)) + self.bits_of_scale


@dataclass(frozen=True)
class Continuous(Codec):
    """Numbers that are left as they are."""

    bits_of_scale = 0.0
    noise_variance = 0.0

    def encode(self, raw, words):
        del words
        return np.asarray(raw, np.float32)

    def expected(self, raw):
        return raw.astype(np.float64)

    def decode(self, x):
        return np.asarray(x, np.float32)

    def brightness(self, x):
        return (np.clip(np.asarray(x, np.float64), -1, 1) + 1) * 127.5

    def range(self, low, high):
        return low, high

    def problem(self, raw):
        return _first(raw, np.isfinite(raw), "finite numbers")


@dataclass(frozen=True)
class GreyLevels(Codec):
    """Whole numbers 0..levels-1, mapped to [-1, 1) with uniform noise."""

    levels: int

    def __post_init__(self):
        if self.levels < 2:
            raise ValueError(
                f"levels must be None (continuous data) or at least 2, got {self.levels}"
            )

    @property
    def bits_of_scale(self) -> float:
        """log2(L / 2), the logarithm of dy / dx."""
        return math.log2(self.levels / 2)

    @property
    def noise_variance(self) -> float:
        """The variance of a uniform distribution of width 2 / L."""
        return (2 / self.levels) ** 2 / 12

    def encode(self, raw, words):
        y = dequantised(raw, words)
        return y * np.float32(2 / self.levels) - np.float32(1)

    def expected(self, raw):
        return (raw.astype(np.float64) + 0.5) * (2 / self.levels) - 1

    def decode(self, x):
        """Return the grey levels that model values x fall into, clipped to 0..levels-1."""
        x = np.asarray(x, np.float32)
        if np.isnan(x).any():
            raise ValueError(
                f"cannot turn NaN into grey levels: {np.isnan(x).sum()} of {x.size} values are NaN"
            )
        # clipped before the product, which might overflow
        inside = np.clip(x, np.float32(-1), np.float32(1))
        k = np.floor((inside + np.float32(1)) * np.float32(self.levels / 2))
        k = np.clip(k, 0, self.levels - 1)
        return k.astype(np.uint8 if self.levels <= 256 else np.int32)

    def brightness(self, x):
        x = np.clip(np.asarray(x, np.float64), -1, 1)
        return self.decode(x) * (255 / (self.levels - 1))

    def range(self, low, high):
        return 2 * low / self.levels - 1, 2 * (high + 1) / self.levels - 1

    def problem(self, raw):
        good = (raw >= 0) & (raw < self.levels)
        expected = f"grey levels 0..{self.levels - 1}"
        if raw.dtype.kind == "f":
            good &= raw == np.floor(raw)
            expected = f"{expected}, which are whole numbers"
        return _first(raw, good, expected)


def codec_of(levels: int | None) -> Codec:
    """Return the codec of a number of grey levels, or of continuous data (None)."""
    return Continuous() if levels is None else GreyLevels(levels)


def dequantised(k: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return k + u in float32, with u in (0, 1) made of as many random uint16 words."""
    j = (words >> (16 - DEQUANTISATION_BITS)).astype(np.float32)
    return k.astype(np.float32) + (j + np.float32(0.5)) * np.float32(2.0**-DEQUANTISATION_BITS)


def _first(raw: np.ndarray, good: np.ndarray, expected: str) -> str | None:
    """Return a message about the first raw value that is not good, None if all are."""
    if good.all():
        return None
    return f"holds {raw[~good][0]}, expected {expected}; repair or remove it"
