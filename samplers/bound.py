r"""The variational bound in continuous time (Kingma et al. 2021, arXiv:2107.00630, eq. 11; Song et al. 2021, arXiv:2101.09258, theorem 3).

With the log-SNR :math:`\lambda`, for which :math:`g^2 / \sigma^2 = -\lambda'`, and noise :math:`\epsilon` drawn at every level,

.. math:: -\log p(x_0) \le \mathrm{KL}\big(q(x_1 \mid x_0) \,\|\, \pi\big)
    + \tfrac12 \int_{\lambda_1}^{\lambda_{\min}} E \| \epsilon - \hat\epsilon \|^2 d\lambda
    + \tfrac D2 \log \frac{2 \pi e\, \sigma_{t_{\min}}^2}{\alpha_{t_{\min}}^2} .

It is the likelihood of the reverse SDE, whose last step is the normal around x / alpha at t_min; that of the probability flow is another
model's, unless the score is exact. The integral is drawn uniformly in :math:`\lambda`, one draw in each of n equal parts.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from sde_lib import SDE, expand

from .base import Counted, Denoise, fold, normal, sample_keys
from .ode import check_noisy

LOG_SNR_MIN = (
    -20.0
)  # where a process without signal at t = 1 is left: a part e^-20 of the signal's power


class Bound(NamedTuple):
    """Lower bounds on the log-density of the data, in nats."""

    log_prob: Float[Array, " batch"]
    std_error: Float[Array, " batch"]  # of its random times and noise
    nfe: Int[Array, ""]


@eqx.filter_jit
def variational_bound(
    key: Key[Array, ""],
    denoise: Denoise,
    sde: SDE,
    x: Float[Array, "batch ..."],
    *,
    draws: int = 64,
    cond: Any = None,
    index: Int[Array, " batch"] | None = None,
) -> Bound:
    """Return an unbiased estimate of the variational lower bound on log p(x) for data `x` (batch, ...), with its standard error.

    Args:
        key: draws times and noise of each sample from its `index`.
        draws: times a sample, an even number; the standard error compares neighbours, which errs on the side of caution.

    Raises:
        ValueError: an odd number of draws, or fewer than two, or sigma = 0 at t_min.
    """
    if draws < 2 or draws % 2:
        raise ValueError(f"need an even number of draws, at least 2, got {draws}")
    check_noisy(sde)
    keys, size = sample_keys(key, jnp.arange(len(x)) if index is None else index), x[0].size
    axes = tuple(range(1, x.ndim))
    clean, noisy = (
        sde.log_snr(jnp.asarray(sde.t_min, x.dtype)),
        jnp.maximum(sde.log_snr(jnp.ones((), x.dtype)), LOG_SNR_MIN),
    )
    denoise = Counted(denoise)

    def at(i):
        time_keys, noise_keys = fold(fold(keys, i), 0), fold(fold(keys, i), 1)
        u = jax.vmap(lambda k: jax.random.uniform(k, (), x.dtype))(time_keys)
        t = sde.time(clean + (i + u) / draws * (noisy - clean))
        alpha, sigma = sde.marginal(expand(t, x))
        noise = normal(noise_keys, x)
        return jnp.sum((noise - denoise(alpha * x + sigma * noise, t, cond).noise) ** 2, axes)

    parts = 0.5 * (clean - noisy) * jax.lax.map(at, jnp.arange(draws))  # (draws, batch)
    std_error = jnp.sqrt(jnp.sum((parts[::2] - parts[1::2]) ** 2, 0)) / draws
    (alpha, sigma), std = sde.marginal(sde.time(noisy)), sde.prior_std()
    ratio = (sigma / std) ** 2
    divergence = 0.5 * size * (ratio - 1 - jnp.log(ratio)) + 0.5 * jnp.sum(
        (alpha * x / std) ** 2, axes
    )
    last = 0.5 * size * (jnp.log(2 * jnp.pi) + 1 - clean)
    return Bound(-(divergence + jnp.mean(parts, 0) + last), std_error, jnp.asarray(draws))
