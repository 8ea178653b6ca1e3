r"""What is measured of a sample: operators :math:`A` with :math:`y = A(x) + \text{noise}`.

An operator is any callable that maps ONE sample x (...) to a measurement y (...): one of these, or
a function of your own, linear or not. Methods map it over a batch, and take its adjoint from
`jax.vjp`, so that none is written down. Arrays of an operator that differ from sample to sample
travel in `Measurement.operator`.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from ..names import check_name

BOUNDARIES = ("reflect", "wrap", "edge", "constant")  # of `numpy.pad`; "constant" is zero


class Mask(eqx.Module):
    """Keep the entries where a mask is true: inpainting.

    Attributes:
        shape: of a sample.
        indices: of the kept entries of a flattened sample, (kept,).
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    indices: Array

    def __init__(self, mask: npt.ArrayLike):
        """Take a mask with the shape of a sample, true where an entry is measured.

        Raises:
            ValueError: nothing is measured, or the mask is not made of Booleans or 0 and 1.
        """
        values = np.asarray(mask)
        if not np.isin(values, (0, 1)).all():
            raise ValueError(f"a mask holds true (measured) and false, got {np.unique(values)[:5]}")
        if not values.any():
            raise ValueError(f"the mask of shape {values.shape} measures nothing")
        self.shape = values.shape
        self.indices = jnp.asarray(np.flatnonzero(values), jnp.int32)

    def __call__(self, x: Array) -> Array:
        """Return the measured entries (kept,) of a sample."""
        check_sample("Mask", x, self.shape)
        return x.reshape(-1)[self.indices]


class Diagonal(eqx.Module):
    """Multiply each entry by a weight: gains, or a mask that differs from sample to sample.

    Where a weight is 0 the measurement is to be 0, too.

    Attributes:
        weights: of the shape of a sample.
    """

    weights: Array

    def __call__(self, x: Array) -> Array:
        """Return the weighted sample."""
        check_sample("Diagonal", x, self.weights.shape)
        return self.weights * x


class Grey(eqx.Module):
    """Average the channels, the last axis: colourisation is its inverse problem.

    Attributes:
        weights: of the channels; by default equal ones. ITU-R BT.601 has (0.299, 0.587, 0.114).
    """

    weights: tuple[float, ...] | None = eqx.field(default=None, static=True)

    def __call__(self, x: Array) -> Array:
        """Return the grey image (..., 1) of an image (..., channels)."""
        channels = x.shape[-1]
        weights = (1 / channels,) * channels if self.weights is None else self.weights
        if len(weights) != channels:
            raise ValueError(f"Grey has {len(weights)} weights for an image of shape {x.shape}")
        return jnp.sum(x * jnp.asarray(weights, x.dtype).reshape(_last(x)), -1, keepdims=True)


