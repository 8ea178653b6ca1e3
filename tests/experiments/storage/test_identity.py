"""A stored result is used again only where everything that it depends on is the same."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.data.base import DataSet, Source
from experiments.modes import likelihood
from experiments.modes.dequantise import Redraw
from experiments.modes.sample import draw_many
from experiments.run.build import make_dataset
from experiments.run.loading import load
from experiments.storage import identity
from experiments.storage.checkpoint_folder import folder_of, weights_hash
from experiments.storage.identity import code_version, data_hash
from experiments.storage.jobs import claim, read_note


class Points(DataSet):
    """Eight points, of which one number, one label, the type or the order can be changed."""

    shape, levels, num_classes, splits = (2,), None, 2, ("train", "test")

    def __init__(self, x=0.0, label=0, kind=np.float32, size=8, first=0):
        self.x = np.arange(16).reshape(8, 2).astype(kind)
        self.x[3, 1] += x
        self.labels = np.zeros(8, int)
        self.labels[5] = label
        self.rows = np.roll(np.arange(8), first)[:size]

    def source(self, split):
        rows = self.rows
        return Source(len(rows), lambda i: (self.x[rows[i]], self.labels[rows[i]]))


class OneSplitChanged(Points):
    """The same points, but for one number of one split."""

    def __init__(self, changed):
        super().__init__()
        self.changed = changed

    def source(self, split):
        return Points(x=float(split == self.changed)).source(split)


@pytest.mark.parametrize(
    "change", [{"x": 1}, {"label": 1}, {"kind": np.float64}, {"size": 7}, {"first": 1}], ids=str
)
def test_data_are_known_by_their_content(change):
    assert data_hash(Points(), "test") == data_hash(Points(), "test")
    assert data_hash(Points(**change), "test") != data_hash(Points(), "test")


def test_some_examples_stand_for_a_large_split():
    assert data_hash(Points(x=1), "test", limit=2) == data_hash(Points(), "test", limit=2)
    assert data_hash(Points(first=1), "test", limit=2) != data_hash(Points(), "test", limit=2)
    assert data_hash(Points(size=7, first=0), "test", limit=1) != data_hash(
        Points(), "test", limit=1
    )


def test_code_is_known_by_its_source(monkeypatch, tmp_path):
    """A changed line of a library, and of the modules that compute, is another version."""
    before = code_version()
    for package in ("sde_lib", "models", "samplers"):
        root = shutil.copytree(
            folder_of_package(package), tmp_path / package, ignore=shutil.ignore_patterns("*.pyc")
        )
        file = sorted(root.rglob("*.py"))[-1]
        with monkeypatch.context() as patch:
            patch.setattr(getattr(identity, package), "__file__", str(root / "__init__.py"))
            code_version.cache_clear()
            assert code_version() == before
            file.write_text(file.read_text() + "\n1\n")
            code_version.cache_clear()
            assert code_version() != before
    code_version.cache_clear()


def folder_of_package(name):
    return Path(getattr(identity, name).__file__).parent


def test_the_sources_are_those_of_libraries_data_sets_and_what_computes_here():
    files = identity._sources()
    folders = {file.parent.name for file in files if "experiments" in file.parts}
    assert folders == {"data", "run", "modes"}
    packages = {folder_of_package(name) for name in ("sde_lib", "models", "samplers")}
    assert all(any(folder in file.parents for file in files) for folder in packages)
    assert folder_of_package("sde_lib") / "guidance" / "base.py" in files


CHANGES = {
    "weights": lambda loaded: loaded._replace(weights="others"),
    "checkpoint": lambda loaded: loaded._replace(step=7),
    "process": lambda loaded: configured(loaded, "sde", beta_max=4.0),
    "network": lambda loaded: configured(loaded, "net", width=9),
    "denoiser": lambda loaded: configured(loaded, "denoiser", prediction="noise"),
    "facts": lambda loaded: configured(loaded, "facts", sd=0.1),
    "conditional": lambda loaded: configured(loaded, "train", conditional=True),
    "seed": lambda loaded: configured(loaded, "sampling", seed=3),
}


def configured(loaded, section, **settings):
    config = loaded.run.config.copy_and_resolve_references().unlock()
    config[section].update(settings)
    return loaded._replace(config=config, run=loaded.run._replace(config=config))


@pytest.fixture(scope="module")
def loaded(trained_once):
    return load(trained_once)


@pytest.mark.parametrize("change", CHANGES)
def test_samples_of_anything_else_are_not_taken_for_these(
    loaded, tmp_path, monkeypatch, capsys, change
):
    folder = tmp_path / "job"
    # what is drawn is not the point
    monkeypatch.setattr("experiments.modes.sample.draw", lambda *a: (np.full((8, 2), 1.0), 5))
    draw_many(loaded, "ddim", 8, folder)
    monkeypatch.setattr("experiments.modes.sample.draw", lambda *a: (np.full((8, 2), 2.0), 5))
    assert (draw_many(loaded, "ddim", 8, folder).x == 1).all()
    assert (draw_many(CHANGES[change](loaded), "ddim", 8, folder).x == 2).all()
    assert f"are now in {folder}.1" in capsys.readouterr().out
    with np.load(tmp_path / "job.1" / "batch_0000000.npz") as saved:
        assert (saved["x"] == 1).all()


def test_likelihoods_depend_on_data_dequantiser_and_settings_too(loaded):
    flow = Redraw(dequantiser=None, params=None, weights="a")  # pyright: ignore[reportArgumentType]
    moments = (np.zeros(2), np.ones(2))
    note = likelihood._note(loaded, Points(), 8, moments, flow)
    assert note == likelihood._note(loaded, Points(), 8, moments, flow)
    assert json.loads(json.dumps(note)) == note
    others = [
        likelihood._note(loaded, Points(x=1), 8, moments, flow),
        likelihood._note(loaded, OneSplitChanged(loaded.run.config.eval.split), 8, moments, flow),
        likelihood._note(loaded, Points(), 7, moments, flow),
        likelihood._note(loaded, Points(), 8, (np.zeros(2), np.full(2, 2.0)), flow),
        likelihood._note(loaded, Points(), 8, moments, flow._replace(weights="b")),
        likelihood._note(loaded, Points(), 8, moments, None),
        *(
            likelihood._note(change(loaded), Points(), 8, moments, flow)
            for change in CHANGES.values()
        ),
    ]
    for name, value in (("rtol", 0.5), ("probes", 9), ("trace", "gaussian"), ("bound_draws", 1)):
        other = configured(loaded, "eval", **{name: value})
        others.append(likelihood._note(other, Points(), 8, moments, flow))
    assert all(other != note for other in others)


def test_weights_are_known_by_their_checkpoint(trained, loaded, tmp_path):
    assert load(trained).weights == loaded.weights == weights_hash(folder_of(trained, 20))
    assert load(trained, 10).weights != loaded.weights
    a, b = (jax.tree.leaves(run.denoiser.net.params) for run in (load(trained), loaded))
    assert all((x == y).all() for x, y in zip(a, b, strict=True))


def test_results_without_a_note_are_of_nobody_knows_what(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "mine.txt").write_text("a file of the user alone is no result")
    claim(folder, {"a": 1})
    assert (folder / "mine.txt").exists() and read_note(folder) == {"a": 1}
    (folder / "job.json").unlink()
    (folder / "batch_0000000.npz").write_text("old")
    (folder / ".batch_0000008.npz.77").write_text("left by a kill")
    claim(folder, {"a": 1})
    assert sorted(p.name for p in (tmp_path / "job.1").iterdir()) == [
        ".batch_0000008.npz.77",
        "batch_0000000.npz",
        "mine.txt",
    ]
    (folder / ".batch_0000008.npz.77.unfinished").write_text("left by a kill")
    (folder / ".batch_notes.77").write_text("not ours")
    claim(folder, {"a": 1})
    assert sorted(p.name for p in folder.iterdir()) == [".batch_notes.77", "job.json"]


def test_the_split_that_is_measured_is_hashed_whole(trained_once):
    dataset = make_dataset(load(trained_once).config)
    assert data_hash(dataset, "test") != data_hash(dataset, "train")
