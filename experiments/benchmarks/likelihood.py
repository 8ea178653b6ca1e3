"""Evaluations and seconds per likelihood at equal error, beside what score_sde does.

    python -m experiments.benchmarks.likelihood

score_sde runs SciPy's RK45 over t, driven by the host, with one error norm. Exact denoisers, exact
traces, float64, 16 points at once. SciPy integrates dx/dt = f x - g^2/2 score and its divergence
over t, as published, for all points together: one step size and the root mean square of their
errors, so that hard points lean on easy ones. Ours steps each point by itself, and a batch costs
what its slowest point takes. To tell the two apart, SciPy is also run on each point alone; then its
slowest point counts too. Every way is run at tolerances from 1e-2 to 1e-8, and the evaluations
(seconds) at which the root mean square error over the points reaches a value are interpolated on
log scales. Errors are against closed forms (Gaussian) or a solve at 1e-12. An evaluation is one of
the right-hand side; score_sde calls its network twice for it, ours once.
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
TOLERANCES = 10.0 ** -np.arange(2, 8.1, 0.5)
ERRORS = (1e-3, 1e-4, 1e-5)  # nats

Run = Callable[[float], tuple[np.ndarray, int]]  # tolerance -> log_prob, evaluations


def problems() -> dict[str, DataDistribution]:
    """Return a correlated Gaussian in 16 dimensions and a mixture of four in 2."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    covs = [0.02 * np.eye(2) + 0.1 * np.outer(v, v) for v in rng.normal(size=(4, 2))]
    return {
        "Gaussian, 16": Gaussian(
            rng.normal(size=16), turn @ np.diag(np.geomspace(0.02, 1.0, 16)) @ turn.T
        ),
        "mixture, 2": GaussianMixture(np.full(4, 0.25), rng.uniform(-1, 1, (4, 2)), covs),
    }


def published(data: DataDistribution, sde: SDE, x: np.ndarray, together: bool) -> Run:
    """Return the likelihood as score_sde computes it, with the exact divergence.

    It is that of all points `together`, or of one after the other.
    """
    d = x.shape[1]

    @jax.jit
    def field(t, flat):
        x = flat.reshape(-1, d + 1)[:, :d]
        f, g = sde.coefficients(t)
        marginal = data.marginal(sde, x, t)
        velocity = f * x - 0.5 * g**2 * marginal.score
        divergence = f * d - 0.5 * g**2 * marginal.divergence
        return jnp.concatenate([velocity, divergence[:, None]], 1).ravel()

    def solve(x, rtol):
        start = np.concatenate([x, np.zeros((len(x), 1))], 1).ravel()
        solution = solve_ivp(
            lambda t, y: np.asarray(field(t, y)),
            (sde.t_min, 1.0),
            start,
            method="RK45",
            rtol=rtol,
            atol=rtol,
        )
        end = solution.y[:, -1].reshape(-1, d + 1)
        prior = np.asarray(sde.prior_log_prob(jnp.asarray(end[:, :d])))
        return prior + end[:, d], solution.nfev

    def run(rtol):
        if together:
            return solve(x, rtol)
        values, counts = zip(*(solve(x[i : i + 1], rtol) for i in range(len(x))), strict=True)
        return np.concatenate(values), max(counts)

    return run


def ours(data: DataDistribution, sde: SDE, x: np.ndarray) -> Run:
    """Return the same of `log_likelihood`."""
    sd = float(np.sqrt(np.mean(np.diag(data.data_moments().cov))))

    def run(rtol):
        tolerance = jnp.asarray(rtol)
        solution = log_likelihood(
            jax.random.key(0),
            data.denoiser(sde),
            sde,
            jnp.asarray(x),
            sd=sd,
            rtol=tolerance,
            atol=tolerance,
        )
        return np.asarray(solution.log_prob), int(solution.nfe)

    return run


def sweep(run: Run, exact: np.ndarray, rounds: int = 3) -> np.ndarray:
    """Return rows (error, evaluations, median seconds), one a tolerance."""
    run(TOLERANCES[0])  # compiles
    rows = []
    for tolerance in TOLERANCES:
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            value, nfe = run(tolerance)
            seconds.append(time.perf_counter() - start)
        rows.append((np.sqrt(np.mean((value - exact) ** 2)), nfe, np.median(seconds)))
    return np.array(rows)


def at_error(curve: np.ndarray, error: float) -> np.ndarray:
    """Return evaluations and seconds at which a sweep's error falls to `error`."""
    log = np.log(curve[np.argsort(curve[:, 1])])
    falling = np.minimum.accumulate(log[:, 0])
    return np.exp([np.interp(-np.log(error), -falling, log[:, column]) for column in (1, 2)])


def main() -> None:
    """Measure every problem under every process, and print a line for each solver."""
    print(
        f"| problem | process | solver | {' | '.join(f'{e:.0e} nat' for e in ERRORS)} | at 1e-5: "
        f"error, NFE |\n|{'---|' * 7}"
    )
    with jax.enable_x64(True):
        for name, data in problems().items():
            for sde in (VP(), SubVP(), VE()):
                for solver, curve in sweeps(data, sde).items():
                    print(f"| {name} | {type(sde).__name__} | {solver} | {line(curve)} |")


def sweeps(data: DataDistribution, sde: SDE) -> dict[str, np.ndarray]:
    """Return the sweep of each solver on one problem."""
    x = np.asarray(data.sample(jax.random.key(1), POINTS))
    own = ours(data, sde, x)
    if isinstance(data, Gaussian):
        exact = np.asarray(data.model_log_prob(sde, jnp.asarray(x), sde.t_min))
    else:
        exact, _ = own(1e-12)
    return {
        "RK45, together": sweep(published(data, sde, x, together=True), exact, rounds=3),
        "RK45, each alone": sweep(published(data, sde, x, together=False), exact, rounds=1),
        "ours": sweep(own, exact, rounds=3),
    }


def line(curve: np.ndarray) -> str:
    """Return the cells of a sweep: what each of `ERRORS` costs, and what tolerance 1e-5 gives."""
    cells = ["{:.0f} NFE, {:.1g} s".format(*at_error(curve, error)) for error in ERRORS]
    error, nfe, _ = curve[np.argmin(np.abs(TOLERANCES - 1e-5))]
    return " | ".join([*cells, f"{error:.0e}, {nfe:.0f}"])


if __name__ == "__main__":
    main()
