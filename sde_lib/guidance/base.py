"""What the guidance methods share: the scale of each sample, its interval, the steered estimate."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ..arrays import as_state, expand, expand_time
from ..base import SDE, check_process
from ..checks import check_numbers
from ..estimate import Estimate
from ..memory import Remembering, init_memory
from ..protocols import Denoise, sigma_data_of

Interval = tuple[Any, Any] | None  # noise levels sigma / alpha, low and high


class Guided(NamedTuple):
    """Conditions with a guidance scale of each sample, which replaces the scale of the module.

    It is passed as `cond`. Of nested methods the outer one takes the outer scale:
    ``Guided(Guided(cond, inner), outer)``.
    """

    cond: Any  # what the method takes without it, leaves (batch, ...)
    scale: Array  # (batch,)


class Pair(NamedTuple):
    """Two estimates between which guidance works, or what their functions remember."""

    weak: Any
    strong: Any


class Guidance(Remembering):
    """A denoise function that wraps another one; every method of guidance is one.

    It remembers what the functions that it wraps remember, each estimate its own: the unconditional
    one never sees the last conditional one. A new method writes `recall`, and `init` if it wraps
    more than `denoise` or remembers more.

    Attributes:
        denoise: the denoise function that is steered, see `Denoise`.
    """

    denoise: Denoise

    def __check_init__(self):
        check_denoiser(type(self).__name__, self.denoise)

    @property
    def sigma_data(self) -> Any:
        """The standard deviation of the data, as the wrapped denoiser knows it, else 1."""
        return sigma_data_of(self.denoise)

    def init(self, x: Array) -> Any:
        """Return the memory of `denoise`; see `Remembering.init`."""
        return init_memory(self.denoise, x)


def check_denoiser(user: str, denoise: Any) -> None:
    """Raise a ValueError unless `denoise` may be a denoise function."""
    if callable(denoise) and not isinstance(denoise, type):
        return
    raise ValueError(
        f"{user} needs a denoise function (x, t, cond) -> Estimate such as a Denoiser, "
        f"got {denoise!r}"
    )


def check_bound(bound: Any) -> None:
    """Raise a ValueError unless a largest value of clean data is above 0; a traced one passes."""
    check_numbers(
        "bound > 0 and finite",
        lambda bound: bound > 0,
        bound,
        remedy="it is the largest value of clean data, 1 for images in [-1, 1]",
    )


def check_scale(scale: Any) -> None:
    """Raise a ValueError unless `scale` is one finite number; a traced one passes."""
    check_numbers("a finite guidance scale", lambda scale: True, scale)
    if jnp.ndim(scale):
        raise ValueError(
            f"need one guidance scale for all samples, got scale of shape {jnp.shape(scale)}; "
            "scales that differ by sample travel with the conditions: cond=Guided(cond, scale)"
        )


def check_interval(user: str, interval: Interval, sde: SDE | None) -> None:
    """Raise a ValueError unless there is no interval, or a possible one and a process for it."""
    if interval is None:
        return
    if not isinstance(interval, tuple | list) or len(interval) != 2:
        raise ValueError(f"need interval=(low, high), two noise levels, got {interval!r}")
    check_numbers(
        "0 <= low < high in interval=(low, high)",
        lambda low, high: 0 <= low < high,
        *interval,
        remedy="they are noise levels sigma / alpha",
        infinite=True,
    )
    if sde is None:
        raise ValueError(
            f"{user} cannot tell the noise level of a time without a process; "
            "pass the one of the denoise function, as in sde=VP()"
        )
    check_process(user, sde)


def split(cond: Any, scale: ArrayLike, x: Array) -> tuple[Any, Array]:
    """Return the conditions and the scale, of shape () or (batch,), that `cond` stands for.

    Raises:
        ValueError: the scales of `Guided` are not one finite number for each sample.
    """
    if not isinstance(cond, Guided):
        return cond, jnp.asarray(scale)
    if jnp.shape(cond.scale) != x.shape[:1]:
        raise ValueError(
            f"Guided has one scale for each of the {len(x)} samples, "
            f"got shape {jnp.shape(cond.scale)}; repeat what all share"
        )
    check_numbers("finite guidance scales", lambda scale: True, cond.scale)
    return cond.cond, jnp.asarray(cond.scale)


def scale_at(scale: Array, t: ArrayLike, x: Array, interval: Interval, sde: SDE | None) -> Array:
    """Return the scale at time `t`, which broadcasts against `x`; it is 1 outside of the interval.

    The interval is that of arXiv:2404.07724, low < sigma / alpha <= high.
    """
    scale = expand(scale, x)
    if interval is None or sde is None:
        return scale
    low, high = interval
    level = sde.noise_level(expand_time(t, x))
    return jnp.where((low < level) & (level <= high), scale, 1.0)


def between(weak: Estimate, strong: Estimate, scale: Array) -> Estimate:
    """Return weak + scale (strong - weak), in the type of `weak`.

    Both parts are linear, so that they keep adding up to the state.
    """
    return Estimate(
        x0=(weak.x0 + scale * (strong.x0 - weak.x0)).astype(weak.x0.dtype),
        noise=(weak.noise + scale * (strong.noise - weak.noise)).astype(weak.noise.dtype),
    )


def marginal_at(sde: SDE, t: ArrayLike, x: Array) -> tuple[Array, Array]:
    """Return alpha and sigma at time `t`, which broadcast against `x`."""
    return sde.marginal(expand_time(t, as_state(x)))


def over_sample(values: Array) -> tuple[int, ...]:
    """Return the axes of one sample of `values` (batch, ...)."""
    return tuple(range(1, values.ndim))
