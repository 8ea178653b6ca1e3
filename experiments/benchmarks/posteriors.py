r"""Do the samples of an inverse problem follow its posterior? Thirteen methods on exact problems.

    python -m experiments.benchmarks.posteriors --out=posteriors.json --picture=posteriors.png
    python -m experiments.benchmarks.posteriors --seed=1

The nine problems are those of `posterior_problems`: Gaussian data, mixtures and a walk with Laplace
increments, in 2, 16 and 64 dimensions, measured through a mask, a projection or a blur. The prior's
denoiser is exact, so that all error is the method's. For each problem a few measurements are drawn,
and each method draws the same number of samples for each.

The error is the sliced Wasserstein distance to exact samples of the posterior, over that of two
exact sets of the same size, as root mean squares over the measurements: 1 is perfect. Coverage is
the share of the exact posterior inside the central 50 and 90 % intervals of the samples, over all
coordinates: less than that is over-confident. "exact" walks with the denoiser of the posterior
itself, as the sampler of the other denoisers does: what is left is the error of the walk.

With --seed the problems are others of the same kinds, by which no setting was chosen.
"""

import argparse
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ..measures.calibration import interval_coverage
from ..measures.stein import noised_score_ksd, score_ksd
from ..measures.two_samples import sliced_w2
from ..run.devices import set_up_jax
from ..storage.writing import write_json
from .posterior_methods import METHODS, Task
from .posterior_problems import PosteriorProblem, kept_aside, problems

LEVELS = (0.5, 0.9)
AT_THE_FLOOR = 1.2  # distances below this many floors are not told apart
FOR_STEIN = 500  # samples of each measurement, of which all pairs are taken


class Reference(NamedTuple):
    """Exact samples of the posteriors, each (measurements, number, d)."""

    exact: np.ndarray  # what methods are compared with
    floor: float  # sliced distance of further exact samples, the mean square's root
    log_evidence: np.ndarray | None  # (measurements,), where it is known


def reference(task: Task, repeats: int = 3) -> Reference:
    """Return exact samples and how far others of the same number are from them."""
    key = jax.random.key(7)

    def drawn(salt: int) -> np.ndarray:
        keys = jax.random.split(jax.random.fold_in(key, salt), len(task.y))
        parts = [
            task.problem.draw_posterior(k, y, task.number)
            for k, y in zip(keys, task.y, strict=True)
        ]
        return np.stack(parts)

    exact = drawn(0)
    floors = [root_mean_square(sliced(exact, drawn(salt))) for salt in range(1, repeats + 1)]
    data: Any = task.problem.data
    log_evidence = None
    if hasattr(data, "posterior"):
        cov = task.problem.noise_std**2
        matrix = task.problem.matrix
        log_evidence = np.array([data.posterior(matrix, y, cov).log_evidence for y in task.y])
    return Reference(exact=exact, floor=root_mean_square(floors), log_evidence=log_evidence)


