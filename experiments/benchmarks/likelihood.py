"""Evaluations and seconds per likelihood against accuracy, beside what score_sde does: SciPy's RK45 at 1e-5, host-driven, one error norm.

    python -m experiments.benchmarks.likelihood

Exact denoisers, exact traces, float64, 16 points at once. SciPy integrates dx/dt = f x - g^2/2 score and its divergence over t, as
published; ours the same flow over its angle. Errors are against closed forms (Gaussian) or a solve at 1e-11 (mixture). Both evaluate the
denoiser and its divergence once a counted evaluation.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from samplers import log_likelihood
from sde_lib import SDE, VE, VP, DataDistribution, Gaussian, GaussianMixture, SubVP

POINTS = 16
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6)


def problems() -> dict[str, DataDistribution]:
    """Return a correlated Gaussian in 16 dimensions and a mixture of four in 2."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    covs = [0.02 * np.eye(2) + 0.1 * np.outer(v, v) for v in rng.normal(size=(4, 2))]
    return {
        "Gaussian, 16": Gaussian(rng.normal(size=16), turn @ np.diag(np.geomspace(0.02, 1.0, 16)) @ turn.T),
        "mixture, 2": GaussianMixture(np.full(4, 0.25), rng.uniform(-1, 1, (4, 2)), covs),
    }


def published(data: DataDistribution, sde: SDE, x: np.ndarray) -> Callable:
    """Return the likelihood (rtol) -> (log_prob, evaluations) as score_sde computes it, with the exact divergence."""
    n, d = x.shape

    @jax.jit
    def field(t, flat):
        x = flat[: n * d].reshape(n, d)
        (f, g), at = sde.coefficients(t), data.marginal(sde, x, t)
        return jnp.concatenate([(f * x - 0.5 * g**2 * at.score).ravel(), f * d - 0.5 * g**2 * at.divergence])

    def run(rtol):
        start = np.concatenate([x.ravel(), np.zeros(n)])
        found = solve_ivp(lambda t, y: np.asarray(field(t, y)), (sde.t_min, 1.0), start, method="RK45", rtol=rtol, atol=rtol)
        end = found.y[:, -1]
        return np.asarray(sde.prior_log_prob(jnp.asarray(end[: n * d].reshape(n, d)))) + end[n * d :], found.nfev

    return run


def ours(data: DataDistribution, sde: SDE, x: np.ndarray) -> Callable:
    """Return the same of `log_likelihood`."""

    def run(rtol):
        tolerance = jnp.asarray(rtol)
        found = log_likelihood(jax.random.key(0), data.denoiser(sde), sde, jnp.asarray(x), rtol=tolerance, atol=tolerance)
        return np.asarray(found.log_prob), int(found.nfe)

    return run


def timed(run: Callable, rtol: float, rounds: int = 3) -> tuple[np.ndarray, int, float]:
    """Return what `run` finds and its median seconds, after one call to compile."""
    (value, nfe), seconds = run(rtol), []
    for _ in range(rounds):
        start = time.perf_counter()
        run(rtol)
        seconds.append(time.perf_counter() - start)
    return value, nfe, float(np.median(seconds))


def main() -> None:
    """Measure and print."""
    print("| problem | process | solver | tolerance | median error, nats | largest | NFE | seconds |\n|---|---|---|---|---|---|---|---|")
    with jax.enable_x64(True):
        for name, data in problems().items():
            for sde in (VP(), SubVP(), VE()):
                x = np.asarray(data.sample(jax.random.key(1), POINTS))
                own, theirs = ours(data, sde, x), published(data, sde, x)
                exact = np.asarray(data.model_log_prob(sde, jnp.asarray(x), sde.t_min)) if isinstance(data, Gaussian) else own(1e-11)[0]
                runs = [("RK45 over t", theirs, 1e-5), *(("ours", own, tolerance) for tolerance in TOLERANCES)]
                for solver, run, tolerance in runs:
                    value, nfe, seconds = timed(run, tolerance)
                    error = np.abs(value - exact)
                    row = f"{np.median(error):.1e} | {error.max():.1e} | {nfe} | {seconds:.3f}"
                    print(f"| {name} | {type(sde).__name__} | {solver} | {tolerance:.0e} | {row} |", flush=True)


if __name__ == "__main__":
    main()
