"""Guidance on handwritten digits: how often a sample shows its class, and how varied each class is.

    python -m experiments.main --config=experiments/configs/digits.py:vp,cond --workdir=runs/digits --mode=train
    python -m experiments.main --config=experiments/configs/digits_classifier.py:vp --workdir=runs/classifier --mode=train
    python -m experiments.benchmarks.guided_digits --workdir=runs/digits --classifier=runs/classifier --out=guided_digits.json

For every way to guide, with as many samples as there are training digits:

- accuracy: how often a support vector machine that was trained on real digits alone sees the class
  that was asked for. Its own accuracy on real digits, cross-validated, stands beside it.
- 1-NN: how often the nearest other image of the same class is of the same kind, sample or training
  digit, a mean over classes. 0.5: as alike as two halves of the real digits, whose number stands
  below; near 1: samples of a class are unlike its digits, as when guidance leaves a few prototypes.
- variance: that of the samples of a class around their mean, over that of its training digits.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from .. import data
from ..measures import metrics
from ..modes.sample import draw
from ..run.build import make_dataset
from ..run.devices import set_up_jax
from ..run.guidance import guided
from ..run.loading import Loaded, load
from ..storage.writing import write_json

BATCH = 260
SCALES = (1.5, 2.0, 3.0)
CLASSIFIER_SCALES = (1.0, 2.0, 4.0)
INTERVAL = (0.2, 3.0)  # noise levels sigma / alpha
FOLDS = 5


class Digits(NamedTuple):
    """Real images in raw values, with their classes."""

    x: np.ndarray  # (n, height, width, channels)
    label: np.ndarray  # (n,)


def ways(classifier: str | None) -> dict[str, dict[str, Any]]:
    """Return the sections `guidance` that are compared, by what they are called."""
    free = {"name": "ClassifierFree"}
    sections: dict[str, dict[str, Any]] = {"conditional, unguided": {}}
    sections |= {f"classifier-free, {w:g}": free | {"scale": w} for w in SCALES}
    for w in (2.0, 3.0):
        sections[f"classifier-free, {w:g} at levels {INTERVAL[0]:g} to {INTERVAL[1]:g}"] = free | {
            "scale": w,
            "interval": INTERVAL,
        }
    sections["projected, 3"] = {"name": "ProjectedGuidance", "scale": 3.0}
    if classifier is None:
        return sections
    by_classifier = {"name": "ClassifierGuidance", "classifier": classifier}
    for w in CLASSIFIER_SCALES:
        sections[f"classifier, {w:g}"] = by_classifier | {"scale": w}
    sections["conditional and classifier, 2"] = by_classifier | {"scale": 2.0, "conditional": True}
    return sections


def real_digits(loaded: Loaded) -> Digits:
    """Return the images that a run was trained on."""
    config = loaded.run.config
    dataset = make_dataset(config)
    blocks = list(data.blocks(dataset, config.train.split))
    return Digits(
        x=np.concatenate([block.x for block in blocks]),
        label=np.concatenate([block.label for block in blocks]),
    )


def judge_of(real: Digits) -> tuple[Any, metrics.Proportion]:
    """Return a classifier of real images, and its cross-validated accuracy on them."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.svm import SVC

    features = _rows(real.x)
    judge = SVC(gamma="scale", C=10.0)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    correct = cross_val_predict(judge, features, real.label, cv=folds) == real.label
    return judge.fit(features, real.label), metrics.Proportion.of(correct)


def conditional_scores(samples: Digits, real: Digits, judge: Any) -> dict[str, Any]:
    """Return how often samples show their class, and how alike each class is to real images of it.

    Of every class as many samples and real images are compared.
    """
    correct = judge.predict(_rows(samples.x)) == samples.label
    pairs = []
    for label in np.unique(real.label):
        fake = _rows(samples.x[samples.label == label])
        own = _rows(real.x[real.label == label])
        number = min(len(fake), len(own))
        pairs.append((fake[:number], own[:number]))
    ratios = [fake.var(0).sum() / own.var(0).sum() for fake, own in pairs]
    return {
        "accuracy": metrics.Proportion.of(correct)._asdict(),
        "one_nn": _mean_over_classes(pairs)._asdict(),
        "variance": float(np.mean(ratios)),
    }


