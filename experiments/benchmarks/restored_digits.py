"""Restoring handwritten digits that the network has not seen: inpainting, super-resolution and
deblurring by several methods.

    python -m experiments.main --config=experiments/configs/digits.py:vp --workdir=runs/digits \\
        --mode=train
    python -m experiments.benchmarks.restored_digits --workdir=runs/digits --out=restored_digits

For every operator and method, over test digits with noise of a tenth of the range of grey levels:

- PSNR of the mean of the samples, and of a sample, in dB below the range of grey levels;
- chi-square, 1 for samples of the posterior, see `experiments.restore`;
- coverage: how often a true pixel lies inside the central 90 % of its samples, over the pixels that
  the samples leave open: their standard deviation is above one of the 16 grey levels;
- score-KSD: do samples fit the network's own score at the noise level `LEVEL`, plus that of the
  measurement? It needs no reference, and compares methods on the same operator.

`DIR/restored_digits.png` shows some digits: the truth, and for each operator the observation, two
samples and the mean.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from sde_lib.inverse import measure

from .. import data
from ..measures.calibration import coverage
from ..measures.stein import score_ksd
from ..run.build import make_dataset
from ..run.conditions import conditions_of
from ..run.devices import set_up_jax
from ..run.loading import Loaded, load
from ..run.operators import Measured, make_operator
from ..run.restoration import Restored, restore
from ..storage.labelled_rows import labelled
from ..storage.pictures import save_png, to_uint8
from ..storage.restored_picture import in_frame
from ..storage.writing import write_json

OPERATORS: dict[str, dict[str, Any]] = {
    "inpainting": {"name": "Mask"},
    "upsampling": {"name": "Pool", "factor": 2},
    "deblurring": {"name": "Blur", "std": 1.0},
}
METHODS = ("jfps", "mmps", "tmpd", "pigdm", "diffpir", "dps")
SHOWN = "mmps"  # in the picture
STD = 0.2  # of the noise; grey levels reach from -1 to 1
DIGITS = 12
SAMPLES = 48  # of each
LEVEL = 0.05  # sigma / alpha of the score, and of the noise that is added to the samples
RANGE = 2.0  # of grey levels in model values
OPEN = RANGE / 16


class Observed(NamedTuple):
    """Test digits and what was measured of them, in model values."""

    measured: Measured
    truth: np.ndarray  # (digits, height, width, 1)
    y: np.ndarray  # (digits, ...)


def test_digits(loaded: Loaded, number: int) -> np.ndarray:
    """Return the first test digits as model values (number, height, width, 1)."""
    block = next(iter(data.blocks(make_dataset(loaded.run.config), "test")))
    return loaded.run.facts.codec.expected(block.x[:number])


def observe(loaded: Loaded, name: str, truth: np.ndarray) -> Observed:
    """Return measurements of digits by the operator `name`."""
    measured = make_operator(OPERATORS[name], tuple(loaded.run.facts.shape))
    y = measure(jax.random.key(0), measured.operator, jnp.asarray(truth, jnp.float32), STD)
    return Observed(measured, truth, np.asarray(y))


def posterior_score(loaded: Loaded, measured: Measured, y: np.ndarray) -> Callable:
    """Return the score (n, d) -> (n, d) of clean images given `y`.

    It is the sum of the network's at `LEVEL` and the measurement's.
    """
    t = float(loaded.sde.time_of_level(LEVEL))
    alpha, _ = loaded.sde.marginal(jnp.asarray(t))

    def score(x: np.ndarray) -> np.ndarray:
        images = jnp.asarray(x, jnp.float32).reshape(-1, *measured.example)
        times = jnp.full(len(x), t)
        noise = _noise(loaded.denoiser, alpha * images, times, unknown_class(loaded, len(x)))
        values = -np.asarray(noise, np.float64) / LEVEL
        values += np.asarray(_pull(measured.operator, images, jnp.asarray(y, jnp.float32)))
        return values.reshape(x.shape)

    return score


@eqx.filter_jit
def _noise(denoise, x, t, cond):
    """Return the expected noise in states, compiled once for all digits."""
    return denoise(x, t, cond).noise


@eqx.filter_jit
def _pull(operator, x, y):
    """Return the score of the measurement `y` at images, compiled once for all digits."""

    def log_likelihood(x):
        return -0.5 * jnp.sum((y - operator(x)) ** 2) / STD**2

    return jax.vmap(jax.grad(log_likelihood))(x)


def unknown_class(loaded: Loaded, number: int) -> Any:
    """Return the conditions of images whose class is not known, None for a run without classes."""
    run = loaded.run
    if not run.config.train.conditional:
        return None
    return conditions_of(run, {"label": jnp.full(number, run.facts.num_classes, jnp.int32)})


def discrepancy(loaded: Loaded, observed: Observed, restored: Restored) -> float:
    """Return the score-KSD of the samples, a root mean square over the digits."""
    rng = np.random.default_rng(0)
    squares = []
    for y, x in zip(observed.y, restored.x, strict=True):
        noisy = x.reshape(len(x), -1) + LEVEL * rng.standard_normal((len(x), x[0].size))
        score = posterior_score(loaded, observed.measured, y)
        squares.append(score_ksd(noisy, score).u_statistic)
    return float(np.sqrt(max(np.mean(squares), 0.0)))


def psnr(x: np.ndarray, truth: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB."""
    return float(-10 * np.log10(np.mean((x - truth) ** 2) / RANGE**2))


