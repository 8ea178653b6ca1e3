"""Pictures of what is exact and of how far we are from it; each caption carries the error that its
picture was drawn with.

python -m experiments.benchmarks.gallery        # draws them anew and writes docs/gallery.md
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from samplers import (
    DDIM,
    DEIS,
    DPMpp2M,
    Heun,
    PredictorCorrector,
    ReverseDiffusion,
    draw_prior,
    grids,
    log_likelihood,
    recommended,
    sample,
)
from samplers import Langevin as LangevinCorrector
from sde_lib import VP, GaussianMixture

from .problems import problems

DOCS = Path(__file__).parents[2] / "docs"
FOLDER = "_static/gallery"
WIDTH, HEIGHT, DPI = 8.0, 3.2, 110
NFE = (5, 7, 10, 14, 20, 28, 40)
KEY = jax.random.key(0)


def ring(modes: int = 8) -> GaussianMixture:
    """Return equal modes on a circle of radius 1."""
    angle = 2 * np.pi * np.arange(modes) / modes
    means = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return GaussianMixture([1 / modes] * modes, means, [0.004 * np.eye(2)] * modes)


def walk(figure: Figure) -> str:
    """States of a walk from noise to data."""
    data, sde = ring(), VP()
    sampler, ts = recommended(sde, 20, denoise=data.denoiser(sde))
    start = draw_prior(KEY, sde, (2000, 2))
    samples = sample(KEY, sampler, data.denoiser(sde), sde, ts, start, keep=None)
    assert samples.path is not None
    places = np.linspace(0, len(samples.path) - 1, 5).astype(int)
    for axes, place in zip(figure.subplots(1, 5), places, strict=True):
        x = np.asarray(samples.path[place])
        axes.scatter(*x.T, s=1, color="#1f4e9c", linewidths=0)
        axes.set(xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], aspect="equal")
        axes.set_title(f"t = {ts[place]:.3f}", fontsize=9)
    nearest = np.argmax(np.asarray(samples.x) @ np.asarray(data.means).T, axis=1)
    shares = np.bincount(nearest, minlength=8) / len(nearest)
    error = np.sqrt(1 / 8 * 7 / 8 / len(nearest))
    return (
        f"2000 noises become eight modes in {int(samples.nfe)} evaluations of the exact denoiser, "
        "by `recommended`. Each mode should have a share of 0.125 with standard error "
        f"{error:.4f}; the shares are {shares.min():.3f} to {shares.max():.3f}."
    )


def work_precision(figure: Figure) -> str:
    """Distance to the exact flow by evaluations."""
    problem = problems("gmm64 VP")["gmm64 VP"]
    denoise = problem.data.denoiser(problem.sde)
    axes = figure.subplots()
    last = {}
    for name, (sampler, calls) in {
        "DDIM": (DDIM(), 1),
        "Heun": (Heun(), 2),
        "DPM-Solver++(2M)": (DPMpp2M(), 1),
        "DEIS(3)": (DEIS(3), 1),
    }.items():
        errors = []
        for nfe in NFE:
            ts = grids.log_snr(problem.sde, nfe // calls)
            end = sample(
                KEY, sampler, denoise, problem.sde, ts, jnp.asarray(problem.x), denoise_last=False
            ).x
            alpha = float(problem.sde.marginal(jnp.asarray(ts[-1]))[0])
            errors.append(float(np.sqrt(np.mean((np.asarray(end) / alpha - problem.y) ** 2))))
        axes.loglog(NFE, errors, "o-", label=name, markersize=3)
        last[name] = errors[-1]
    axes.set(xlabel="network evaluations", ylabel="distance to the exact end")
    axes.set_xticks(NFE, [str(n) for n in NFE])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    listed = ", ".join(f"{name} {error:.1e}" for name, error in last.items())
    return (
        "Root mean square distance, a coordinate, between where a walk ends and where the exact "
        "flow ends, for a mixture of 8 modes in 64 dimensions under VP on log-SNR times; the ends "
        f"are known to 6e-10. At {NFE[-1]} evaluations: {listed}."
    )


def likelihood(figure: Figure) -> str:
    """Log-likelihood along a line, beside the exact density."""
    data, sde = ring(), VP()
    x = jnp.stack([jnp.linspace(-1.6, 1.6, 81), jnp.zeros(81)], axis=1)
    flow = log_likelihood(KEY, data.denoiser(sde), sde, x, rtol=1e-5, atol=1e-5)
    exact = data.log_prob(sde, x, sde.t_min)
    left, right = figure.subplots(1, 2)
    left.plot(x[:, 0], exact, color="black", label="exact")
    left.plot(x[:, 0], flow.log_prob, ".", color="#c2410c", label="by the probability flow")
    left.set(xlabel="x, at y = 0", ylabel="log-density, nats")
    left.legend(fontsize=8, loc="lower left")
    difference = np.abs(np.asarray(flow.log_prob - exact))
    right.semilogy(x[:, 0], np.maximum(difference, 1e-8), ".", color="#c2410c")
    right.set(xlabel="x, at y = 0", ylabel="difference, nats")
    return (
        "The likelihood of 81 points by the probability flow with exact trace, tolerance 1e-5, "
        f"{int(np.mean(flow.nfe))} evaluations: at most {difference.max():.1e} nats from the exact "
        f"log-density, {np.median(difference):.1e} in the median."
    )


def predictor_corrector(figure: Figure) -> str:
    """Samples with and without Langevin correction, from too few steps."""
    data, sde = ring(), VP()
    start = draw_prior(KEY, sde, (4000, 2))
    walks = {
        "predictor, 30 evaluations": (ReverseDiffusion(), 30),
        "predictor and corrector, 60": (
            PredictorCorrector(ReverseDiffusion(), LangevinCorrector(snr=0.16)),
            30,
        ),
        "predictor, 60": (ReverseDiffusion(), 60),
        "exact": (None, 0),
    }
    distances = {}
    for axes, (name, (sampler, steps)) in zip(figure.subplots(1, 4), walks.items(), strict=True):
        if sampler is None:
            x = data.sample(KEY, 4000)
        else:
            ts = grids.log_snr(sde, steps)
            x = sample(KEY, sampler, data.denoiser(sde), sde, ts, start).x
        x = np.asarray(x)
        axes.scatter(*x.T, s=1, color="#1f4e9c", linewidths=0)
        axes.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), xticks=[], yticks=[], aspect="equal")
        axes.set_title(name, fontsize=8)
        distance = np.linalg.norm(x[:, None] - np.asarray(data.means)[None], axis=2).min(axis=1)
        distances[name] = float(np.sqrt(np.mean(distance**2) / 2))
    listed = ", ".join(f"{name}: {value:.4f}" for name, value in distances.items())
    return (
        "Song et al.'s predictor and corrector on eight narrow modes. Root mean square distance "
        f"to the nearest mode, a coordinate, exactly {np.sqrt(0.004):.4f} - {listed}."
    )


PICTURES: dict[str, tuple[str, Callable[[Figure], str]]] = {
    "walk": ("From noise to data", walk),
    "work_precision": ("Evaluations and precision", work_precision),
    "likelihood": ("A likelihood beside the exact density", likelihood),
    "predictor_corrector": ("Predictor and corrector", predictor_corrector),
}


def main() -> None:
    """Draw every picture, and write the page that shows them."""
    folder = DOCS / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    parts = [
        "# Gallery",
        "Every picture is of a problem whose answer is known; its caption says how far from it we "
        "are. Drawn, and this page written, by `python -m experiments.benchmarks.gallery`.",
    ]
    for name, (title, draw) in PICTURES.items():
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        caption = draw(figure)
        figure.savefig(folder / f"{name}.png", dpi=DPI, bbox_inches="tight")
        print(f"{title}: {caption}")
        parts += [f"## {title}", f"![{title}]({FOLDER}/{name}.png)", caption]
    (DOCS / "gallery.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