def floor(real: Digits, seed: int = 0) -> dict[str, Any]:
    """Return the same scores of one half of the real images of each class against the other."""
    rng = np.random.default_rng(seed)
    pairs = []
    for label in np.unique(real.label):
        own = rng.permutation(_rows(real.x[real.label == label]))
        middle = len(own) // 2
        pairs.append((own[:middle], own[middle : 2 * middle]))
    ratios = [a.var(0).sum() / b.var(0).sum() for a, b in pairs]
    return {"one_nn": _mean_over_classes(pairs)._asdict(), "variance": float(np.mean(ratios))}


def _mean_over_classes(pairs: list[tuple[np.ndarray, np.ndarray]]) -> metrics.Proportion:
    """Return the mean nearest-neighbour accuracy of pairs of sets, with its standard error."""
    scores = [metrics.nearest_neighbour_accuracy(a, b) for a, b in pairs]
    errors = np.array([score.std_error for score in scores])
    return metrics.Proportion(
        value=float(np.mean([score.value for score in scores])),
        std_error=float(np.sqrt((errors**2).sum()) / len(scores)),
    )


def _rows(x: np.ndarray) -> np.ndarray:
    """Return images as rows (n, pixels), in float64."""
    return np.asarray(x, np.float64).reshape(len(x), -1)


def drawn(loaded: Loaded, section: dict[str, Any], number: int) -> tuple[Digits, int]:
    """Return samples of all classes in turn, guided as a section says, and their evaluations."""
    config = loaded.run.config.copy_and_resolve_references().unlock()
    config.guidance = ConfigDict(section)
    config.sampling.label = -1
    loaded = loaded._replace(config=config, run=loaded.run._replace(config=config))
    denoise = guided(loaded).denoise
    setting = config.samplers[config.sampling.sampler]
    batches = []
    for first in range(0, number, BATCH):
        batches.append(draw(loaded.run, denoise, setting, first + np.arange(BATCH)))
    x = loaded.run.facts.codec.decode(np.concatenate([batch.x for batch in batches]))[:number]
    label = np.arange(number) % loaded.run.facts.num_classes
    return Digits(x=x, label=label), batches[0].nfe


def compare_ways(loaded: Loaded, classifier: str | None) -> list[dict[str, Any]]:
    """Return one row for each way to guide, real digits last, and print each as it comes."""
    real = real_digits(loaded)
    judge, accuracy = judge_of(real)
    print("| guidance | NFE | accuracy | 1-NN in a class | variance in a class |\n|" + "---|" * 5)
    rows = []
    for name, section in ways(classifier).items():
        samples, nfe = drawn(loaded, section, len(real.x))
        rows.append({"guidance": name, "nfe": nfe} | conditional_scores(samples, real, judge))
        _print(rows[-1])
    rows.append({"guidance": "real digits", "nfe": 0, "accuracy": accuracy._asdict()} | floor(real))
    _print(rows[-1])
    return rows


def _print(row: dict[str, Any]) -> None:
    """Print a row of the table."""
    numbers = [
        f"{row[key]['value']:.3f} ± {row[key]['std_error']:.3f}" for key in ("accuracy", "one_nn")
    ]
    columns = [row["guidance"], str(row["nfe"]), *numbers, f"{row['variance']:.2f}"]
    print(f"| {' | '.join(columns)} |", flush=True)


def main() -> None:
    """Compare ways to guide a conditional run, and write the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--workdir", type=Path, required=True, help="run directory of digits.py:vp,cond"
    )
    parser.add_argument("--classifier", help="run directory of digits_classifier.py:vp")
    parser.add_argument("--out", type=Path, required=True, help="file for the rows, as JSON")
    arguments = parser.parse_args()
    set_up_jax()
    write_json(arguments.out, compare_ways(load(arguments.workdir), arguments.classifier))


if __name__ == "__main__":
    main()
