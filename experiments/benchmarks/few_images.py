"""What few training images do to a model, and what augmentation does about it.

    python -m experiments.benchmarks.few_images --out=few_images            # digits
    python -m experiments.benchmarks.few_images --out=few_fashion --data=FashionMNIST

A small U-Net is trained on the first 100, 300 and 1000 images of a random order of the training
split, once for each seed, which decides the order of the images and everything else. Three ways:

- none: on the images as they are;
- told: augmented in each step, the network told how (`config.train.augment`);
- untold: on copies that were augmented beforehand, of which the network is told nothing; for the
  largest number of images only, to see what a leak looks like.

The number of steps is the same for all. For each model:

- bits/dim of held-out images, by the probability flow, and the variational bound;
- memorised: the share of samples whose nearest training image is less than a third as far as the
  second nearest (`measures.images.memorisation`). The share among held-out images stands beside it;
- looks augmented: the share of samples that a classifier of augmentation calls so, beside its floor
  and its ceiling on real images (`augmentation_judge`), and for the model that was told, the share
  among samples that were asked for with an augmentation.

Every model's row is written to `OUT/rows` as it comes, and found there by a second start; the table,
`few_images.json` and `few_images.png` are made of all rows that are there. An error is the standard
error over seeds.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from samplers import draw_prior

from .. import data
from ..configs import digits, fashion_mnist
from ..data.base import Source, check_split
from ..measures.images import nearest_training
from ..modes.likelihood import measure_likelihood
from ..modes.sample import draw
from ..run.augmentation import AUGMENTATION
from ..run.build import DataFacts, Run, build, make_dataset, with_parameters
from ..run.devices import set_up_jax
from ..run.loading import Loaded
from ..run.losses import make_loss
from ..run.walks import make_walk
from ..state import init_state, make_train_step
from ..storage.writing import write_json
from .augmentation_judge import (
    PROBABILITY,
    Judge,
    augmented_copies,
    random_augmentations,
    train_judge,
)

CONFIGS = {"Digits": digits, "FashionMNIST": fashion_mnist}
METHODS = ("none", "told", "untold")
COLOURS = {"none": "#444444", "told": "#1f4e9c", "untold": "#b5482a"}
COPIES = 20  # of each image, for a network that is not told
SAMPLER = {"name": "recommended", "nfe": 20}


class Sizes(NamedTuple):
    """How large the experiment is."""

    images: tuple[int, ...] = (100, 300, 1000)
    seeds: int = 3
    steps: int = 1000
    batch_size: int = 64
    samples: int = 500
    held_out: int = 200
    judged: int = 1300  # training images that the judge learns from


TINY = Sizes(
    images=(20, 40), seeds=2, steps=4, batch_size=8, samples=16, held_out=8, judged=40
)  # for a test


class Images(data.DataSet):
    """Images in memory as a data set: "train", and "held_out"."""

    splits = ("train", "held_out")
    num_classes = 0

    def __init__(self, train: np.ndarray, held_out: np.ndarray, levels: int):
        self.shape = train.shape[1:]
        self.levels = levels
        self._images = {"train": train, "held_out": held_out}

    def source(self, split: str) -> Source:
        check_split(split, self.splits)
        images = self._images[split]
        return Source(len(images), lambda index: (images[index], 0))


class Experiment(NamedTuple):
    """What all models have in common."""

    sizes: Sizes
    pool: np.ndarray  # raw training images (n, height, width, channels)
    held_out: np.ndarray
    judge: Judge
    runs: dict[bool, Run]  # by whether the network is told
    steps: dict[bool, Any]  # compiled training steps, likewise


def prepare(name: str, sizes: Sizes) -> Experiment:
    """Return the experiment on the data set of a name."""
    dataset = make_dataset(CONFIGS[name].get_config("vp"))
    pool = _raw(dataset, "train", None)
    held_out = _raw(dataset, "validation", sizes.held_out)
    codec = dataset.codec
    sd = float(np.std(codec.expected(pool[:2000])))
    facts = DataFacts(dataset.shape, dataset.levels, 0, sd)
    runs = {told: build(_config(name, sizes, told), facts, abstract=True) for told in (False, True)}
    order = np.random.default_rng(0).permutation(len(pool))[: sizes.judged]
    return Experiment(
        sizes=sizes,
        pool=pool,
        held_out=held_out,
        judge=train_judge(pool[order], held_out, codec),
        runs=runs,
        steps={
            told: make_train_step(make_loss(run), run.tx, run.config.ema)
            for told, run in runs.items()
        },
    )


def _raw(dataset: data.DataSet, split: str, limit: int | None) -> np.ndarray:
    """Return the raw images of a split, or its first `limit` ones."""
    rows = np.arange(len(dataset.source(split)))[:limit]
    return np.concatenate([block.x for block in data.blocks(dataset, split, rows)])


def _config(name: str, sizes: Sizes, told: bool) -> ConfigDict:
    """Return the configuration of a small network, told of augmentations or not."""
    config = CONFIGS[name].get_config("vp")
    config.facts = {}
    config.net.nf = 16
    config.ema = 0.995
    warmup = min(50, sizes.steps // 4)
    config.optim.update({"lr": 2e-3, "warmup": warmup, "decay_steps": sizes.steps})
    config.train.update({"batch_size": sizes.batch_size, "augment": PROBABILITY if told else 0.0})
    config.eval.update(
        {
            "split": "held_out",
            "batch_size": sizes.held_out,
            "probes": 1,
            "rtol": 3e-3,
            "bound_draws": 32,
        }
    )
    config.devices = 1
    return config


def measure(experiment: Experiment, images: int, method: str, seed: int) -> dict[str, Any]:
    """Train one model, and return its row."""
    start = time.perf_counter()
    order = np.random.default_rng([1, seed]).permutation(len(experiment.pool))[:images]
    subset = experiment.pool[order]
    run = experiment.runs[method == "told"]
    run = run._replace(config=_seeded(run.config, seed))
    codec = run.facts.codec
    train = subset
    if method == "untold":
        train = augmented_copies(subset, codec, copies=COPIES, seed=seed, only=False)
    assert run.facts.levels is not None
    dataset = Images(train, experiment.held_out, run.facts.levels)
    loaded, loss = _trained(experiment, run, dataset, seed)
    likelihood = measure_likelihood(loaded, dataset)
    samples = _samples(loaded, experiment.sizes.samples)
    memorised = nearest_training(codec.expected(samples), codec.expected(subset))
    floor = nearest_training(codec.expected(experiment.held_out), codec.expected(subset))
    row = {
        "images": images,
        "method": method,
        "seed": seed,
        "train_loss": loss,
        "bits_per_dim": likelihood["bits_per_dim"],
        "refinement": likelihood["refinement"],
        "bound": likelihood["bound"],
        "memorised": memorised.share(),
        "memorised_of_held_out": floor.share(),
        "median_ratio": float(np.median(memorised.ratio)),
        "median_ratio_of_held_out": float(np.median(floor.ratio)),
        "looks_augmented": experiment.judge.share(samples).value,
    }
    if method == "told":
        asked = _asked(loaded, experiment.sizes.samples)
        row["looks_augmented_when_asked"] = experiment.judge.share(asked).value
    return row | {"seconds": time.perf_counter() - start}


def _seeded(config: ConfigDict, seed: int) -> ConfigDict:
    """Return a configuration with another seed."""
    config = ConfigDict(config).unlock()
    config.seed = seed
    return config


def _trained(
    experiment: Experiment, run: Run, dataset: data.DataSet, seed: int
) -> tuple[Loaded, float]:
    """Return a trained model with its averaged weights, and the mean loss of the last tenth."""
    sizes = experiment.sizes
    step = experiment.steps[bool(run.config.train.augment)]
    stream = data.batches(dataset, "train", sizes.batch_size, seed=seed, train=True)
    params = with_parameters(run).split.params
    state = init_state(jax.random.key(seed), params, run.tx)
    losses = []
    for _ in range(sizes.steps):
        state, metrics = step(state, next(stream))
        losses.append(metrics.loss)
    last = losses[-max(sizes.steps // 10, 1) :]
    loaded = Loaded(run.sde, run.denoiser(state.ema), run.config, run, sizes.steps)
    return loaded, float(np.mean(jax.device_get(last)))


def _samples(loaded: Loaded, number: int) -> np.ndarray:
    """Return samples in raw values."""
    x, _ = draw(loaded.run, loaded.denoiser, ConfigDict(SAMPLER), np.arange(number))
    return loaded.run.facts.codec.decode(x)


def _asked(loaded: Loaded, number: int) -> np.ndarray:
    """Return samples, in raw values, of a network that is told of augmentations."""
    run = loaded.run
    key = jax.random.key(run.config.sampling.seed)
    x = draw_prior(key, run.sde, (number, *run.facts.shape))
    walk = make_walk(ConfigDict(SAMPLER), run.sde, run.config.denoiser.sigma_data)
    cond = {AUGMENTATION: random_augmentations(number, seed=3)}
    return run.facts.codec.decode(walk(key, loaded.denoiser, run.sde, x, cond=cond).x)


def rows_as_they_come(experiment: Experiment, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the row of every model, from its file where there is one."""
    for seed in range(experiment.sizes.seeds):
        for images in experiment.sizes.images:
            methods = METHODS if images == max(experiment.sizes.images) else METHODS[:2]
            for method in methods:
                path = folder / f"{images}_{method}_{seed}.json"
                if not path.exists():
                    write_json(path, measure(experiment, images, method, seed))
                yield json.loads(path.read_text())


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for every number of images and method the mean over seeds of each number.

    Beside the mean stands its standard error, and beside the bits of an augmented model their
    difference to the model without augmentation, on the same images.
    """
    summary = []
    for images in sorted({row["images"] for row in rows}):
        for method in METHODS:
            own = [row for row in rows if (row["images"], row["method"]) == (images, method)]
            if not own:
                continue
            names = [name for name in own[0] if name not in ("images", "method", "seed")]
            entry = {"images": images, "method": method, "seeds": len(own)}
            entry |= {name: mean_and_error([row[name] for row in own]) for name in names}
            entry["gain"] = mean_and_error(_gains(rows, own))
            summary.append(entry)
    return summary


def _gains(rows: list[dict[str, Any]], own: list[dict[str, Any]]) -> list[float]:
    """Return by how many bits/dim models are better than those without augmentation."""
    plain = {
        (row["images"], row["seed"]): row["bits_per_dim"] for row in rows if row["method"] == "none"
    }
    places = [(row["images"], row["seed"]) for row in own]
    return [
        plain[place] - row["bits_per_dim"]
        for place, row in zip(places, own, strict=True)
        if place in plain
    ]


def mean_and_error(values: list[float]) -> dict[str, float]:
    """Return the mean of some numbers and its standard error, NaN for fewer than two."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return {"value": float(np.mean(values)) if values else np.nan, "std_error": float(error)}


