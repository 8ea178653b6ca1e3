r"""The variational bound in continuous time.

It is eq. 11 of Kingma et al. 2021, arXiv:2107.00630, and theorem 3 of Song et al. 2021,
arXiv:2101.09258. With the log-SNR :math:`\lambda`, for which :math:`g^2 / \sigma^2 = -\lambda'`,
and noise :math:`\epsilon` drawn at every level,

.. math:: -\log p(x_0) \le \mathrm{KL}\big(q(x_1 \mid x_0) \,\|\, \pi\big)
    + \tfrac12 \int_{\lambda_1}^{\lambda_{\min}} E \| \epsilon - \hat\epsilon \|^2 d\lambda
    + \tfrac D2 \log \frac{2 \pi e\, \sigma_{t_{\min}}^2}{\alpha_{t_{\min}}^2} .

It is the likelihood of the reverse SDE, whose last step is the normal around x / alpha at t_min.
The likelihood of the probability flow is another model's, unless the score is exact. The integral
is drawn uniformly in :math:`\lambda`, one draw in each of n equal parts.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from sde_lib import SDE, Denoise, expand

from .base import fold, normal, sample_keys
from .checks import check_batch, check_count, check_key, check_problem
from .counted import Counted, evaluations
from .data_size import data_sd
from .ode import check_noisy

# Where a process without signal at t = 1 is left, for data of unit size: e^-20 of it is signal.
LOG_SNR_MIN = -20.0


class Bound(NamedTuple):
    """Lower bounds on the log-density of the data, in nats."""

    log_prob: Float[Array, " batch"]
    std_error: Float[Array, " batch"]  # of its random times and noise
    nfe: Int[Array, ""]


def variational_bound(
    key: Key[Array, ""],
    denoise: Denoise,
    sde: SDE,
    x: Array,
    *,
    draws: int = 64,
    sd: ArrayLike | None = None,
    cond: Any = None,
    index: Int[Array, " batch"] | None = None,
) -> Bound:
    """Estimate the variational lower bound on log p(x) without bias, with its standard error.

    Args:
        key: draws times and noise of each sample from its `index`.
        denoise: the denoiser, see `Denoise`.
        sde: the process.
        x: data (batch, ...).
        draws: times a sample, an even number; the standard error compares neighbours, which errs on
            the side of caution.
        sd: standard deviation of the data, by default the denoiser's `sigma_data`, else 1. It says
            where a process without signal at t = 1 is left; any value gives the same bound.
        cond: a pytree of conditions with leading axis `batch`.
        index: the number (batch,) of each sample in its run; default 0, 1, ...

    Raises:
        ValueError: an odd number of draws, or fewer than two, sigma = 0 at t_min, or an impossible
            state.
    """
    check_key(key)
    check_problem(denoise, sde)
    check_draws(draws)
    check_noisy(sde)
    sd = data_sd(denoise, sd)
    x, index, _ = check_batch(x, cond, index)
    sd = jnp.asarray(sd, x.dtype)
    return _bound(sample_keys(key, index), Counted(denoise), sde, x, sd, cond, draws)


def check_draws(draws: int) -> None:
    """Raise a ValueError unless the times of a bound come in pairs."""
    check_count(draws=draws)
    if draws % 2:
        raise ValueError(f"need an even number of draws, at least 2, got {draws}")


@eqx.filter_jit
def _bound(keys, denoise, sde, x, sd, cond, draws):
    size = x[0].size
    axes = tuple(range(1, x.ndim))
    clean = sde.log_snr(jnp.asarray(sde.t_min, x.dtype))
    noisy = jnp.maximum(sde.log_snr(jnp.ones((), x.dtype)), LOG_SNR_MIN - 2 * jnp.log(sd))

    def squared_error(i):
        """Return the squared error of the noise (batch,) at one time of each sample."""
        time_keys, noise_keys = fold(fold(keys, i), 0), fold(fold(keys, i), 1)
        u = jax.vmap(lambda k: jax.random.uniform(k, (), x.dtype))(time_keys)
        t = sde.time(clean + (i + u) / draws * (noisy - clean)).astype(x.dtype)
        alpha, sigma = sde.marginal(expand(t, x))
        noise = normal(noise_keys, x)
        return jnp.sum((noise - denoise(alpha * x + sigma * noise, t, cond).noise) ** 2, axes)

    errors = jax.lax.map(squared_error, jnp.arange(draws))
    parts = 0.5 * (clean - noisy) * errors  # (draws, batch)
    std_error = jnp.sqrt(jnp.sum((parts[::2] - parts[1::2]) ** 2, 0)) / draws
    alpha, sigma = sde.marginal(sde.time(noisy).astype(x.dtype))
    std = sde.prior_std()
    ratio = (sigma / std) ** 2
    signal = jnp.sum((alpha * x / std) ** 2, axes)
    divergence = 0.5 * size * (ratio - 1 - jnp.log(ratio)) + 0.5 * signal
    last = 0.5 * size * (jnp.log(2 * jnp.pi) + 1 - clean)
    nfe = jnp.asarray(draws * evaluations(denoise, x, cond))
    return Bound(
        log_prob=-(divergence + jnp.mean(parts, 0) + last),
        std_error=std_error,
        nfe=nfe,
    )
