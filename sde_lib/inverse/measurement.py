"""What was measured of each sample, as it travels with the conditions of a walk."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Key

from ..checks import check_numbers
from ..estimate import Estimate
from ..memory import Remembering, init_memory, recall
from ..protocols import Denoise, sigma_data_of


class Measurement(NamedTuple):
    """The conditions of a posterior denoiser: one measurement a sample.

    A walk takes it as its `cond`, so that samples of different measurements share a batch::

        samples = sample(key, DDIM(eta=1.0), MMPS(denoise, sde, operator, std=0.1), sde, ts, x,
                         cond=Measurement(y))

    Attributes:
        y: the measurements (batch, ...).
        cond: what the denoiser inside takes, None or a pytree with leading axis batch.
        operator: where it differs from sample to sample, the operator, its arrays with a leading
            axis batch; None: that of the method.
    """

    y: Array
    cond: Any = None
    operator: Any = None

    def operator_or(self, default: Callable[[Array], Array]) -> Callable[[Array], Array]:
        """Return the operator of the measurement, or that of the method."""
        return default if self.operator is None else self.operator


def measure(
    key: Key[Array, ""], operator: Callable[[Array], Array], x: Array, std: ArrayLike
) -> Array:
    """Return simulated measurements y = A(x) + std noise, (batch, ...).

    Args:
        key: draws the noise.
        operator: maps one sample to its measurement.
        x: samples (batch, ...).
        std: standard deviation of the noise.
    """
    clean = jax.vmap(operator)(x)
    return clean + std * jax.random.normal(key, clean.shape, clean.dtype)


class PriorDenoiser(Remembering):
    """The denoiser of the prior in a walk whose conditions are measurements.

    It hands on what is in `Measurement.cond`. Samplers that bring in the measurement themselves,
    such as `samplers.DPS`, take it in place of the denoiser.

    Attributes:
        denoise: the denoiser of the prior.
    """

    denoise: Denoise

    def init(self, x: Array) -> Any:
        """Return the memory of the denoiser; see `Remembering.init`."""
        return init_memory(self.denoise, x)

    def recall(self, x: Array, t: ArrayLike, cond: Any, memory: Any) -> tuple[Estimate, Any]:
        """Return the estimate of the prior at `x` (batch, ...) and time `t`, and its memory."""
        check_measurement(cond)
        return recall(self.denoise, x, t, cond.cond, memory)

    @property
    def sigma_data(self) -> Any:
        """The standard deviation of the data that the denoiser of the prior knows, 1 if none."""
        return sigma_data_of(self.denoise)


def check_measurement(cond: Any) -> None:
    """Raise a ValueError unless conditions are a measurement."""
    if not isinstance(cond, Measurement):
        raise ValueError(
            f"the conditions of an inverse problem are a Measurement, got {type(cond).__name__}; "
            "pass cond=Measurement(y), with the conditions of the network, if it takes any, as "
            "Measurement(y, cond)"
        )


def check_std(std: Any) -> None:
    """Raise a ValueError unless a standard deviation of measurement noise is above 0."""
    check_numbers(
        "std > 0 and finite",
        lambda value: value > 0,
        std,
        remedy="for exact measurements pass a small one, such as a thousandth of the data's",
    )


def check_fits(y: Array, predicted: Array) -> None:
    """Raise a ValueError unless one measurement has the shape that the operator gives."""
    if jnp.shape(y) != predicted.shape:
        raise ValueError(
            f"the operator gives measurements of shape {predicted.shape}, but those of the "
            f"Measurement have shape {jnp.shape(y)}; `measure` simulates some that fit"
        )