COLUMNS = {
    "bits_per_dim": "bits/dim",
    "gain": "better by",
    "bound": "bound",
    "memorised": "memorised",
    "memorised_of_held_out": "of held-out images",
    "looks_augmented": "looks augmented",
    "looks_augmented_when_asked": "when asked for",
}


def table(summary: list[dict[str, Any]]) -> str:
    """Return the summary as a Markdown table."""
    lines = [f"| images | augmentation | {' | '.join(COLUMNS.values())} |"]
    lines.append("|---|---|" + "---|" * len(COLUMNS))
    for entry in summary:
        cells = [_cell(entry[name]) if name in entry else "" for name in COLUMNS]
        lines.append(f"| {entry['images']} | {entry['method']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(number: dict[str, float]) -> str:
    return f"{number['value']:.3f} ± {number['std_error']:.3f}"


def picture(summary: list[dict[str, Any]], judge: Judge) -> Figure:
    """Draw the three curves against the number of training images."""
    figure = Figure(figsize=(11, 3.4), dpi=110, layout="constrained")
    panels = {
        "bits_per_dim": "bits/dim of held-out images",
        "memorised": "samples memorised",
        "looks_augmented": "samples that look augmented",
    }
    for axes, (name, title) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for method in METHODS:
            own = [entry for entry in summary if entry["method"] == method]
            axes.errorbar(
                [entry["images"] for entry in own],
                [entry[name]["value"] for entry in own],
                [entry[name]["std_error"] for entry in own],
                color=COLOURS[method],
                marker="o",
                capsize=3,
                label=f"augmentation: {method}",
            )
        axes.set(xscale="log", xlabel="training images", title=title)
    _, memorised, augmented = figure.axes
    plain = [entry for entry in summary if entry["method"] == "none"]
    memorised.plot(
        [entry["images"] for entry in plain],
        [entry["memorised_of_held_out"]["value"] for entry in plain],
        color="grey",
        linestyle=":",
        label="held-out images",
    )
    for value, label in ((judge.floor.value, "real"), (judge.ceiling.value, "real, augmented")):
        augmented.axhline(value, color="grey", linestyle=":")
        augmented.annotate(label, (0.02, value), xycoords=("axes fraction", "data"), va="bottom")
    memorised.legend(fontsize=8)
    return figure


def main() -> None:
    """Train and measure all models, and write rows, table and picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for rows and picture")
    parser.add_argument("--data", choices=CONFIGS, default="Digits", help="the data set")
    parser.add_argument("--seeds", type=int, default=Sizes().seeds, help="models of each kind")
    parser.add_argument("--steps", type=int, default=Sizes().steps, help="updates of each model")
    parser.add_argument("--tiny", action="store_true", help="a minute, to see that it runs")
    arguments = parser.parse_args()
    set_up_jax()
    sizes = Sizes(seeds=arguments.seeds, steps=arguments.steps)
    run(arguments.data, TINY if arguments.tiny else sizes, arguments.out)


def run(name: str, sizes: Sizes, out: Path) -> list[dict[str, Any]]:
    """Make all rows of an experiment, and write what they come to after each; return it."""
    experiment = prepare(name, sizes)
    judge = experiment.judge
    rows: list[dict[str, Any]] = []
    summary: list[dict[str, Any]] = []
    for row in rows_as_they_come(experiment, out / "rows"):
        rows.append(row)
        summary = summarise(rows)
        write_json(
            out / "few_images.json",
            {
                "data": name,
                "sizes": sizes._asdict(),
                "floor": judge.floor._asdict(),
                "ceiling": judge.ceiling._asdict(),
                "summary": summary,
            },
        )
        print({key: row[key] for key in ("images", "method", "seed", "bits_per_dim")}, flush=True)
    picture(summary, judge).savefig(out / "few_images.png")
    print(table(summary))
    print(f"of real images look augmented: {judge.floor.value:.3f} ± {judge.floor.std_error:.3f};")
    print(f"under augmentations: {judge.ceiling.value:.3f} ± {judge.ceiling.std_error:.3f}")
    return summary


if __name__ == "__main__":
    main()
