r"""The log-likelihood of a model by its probability flow, with errors that can be believed.

It is eq. 39 of Song et al. 2021, arXiv:2011.13456. In the angle :math:`\theta` and the state
:math:`u = x / h` of `ode.py`, from data to noise,

.. math::
    \log p_{t_{\min}}(x) = \log \pi(x_1) + D \log \frac{h_1}{h_{t_{\min}}}
    + \int \operatorname{tr} J\,d\theta, \qquad
    J = \frac{\partial}{\partial u} \frac{du}{d\theta},

:math:`\pi` being the prior. Three things separate the result from the log-density of the data, and
each is reported by itself:

- the estimate of the trace, by its standard error over independent probes that stay fixed along the
  flow: :math:`v^T J v` (Hutchinson 1989; arXiv:1810.01367), or with part of the products spent on
  J's dominant range Q (Hutch++, Meyer et al. 2021, arXiv:2010.09649),
  :math:`\operatorname{tr} Q^T J Q + v^T P J P v` with :math:`P = I - Q Q^T`;
- the solver, by what a solve at ten times the tolerance differs from it;
- the prior, which is not p_1: `prior_mismatch`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from sde_lib import SDE, Denoise, check_name

from .base import sample_keys
from .checks import check_batch, check_count, check_key, check_problem, check_tolerance, widened
from .counted import Counted, evaluations
from .data_size import data_sd
from .ode import angle, check_noisy, solve, velocity

Product = Callable[[Array], Array]  # rows v (k, d) -> rows J v (k, d)


class LogLikelihood(NamedTuple):
    """Log-densities of the model at t_min, in nats."""

    log_prob: Float[Array, " batch"]
    # Of the trace estimate over its probes; 0 for the exact trace, NaN for a single probe. An
    # interval from K of them takes Student's t with K - 1 degrees of freedom. In the plane v^T J v
    # has two values for Rademacher v, so that K probes agree by chance, and claim no error, with
    # probability 2^(1 - K): use the exact trace there, or Gaussian probes.
    std_error: Float[Array, " batch"]
    # Minus what ten times the tolerance gives, so about the error of that coarser solve; NaN unless
    # `refine` is set.
    refinement: Float[Array, " batch"]
    latent: Array  # (batch, ...) the end point at t = 1
    nfe: Int[Array, ""]


class Solution(NamedTuple):
    """One solve of the flow."""

    log_prob: Array  # (batch,)
    traces: Array  # (batch, probes) integrals of the trace, by each independent probe
    latent: Array  # (batch, ...)
    calls: Array  # () of the denoiser


class Trace(NamedTuple):
    """One way of estimating the trace of a Jacobian."""

    draw: Callable  # (key, shape, dtype) -> random rows
    estimate: Callable[[Product, Array], Array]  # (product, rows) -> by each independent probe
    rows: Callable[[int], int]  # the number of products -> the number of rows to draw


def _exact(product: Product, rows: Array) -> Array:
    """Return the trace (1,), from the rows of the identity."""
    return jnp.sum(rows * product(rows), keepdims=True).reshape(1)


def _hutchinson(product: Product, rows: Array) -> Array:
    """Return the estimate v^T J v of each row (k,)."""
    return jnp.sum(rows * product(rows), 1)


def _hutch_pp(product: Product, rows: Array) -> Array:
    """Return the estimate of each row of the second half (k / 2,), the first being the sketch."""
    sketch, probes = jnp.split(rows, 2)
    q = jnp.linalg.qr(product(sketch).T)[0].T  # orthonormal rows
    along = jnp.matmul(probes, q.T, precision="highest")
    rest = probes - jnp.matmul(along, q, precision="highest")
    return jnp.sum(q * product(q)) + jnp.sum(rest * product(rest), 1)


def _one_each(products: int) -> int:
    """Return as many rows as products."""
    return products


def _two_thirds(products: int) -> int:
    """Return the number of rows of Hutch++: sketch, range and probes take a third each."""
    return 2 * (products // 3)


TRACES: dict[str, Trace] = {
    "rademacher": Trace(draw=jax.random.rademacher, estimate=_hutchinson, rows=_one_each),
    "gaussian": Trace(draw=jax.random.normal, estimate=_hutchinson, rows=_one_each),
    "hutch++": Trace(draw=jax.random.rademacher, estimate=_hutch_pp, rows=_two_thirds),
}


def log_likelihood(
    key: Key[Array, ""],
    denoise: Denoise,
    sde: SDE,
    x: Array,
    *,
    probes: int | None = None,
    trace: str = "rademacher",
    refine: bool = False,
    sd: ArrayLike | None = None,
    cond: Any = None,
    index: Int[Array, " batch"] | None = None,
    rtol: ArrayLike = 1e-5,
    atol: ArrayLike = 1e-5,
    max_steps: int = 4096,
) -> LogLikelihood:
    """Return the log-likelihood of data under the model.

    It is the log-density of `x` at t_min, pulled back from the prior along the flow.

    Args:
        key: draws the probes, fixed along the flow, of each sample from its `index`; the exact
            trace ignores it.
        denoise: the denoiser, see `Denoise`.
        sde: the process.
        x: data (batch, ...).
        probes: products with the Jacobian in each evaluation; None computes the exact trace, at as
            many products as x has dimensions.
        trace: how probes estimate the trace, a row of `TRACES`; "hutch++" spends a third of them on
            its error, so at least 6.
        refine: solve at ten times the tolerance as well, at about half the price more, and report
            the difference.
        sd: standard deviation of the data, by default the denoiser's `sigma_data`, else 1. Any
            value gives the same likelihood; their own takes the fewest evaluations.
        cond: a pytree of conditions with leading axis `batch`.
        index: the number (batch,) of each sample in its run; default 0, 1, ...
        rtol: relative tolerance of a step in the normalised state.
        atol: absolute tolerance of it.
        max_steps: after so many steps a sample is given up.

    Returns:
        LogLikelihood, in float32 for narrower data; a sample that did not arrive within `max_steps`
        steps is NaN.

    Raises:
        ValueError: no probe, an unknown trace, sigma = 0 at t_min, where a model has no density, or
            an impossible state or tolerance.
    """
    check_key(key)
    check_problem(denoise, sde)
    check_name("trace", trace, TRACES)
    least = 6 if trace == "hutch++" else 1
    if probes is not None and (isinstance(probes, int) and probes < least):
        raise ValueError(
            f"need at least {least} probes for {trace}, or None for the exact trace, got {probes}"
        )
    if probes is not None:
        check_count(probes=probes)
    check_noisy(sde)
    check_tolerance(rtol, atol, max_steps)
    sd = data_sd(denoise, sd)
    x, index, _ = check_batch(x, cond, index)
    numbers = tuple(jnp.asarray(v, x.dtype) for v in (sd, rtol, atol))
    keys = sample_keys(key, index)
    denoise = Counted(denoise)
    return _likelihood(keys, denoise, sde, x, numbers, cond, probes, trace, refine, max_steps)


@eqx.filter_jit
def _likelihood(keys, denoise, sde, x, numbers, cond, probes, trace, refine, max_steps):
    """Solve the flow from data to noise, once or at two tolerances; see `log_likelihood`."""
    sd, rtol, atol = numbers
    rows, estimate = _probes(keys, x, probes, TRACES[trace])
    field = _with_traces(denoise, sde, sd, estimate)
    first, scale = angle(sde, jnp.asarray(sde.t_min, x.dtype), sd)
    last, end_scale = angle(sde, jnp.ones((), x.dtype), sd)
    independent = jax.eval_shape(lambda rows: estimate(lambda v: v, rows), rows[0]).shape[0]
    start = (x / scale, jnp.zeros((len(x), independent), x.dtype))

    def at_tolerance(factor):
        # Dopri5 takes from 28 % fewer evaluations at equal error than Tsit5 to 9 % more, on the
        # problems of benchmarks/likelihood.py.
        (u, traces), calls = solve(
            "Dopri5",
            field,
            first,
            last,
            start,
            (cond, rows),
            factor * rtol,
            factor * atol,
            max_steps,
        )
        latent = u * end_scale
        volume = x[0].size * jnp.log(end_scale / scale) + jnp.mean(traces, axis=1)
        log_prob = sde.prior_log_prob(latent) + volume
        return Solution(log_prob=log_prob, traces=traces, latent=latent, calls=calls)

    solution, refinement, calls = _refined(at_tolerance, refine, x)
    if probes is None:
        std_error = jnp.zeros(len(x), x.dtype)
    else:
        deviation = jnp.std(solution.traces, axis=1, ddof=1)
        std_error = deviation / jnp.sqrt(independent).astype(x.dtype)
    return LogLikelihood(
        log_prob=solution.log_prob,
        std_error=std_error,
        refinement=refinement,
        latent=solution.latent,
        nfe=calls * evaluations(denoise, x, cond),
    )


def _with_traces(denoise, sde, sd, estimate) -> Callable:
    """Return the field of the state, (1, ...), and of the traces by each independent probe."""

    def field(theta, state, args):
        (u, _), (cond, rows) = state, args
        value, jvp = jax.linearize(lambda u: velocity(denoise, sde, theta, u, cond, sd), u)
        product = jax.vmap(lambda row: jvp(row.reshape(u.shape))[0].reshape(u.size))
        return value, estimate(product, rows[0])[None]

    return field


def _probes(keys, x, probes, trace: Trace) -> tuple[Array, Callable[[Product, Array], Array]]:
    """Return the rows (batch, k, d) that the Jacobian is multiplied with, and the estimate."""
    size = x[0].size
    if probes is None:
        identity = jnp.eye(size, dtype=x.dtype)
        return jnp.broadcast_to(identity, (len(x), size, size)), _exact
    rows = jax.vmap(lambda key: trace.draw(key, (trace.rows(probes), size), x.dtype))(keys)
    return rows, trace.estimate


def _refined(at_tolerance: Callable, refine: bool, x: Array) -> tuple[Solution, Array, Array]:
    """Return the solution, what ten times the tolerance differs by (batch,), and all calls."""
    if not refine:
        solution = at_tolerance(1.0)
        return solution, jnp.full(len(x), jnp.nan, x.dtype), solution.calls
    # One solve after the other, so that both share a program.
    both = jax.lax.map(at_tolerance, jnp.array([10.0, 1.0], x.dtype))
    solution = jax.tree.map(lambda a: a[1], both)
    return solution, both.log_prob[1] - both.log_prob[0], jnp.sum(both.calls)


def prior_mismatch(
    sde: SDE, latent: Array, mean: ArrayLike, variance: ArrayLike
) -> Float[Array, " batch"]:
    """Return log pi(x_1) - log p_1(x_1) in nats, the part of a likelihood due to the prior alone.

    At t = 1 data are all but Gaussian, so p_1 is taken as N(alpha mean, alpha^2 variance +
    sigma^2); correlations are left out.

    Args:
        sde: the process.
        latent: end points x_1 (batch, ...).
        mean: that of the data, one number or one a coordinate (...).
        variance: likewise.
    """
    latent, _ = widened(latent)
    alpha, sigma = sde.marginal(jnp.ones((), latent.dtype))
    mean, variance = (
        jnp.broadcast_to(jnp.asarray(a, latent.dtype), latent.shape[1:])[None]
        for a in (mean, variance)
    )
    variance = (alpha**2) * variance + sigma**2  # of p_1
    log_p1 = -0.5 * jnp.sum(
        (latent - alpha * mean) ** 2 / variance + jnp.log(2 * jnp.pi * variance),
        axis=tuple(range(1, latent.ndim)),
    )
    return sde.prior_log_prob(latent) - log_p1