class Pool(eqx.Module):
    """Average over squares of pixels: super-resolution is its inverse problem.

    Attributes:
        factor: the side of a square in pixels.
    """

    factor: int = eqx.field(default=2, static=True)

    def __call__(self, x: Array) -> Array:
        """Return the image (height / factor, width / factor, channels)."""
        height, width, channels = _image("Pool", x)
        f = self.factor
        if f < 1 or height % f or width % f:
            raise ValueError(f"Pool(factor={f}) does not divide an image of shape {x.shape}")
        return x.reshape(height // f, f, width // f, f, channels).mean((1, 3))


class Blur(eqx.Module):
    """Filter each channel of an image with one kernel: deblurring is its inverse problem.

    Attributes:
        kernel: (rows, columns), odd numbers of both; correlated with the image.
        boundary: how the image goes on beyond its border, a name of `BOUNDARIES`.
    """

    kernel: Array
    boundary: str = eqx.field(default="reflect", static=True)

    def __check_init__(self):
        check_name("boundary", self.boundary, BOUNDARIES)
        shape = jnp.shape(self.kernel)
        if len(shape) != 2 or not (shape[0] % 2 and shape[1] % 2):
            raise ValueError(f"a kernel has odd numbers of rows and columns, got shape {shape}")

    @classmethod
    def gaussian(cls, std: float, radius: int | None = None, boundary: str = "reflect") -> "Blur":
        """Return the blur by a Gaussian of a standard deviation in pixels.

        Args:
            std: above 0.
            radius: pixels from the middle of the kernel to its border; by default 3 std.
            boundary: a name of `BOUNDARIES`.
        """
        if not std > 0:
            raise ValueError(f"need a standard deviation above 0 pixels, got std = {std}")
        reach = int(np.ceil(3 * std)) if radius is None else radius
        row = np.exp(-0.5 * (np.arange(-reach, reach + 1) / std) ** 2)
        row /= row.sum()
        return cls(kernel=jnp.asarray(np.outer(row, row), jnp.float32), boundary=boundary)

    def __call__(self, x: Array) -> Array:
        """Return the filtered image (height, width, channels)."""
        height, width, _ = _image("Blur", x)
        rows, columns = self.kernel.shape
        reach = ((rows // 2,) * 2, (columns // 2,) * 2, (0, 0))
        if self.boundary == "reflect" and (rows // 2 >= height or columns // 2 >= width):
            raise ValueError(
                f"a kernel of shape {self.kernel.shape} reaches beyond the reflection of an image "
                f"of shape {x.shape}; take a smaller radius"
            )
        padded = jnp.pad(x, reach, mode=self.boundary)
        total = jnp.zeros_like(x)
        for i in range(rows):
            for j in range(columns):
                total += self.kernel[i, j].astype(x.dtype) * padded[i : i + height, j : j + width]
        return total


class Projection(eqx.Module):
    """Multiply the flattened sample by a matrix.

    Attributes:
        matrix: (measurements, entries of a sample).
    """

    matrix: Array

    def __call__(self, x: Array) -> Array:
        """Return the measurement (measurements,)."""
        if self.matrix.shape[-1:] != (x.size,):
            raise ValueError(
                f"Projection has a matrix of shape {self.matrix.shape} for a sample of shape "
                f"{x.shape}; it needs {x.size} columns"
            )
        return jnp.matmul(self.matrix.astype(x.dtype), x.reshape(-1), precision="highest")


class Fourier(eqx.Module):
    """Keep some frequencies of each channel of an image, as magnetic resonance imaging does.

    Attributes:
        mask: (height, width), true where a frequency of the unitary transform is measured; the
            frequency 0 stands in the corner, as `jnp.fft.fft2` has it.
    """

    mask: Mask

    def __init__(self, mask: npt.ArrayLike):
        """Take a mask (height, width) of frequencies.

        Raises:
            ValueError: no mask, see `Mask`.
        """
        self.mask = Mask(mask)

    def __call__(self, x: Array) -> Array:
        """Return real and imaginary parts (channels, kept, 2)."""
        _image("Fourier", x)
        spectrum = jnp.fft.fft2(jnp.moveaxis(x, -1, 0), norm="ortho")
        if spectrum.shape[1:] != self.mask.shape:
            raise ValueError(
                f"Fourier has a mask of shape {self.mask.shape} for an image of shape {x.shape}"
            )
        kept = spectrum.reshape(len(spectrum), -1)[:, self.mask.indices]
        return jnp.stack([kept.real, kept.imag], axis=-1)


def check_sample(name: str, x: Array, shape: tuple[int, ...]) -> None:
    """Raise a ValueError unless a sample has this shape."""
    if x.shape != shape:
        raise ValueError(
            f"{name} was made for samples of shape {shape}, got one of shape {x.shape}; an "
            "operator maps one sample, map it over a batch by jax.vmap"
        )


def _image(name: str, x: Array) -> tuple[int, ...]:
    """Return the shape of an image (height, width, channels); raise a ValueError for another."""
    if x.ndim != 3:
        raise ValueError(
            f"{name} takes one image (height, width, channels), got shape {x.shape}; map it over "
            "a batch by jax.vmap"
        )
    return x.shape


def _last(x: Array) -> tuple[int, ...]:
    """Return the shape that broadcasts along the last axis of `x`."""
    return (1,) * (x.ndim - 1) + (-1,)