def sliced(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the sliced distance for each measurement."""
    return np.array([sliced_w2(x, y) for x, y in zip(a, b, strict=True)])


def root_mean_square(values: Any) -> float:
    """Return the root of the mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def covered(samples: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Return the shares of exact samples inside the intervals of the samples, (levels,)."""
    shares = [interval_coverage(a, b, LEVELS).value for a, b in zip(samples, exact, strict=True)]
    return np.mean(shares, 0)


def stein(task: Task, samples: np.ndarray) -> float:
    """Return the kernel Stein discrepancy of the samples, as root mean square.

    The squares are estimated without bias, so that their mean may fall below 0; then it is 0. It
    needs no exact samples.
    """
    squares = [
        score_ksd(x[:FOR_STEIN], task.problem.posterior_score(y), "median").u_statistic
        for x, y in zip(samples, task.y, strict=True)
    ]
    return root_of_mean(squares)


def noised_stein(task: Task, samples: np.ndarray) -> float | None:
    """Return the same of noised samples at several levels, where their score is known."""
    squares = []
    for x, y in zip(samples, task.y, strict=True):
        score = task.problem.noised_posterior_score(y)
        if score is None:
            return None
        squares.append(noised_score_ksd(x[:FOR_STEIN], score).u_statistic)
    return root_of_mean(squares)


def root_of_mean(squares: list[float]) -> float:
    """Return the root of the mean of squares, 0 where chance has made that negative."""
    return float(np.sqrt(max(np.mean(squares), 0.0)))


def judge(task: Task, known: Reference, name: str) -> dict | None:
    """Run a method on a problem; return its errors, or None where it cannot be run."""
    drawn = METHODS[name](task)
    if drawn is None:
        return None
    record: dict = {
        "problem": task.problem.name,
        "method": name,
        "nfe": drawn.nfe,
        "seconds": drawn.seconds,
        "finite": bool(np.all(np.isfinite(drawn.x))),
    }
    if not record["finite"]:
        return record
    record["ratio"] = root_mean_square(sliced(known.exact, drawn.x)) / known.floor
    record["distance"] = record["ratio"] * known.floor
    record["ksd"] = stein(task, drawn.x)
    record["noised_ksd"] = noised_stein(task, drawn.x)
    for level, share in zip(LEVELS, covered(drawn.x, known.exact), strict=True):
        record[f"coverage_{level:g}"] = float(share)
    if drawn.log_evidence is not None and known.log_evidence is not None:
        record["log_evidence"] = np.asarray(drawn.log_evidence).tolist()
        record["log_evidence_error"] = np.asarray(drawn.log_evidence_error).tolist()
        record["log_evidence_exact"] = known.log_evidence.tolist()
    return record


def run(
    chosen: dict[str, PosteriorProblem],
    methods: list[str],
    measurements: int,
    number: int,
    save: Callable[[list[dict]], None],
) -> list[dict]:
    """Run every method on every problem, two groups at a time; `save` what there is after each."""
    finished: dict[str, list[dict]] = {}

    def in_order() -> list[dict]:
        return [record for name in chosen for record in finished.get(name, [])]

    def on_problem(problem: PosteriorProblem) -> list[dict]:
        y = problem.draw_many(jax.random.key(3), measurements).y
        task = Task(problem=problem, y=y, number=max(2, number // problem.cost))
        known = reference(task)
        records = [judge(task, known, name) for name in methods]
        return [record for record in records if record is not None]

    def on_group(group: list[PosteriorProblem]) -> None:
        for problem in group:
            records = on_problem(problem)
            with lock:
                finished[problem.name] = records
                save(in_order())
                print(f"{as_markdown(records)}\n{evidences(records)}", flush=True)

    lock = threading.Lock()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(on_group, groups(chosen)))
    return in_order()


def groups(chosen: dict[str, PosteriorProblem]) -> list[list[PosteriorProblem]]:
    """Return the problems by cost and shape, the dearest first.

    Those of one shape run one after the other, as they share their compiled programs.
    """
    of_shape: dict[tuple, list[PosteriorProblem]] = {}
    for problem in chosen.values():
        of_shape.setdefault((problem.cost, *problem.matrix.shape), []).append(problem)
    return [of_shape[shape] for shape in sorted(of_shape, reverse=True)]


def as_markdown(records: list[dict]) -> str:
    """Return the ratios and coverages as a Markdown table, one line a method."""
    names = list(dict.fromkeys(record["problem"] for record in records))
    lines = [
        "| method | evaluations | seconds | " + " | ".join(names) + " |",
        "|---" * (3 + len(names)) + "|",
    ]
    for method in dict.fromkeys(record["method"] for record in records):
        mine = {r["problem"]: r for r in records if r["method"] == method}
        cells = [_cell(mine.get(name)) for name in names]
        seconds = np.mean([record["seconds"] for record in mine.values()])
        nfe = "/".join(str(n) for n in sorted({record["nfe"] for record in mine.values()}))
        lines.append(f"| {method} | {nfe} | {seconds:.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(record: dict | None) -> str:
    """Return the ratio and the two coverages of one method on one problem."""
    if record is None:
        return ""
    if not record["finite"]:
        return "not finite"
    coverages = ", ".join(f"{100 * record[f'coverage_{level:g}']:.0f}" for level in LEVELS)
    return f"{record['ratio']:.3g} ({coverages})"


def evidences(records: list[dict]) -> str:
    """Return how far log-evidences are from the exact ones, in their reported standard errors."""
    lines = []
    for record in records:
        if "log_evidence" not in record:
            continue
        rows = zip(
            record["log_evidence"],
            record["log_evidence_error"],
            record["log_evidence_exact"],
            strict=True,
        )
        texts = [f"{got:.3f} ± {error:.3f} ({exact:.3f})" for got, error, exact in rows]
        lines.append(f"{record['problem']}: " + "; ".join(texts))
    return "\n".join(lines)


def agreement(records: list[dict]) -> str:
    """Return how discrepancies rank the methods, beside the distance: Spearman's rho.

    For each problem that of clean samples, then that of noised ones. Distances of methods at the
    floor count as equal: their order is chance.
    """
    from scipy.stats import spearmanr

    lines = []
    for name in dict.fromkeys(record["problem"] for record in records):
        mine = [r for r in records if r["problem"] == name and r["finite"]]
        distances = [max(r["ratio"], AT_THE_FLOOR) for r in mine]
        values = [[r[which] for r in mine] for which in ("ksd", "noised_ksd")]
        rhos = [
            f"{spearmanr(distances, value).statistic:.2f}" for value in values if None not in value
        ]
        lines.append(f"{name}: {', '.join(rhos)}")
    return "; ".join(lines)


def save_picture(path: Path, records: list[dict]) -> None:
    """Draw the ratios of every method, and how its 90 % intervals cover, one point a problem."""
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(record["method"] for record in records))
    names = list(dict.fromkeys(record["problem"] for record in records))
    figure = Figure(figsize=(11, 0.42 * len(methods) + 1.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for number, name in enumerate(names):
        mine = [r for r in records if r["problem"] == name and r["finite"]]
        places = [methods.index(r["method"]) + 0.06 * (number - len(names) / 2) for r in mine]
        left.plot([r["ratio"] for r in mine], places, "o", ms=5, label=name)
        right.plot([100 * r["coverage_0.9"] for r in mine], places, "o", ms=5)
    left.axvline(1, color="0.6", lw=1)
    right.axvline(90, color="0.6", lw=1)
    left.set(xscale="log", xlabel="sliced Wasserstein distance to the posterior, over its floor")
    right.set(xlabel="posterior inside of 90 % intervals, %", xlim=(-2, 102))
    left.set_yticks(range(len(methods)), methods)
    left.invert_yaxis()
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8
    )
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, help="other problems of the same kinds")
    parser.add_argument("--measurements", type=int, default=2, help="of each problem")
    parser.add_argument(
        "--number",
        type=int,
        default=1000,
        help="samples for each measurement; a quarter of the walk",
    )
    parser.add_argument("--problems", nargs="+", help="those whose names contain one of these")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="only these")
    parser.add_argument("--out", help="where every number goes, as JSON")
    parser.add_argument("--picture", help="where the picture goes, as PNG")
    arguments = parser.parse_args()
    set_up_jax()
    chosen = problems() if arguments.seed is None else kept_aside(arguments.seed)
    if arguments.problems:
        chosen = {n: p for n, p in chosen.items() if any(w in n for w in arguments.problems)}
        if not chosen:
            parser.error(f"no problem has {' or '.join(arguments.problems)} in its name")
    methods = arguments.methods or list(METHODS)

    def save(records: list[dict]) -> None:
        if arguments.out:
            write_json(Path(arguments.out), records)
        if arguments.picture:
            save_picture(Path(arguments.picture), records)

    records = run(chosen, methods, arguments.measurements, arguments.number, save)
    print(f"\n{as_markdown(records)}\n\nLog-evidences (exact):\n{evidences(records)}")
    print(f"\nSpearman's rho of distance and discrepancy, clean, noised: {agreement(records)}")


if __name__ == "__main__":
    main()