def judged(loaded: Loaded, observed: Observed, restored: Restored) -> dict[str, float]:
    """Return the scores of restored digits."""
    truth = observed.truth
    pixels = restored.std.reshape(-1) > OPEN
    samples = np.moveaxis(restored.x, 1, -1).reshape(-1, restored.x.shape[1])
    covered = coverage(samples[pixels, :, None], truth.reshape(-1, 1)[pixels], (0.9,))
    return {
        "nfe": restored.nfe,
        "psnr_of_mean": psnr(restored.mean, truth),
        "psnr_of_sample": psnr(restored.x, truth[:, None]),
        "chi_square": float(restored.chi_square.mean()),
        "open_pixels": float(pixels.mean()),
        "coverage": float(np.mean(covered.value)),
        "score_ksd": discrepancy(loaded, observed, restored),
    }


def compare(loaded: Loaded, truth: np.ndarray, samples: int) -> tuple[list[dict], np.ndarray]:
    """Return a row for each operator and method, and the picture; print the rows as they come."""
    codec = loaded.run.facts.codec
    rows = []
    shown = {"truth": to_uint8(truth, codec)}
    for operator in OPERATORS:
        observed = observe(loaded, operator, truth)
        shown[operator] = to_uint8(in_frame(observed.measured, observed.y), codec)
        for method in METHODS:
            restored = restore(loaded, observed.y, observed.measured.operator, STD, method, samples)
            rows.append(
                {"operator": operator, "method": method} | judged(loaded, observed, restored)
            )
            print(_line(rows[-1].values()), flush=True)
            if method == SHOWN:
                shown[f"{operator}, sample"] = to_uint8(restored.x[:, 0], codec)
                shown[f"{operator}, another"] = to_uint8(restored.x[:, 1], codec)
                shown[f"{operator}, mean"] = to_uint8(restored.mean, codec)
    return rows, labelled(shown)


def _line(values) -> str:
    """Return a row of a Markdown table."""
    cells = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Restore test digits, and write the rows and the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--workdir", type=Path, required=True, help="run directory of digits.py, conditional or not"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for rows and picture")
    parser.add_argument("--digits", type=int, default=DIGITS, help="test digits to restore")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of each digit")
    arguments = parser.parse_args()
    set_up_jax()
    loaded = load(arguments.workdir)
    arguments.out.mkdir(parents=True, exist_ok=True)
    columns = ("operator", "method", "NFE", "PSNR of the mean", "of a sample", "chi-square")
    columns = (*columns, "open pixels", "coverage of 90 %", "score-KSD")
    print(f"{_line(columns)}\n|" + "---|" * len(columns))
    rows, image = compare(loaded, test_digits(loaded, arguments.digits), arguments.samples)
    write_json(arguments.out / "restored_digits.json", rows)
    save_png(arguments.out / "restored_digits.png", image)


if __name__ == "__main__":
    main()
