import json
from functools import wraps

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import experiments.run.walks
from experiments.data.toy import MEANS
from experiments.errors import RunError
from experiments.modes.sample import (
    SampleJob,
    draw,
    draw_many,
    draw_walk,
    sample,
)
from experiments.modes.train import train
from experiments.run.build import DataFacts, build
from experiments.run.check import check_run
from experiments.run.conditions import named_conditions
from experiments.run.devices import fitting_mesh, make_mesh
from experiments.run.loading import Loaded, load
from experiments.run.opening import FREE
from experiments.storage.parts import Part, Parts, path_of, save_part
from samplers import grids
from sde_lib import check_denoise
from tests.experiments.settings import with_settings


def changed(loaded, **settings):
    """Return a run with other settings: section__key=value."""
    config = loaded.config.copy_and_resolve_references().unlock()
    for name, value in settings.items():
        section, _, key = name.rpartition("__")
        (config[section] if section else config)[key] = value
    return with_settings(loaded, config, FREE)


@pytest.fixture(scope="module")
def loaded(trained_once):
    return load(trained_once)


def test_the_denoiser_of_a_run_keeps_to_the_contract(loaded):
    check_denoise(loaded.denoiser, loaded.sde, (3, *loaded.run.facts.shape))


@pytest.fixture(scope="module")
def expected(loaded):
    """The samples that every way of splitting the work must give."""
    run = changed(loaded, sampling__batch_size=64).run
    return {
        name: draw(run, loaded.denoiser, run.config.samplers[name], np.arange(20)).x
        for name in ("ddim", "pc", "ode")
    }


@pytest.mark.parametrize("name", ["ddim", "pc", "ode"])
@pytest.mark.parametrize("size", [8, 16])
def test_a_number_that_is_no_multiple_of_the_batch_gives_the_same_samples_at_any_batch_size(
    name, size, loaded, expected, tmp_path
):
    drawing = draw_many(changed(loaded, sampling__batch_size=size), name, 20, tmp_path / "job")
    assert drawing.x.shape == (20, 2)
    # float32, in other shapes
    np.testing.assert_allclose(drawing.x, expected[name], rtol=1e-4, atol=1e-4)
    assert len(list((tmp_path / "job").glob("batch_*.npz"))) == -(-20 // size)
    assert drawing.nfe == {"ddim": 6, "pc": 11}.get(name, drawing.nfe) and drawing.nfe > 1
    assert len(np.unique(drawing.x, axis=0)) == 20


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_the_number_of_devices_does_not_change_the_samples(devices, loaded, expected):
    run = changed(loaded, devices=devices).run
    assert jax.local_device_count() >= 4
    for name in ("ddim", "pc"):
        got = draw(run, loaded.denoiser, run.config.samplers[name], np.arange(20)).x
        np.testing.assert_allclose(got, expected[name], rtol=1e-4, atol=1e-4)


def test_a_job_goes_on_where_it_was_stopped(loaded, tmp_path, monkeypatch):
    folder = tmp_path / "job"
    whole = draw_many(loaded, "ddim", 20, folder)
    x = whole.x  # read now, not from the files of later
    files = sorted(folder.glob("batch_*.npz"))
    files[1].unlink()
    whole_files = {f: f.stat().st_mtime_ns for f in (files[0], files[2])}
    again = draw_many(loaded, "ddim", 20, folder)
    np.testing.assert_array_equal(again.x, x)
    assert {f: f.stat().st_mtime_ns for f in whole_files} == whole_files
    monkeypatch.setattr("experiments.modes.sample.draw", None)  # nothing is left to draw
    assert draw_many(loaded, "ddim", 20, folder).nfe == whole.nfe


@pytest.mark.parametrize("change", [{"sampling__seed": 1}, {"samplers__ddim": None}, {"step": 10}])
def test_batches_of_other_settings_are_not_mixed_in(change, loaded, trained_once, tmp_path):
    folder = tmp_path / "job"
    before = draw_many(loaded, "ddim", 20, folder).x
    (folder / "batch_0000016.npz").unlink()
    if "samplers__ddim" in change:
        change = {"samplers__ddim": loaded.config.samplers.ddim.copy_and_resolve_references()}
        change["samplers__ddim"].steps = 7
    other = load(trained_once, 10) if "step" in change else changed(loaded, **change)
    after = draw_many(other, "ddim", 20, folder)
    alone = draw_many(other, "ddim", 20, tmp_path / "new")
    np.testing.assert_array_equal(after.x, alone.x)
    assert (after.x != before).any(axis=1).all()
    # nothing is lost
    assert sorted(p.name for p in (tmp_path / "job.1").glob("batch_*")) == [
        "batch_0000000.npz",
        "batch_0000008.npz",
    ]


def test_sampling_leaves_its_results_in_the_run_directory(trained, capsys):
    loaded = changed(load(trained), sampling__keep=-1)
    sample(loaded, trained)
    folder = trained / "samples" / "ddim"
    with np.load(folder / "samples.npz") as saved:
        x = saved["x"]
    assert x.shape == (20, 2)
    with np.load(folder / "walk.npz") as saved:
        walk = saved["x"]
    assert walk.shape == (6, 20, 2)  # 5 steps have 6 states, the first of them noise
    np.testing.assert_array_equal(
        walk[3:],
        draw_walk(loaded.run, loaded.denoiser, loaded.config.samplers.ddim, np.arange(20), 3),
    )
    assert np.abs(walk[-1] - x).mean() < np.abs(walk[0] - x).mean()
    with Image.open(folder / "grid.png") as image, Image.open(folder / "walk.gif") as gif:
        assert image.size == (400, 400) and gif.n_frames == 6
    summary = json.loads((folder / "summary.json").read_text())
    assert (
        summary["checkpoint"] == 20
        and summary["samples"] == 20
        and summary["nfe"] == 6
        and summary["seconds"] > 0
    )
    assert str(folder / "grid.png") in capsys.readouterr().out


def test_images_are_shown_in_a_grid_of_their_raw_levels(tiny_config, tmp_path):
    """An untrained U-Net whose last layer is zero: cheap, and its samples are finite."""
    config = tiny_config()
    config.net = {
        "name": "UNet",
        "nf": 8,
        "ch_mult": (1,),
        "num_res_blocks": 1,
        "attn_resolutions": (),
    }
    config.sampling.update({"number": 3, "batch_size": 4, "keep": 2})
    config.samplers.ddim.steps = 2
    run = build(config, DataFacts((4, 4, 1), 17, 0, 0.5))
    sample(Loaded(run.sde, run.denoiser(run.split.params), run.config, run, 0), tmp_path)
    folder = tmp_path / "samples" / "ddim"
    with np.load(folder / "samples.npz") as saved:
        x = saved["x"]
    assert x.shape == (3, 4, 4, 1) and x.dtype == np.uint8 and x.max() <= 16
    with Image.open(folder / "grid.png") as image:
        # two columns, 64 times larger, white lines of 32
        assert image.size == (2 * 4 * 64 + 3 * 32,) * 2
        pixels = np.asarray(image)[..., 0]
    np.testing.assert_array_equal(
        pixels[32 + 32 :: 64][:4, 32 + 32 :: 64][:, :4], np.rint(x[0, ..., 0] * (255 / 16))
    )
    with np.load(folder / "walk.npz") as saved:
        assert saved["x"].shape == (2, 16, 4, 4, 1)


def test_a_walk_of_the_adaptive_flow_is_refused_before_anything_is_drawn(trained):
    loaded = changed(load(trained), sampling__keep=3, sampling__sampler="ode")
    with pytest.raises(
        ValueError, match="keeps no walk; choose a sampler with a grid, or sampling.keep = 0"
    ):
        sample(loaded, trained)
    assert not (trained / "samples" / "ode").exists()


def test_samples_that_are_not_finite_are_not_kept(loaded, tmp_path):
    broken = loaded._replace(denoiser=jax.tree.map(lambda a: a * np.nan, loaded.denoiser))
    with pytest.raises(RunError, match="'ddim' gave samples that are not finite, from number 0 on"):
        draw_many(broken, "ddim", 20, tmp_path / "job")
    assert not list((tmp_path / "job").glob("batch_*"))


@pytest.fixture(scope="module")
def conditional(tiny_config, tmp_path_factory):
    """A conditional run trained long enough to tell its classes apart."""
    config, workdir = tiny_config(), tmp_path_factory.mktemp("conditional") / "run"
    config.net.update({"width": 32, "depth": 2})
    config.train.update(
        {
            "steps": 400,
            "batch_size": 128,
            "conditional": True,
            "log_every": 100,
            "checkpoint_every": 400,
        }
    )
    config.train.held_out_every = 400
    config.ema = 0.98
    train(config, workdir)
    return load(workdir)


def test_a_conditional_run_draws_the_class_that_is_asked_for(conditional, tmp_path):
    np.testing.assert_array_equal(
        named_conditions(conditional.run, np.arange(10))["label"], [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]
    )
    nearest = lambda x: np.linalg.norm(x[:, None] - MEANS, axis=-1).argmin(1)  # noqa: E731
    x = draw_many(conditional, "ddim", 64, tmp_path / "all").x
    assert np.mean(nearest(x) == np.arange(64) % 8) > 0.7  # by chance 1/8
    x = draw_many(changed(conditional, sampling__label=5), "ddim", 64, tmp_path / "five").x
    assert np.mean(nearest(x) == 5) > 0.7


def test_labels_are_saved_with_conditional_samples(conditional, tmp_path):
    sample(changed(conditional, sampling__label=3), tmp_path)
    with np.load(tmp_path / "samples" / "ddim" / "samples.npz") as saved:
        np.testing.assert_array_equal(saved["label"], np.full(20, 3))


def test_devices_share_a_batch_or_say_why_not():
    assert make_mesh(6, 3).size == 3 and make_mesh(8, 4).size == 4
    # on CPU, as many of 4 as divide the batch
    assert make_mesh(6).size == 3 and make_mesh(7).size == 1
    with pytest.raises(
        ValueError,
        match="a batch of 128 cannot be shared by 3 devices; choose 126 or 129, or fewer devices",
    ):
        make_mesh(128, 3)
    with pytest.raises(
        ValueError, match=r"config.devices is 5, but JAX sees 4 \(cpu\); set --config.devices=0"
    ):
        make_mesh(5, 5)
    assert (
        fitting_mesh(297, 2).size == 1
        and fitting_mesh(9, 4).size == 3
        and fitting_mesh(128, 3).size == 2
    )


def test_training_refuses_a_batch_that_the_devices_cannot_share(tiny_config, tmp_path):
    config = tiny_config()
    config.devices = 3
    with pytest.raises(ValueError, match="a batch of 32 cannot be shared by 3 devices"):
        train(config, tmp_path / "run")
    config.devices, config.train.steps = 2, 1
    train(config, tmp_path / "run")  # nothing of the failed start is in the way


def test_a_picture_that_fails_costs_no_samples(trained, monkeypatch, capsys):
    def fails(*arguments):
        raise IndexError("no such axis")

    x = np.ones((20, 2), np.float32)
    save_part(path_of(trained, 0), Part(x=x, nfe=5, seconds=0.1))
    drawing = SampleJob(Parts(trained, number=20, size=20), 5, 0.1, 0.0)
    monkeypatch.setattr("experiments.modes.sample.draw_many", lambda *arguments: drawing)
    monkeypatch.setattr("experiments.storage.pictures.picture", fails)
    sample(load(trained), trained)
    assert "no picture of the samples (IndexError: no such axis)" in capsys.readouterr().out
    (folder,) = (trained / "samples").iterdir()
    with np.load(folder / "samples.npz") as saved:
        np.testing.assert_array_equal(saved["x"], x)
    assert json.loads((folder / "summary.json").read_text())["samples"] == 20


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("recommended", {"name": "recommended", "nfe": 6}),
        ("centred", {"name": "DDIM", "grid": "centred", "steps": 5, "end": 1e-3}),
    ],
)
def test_what_is_chosen_by_the_size_of_the_data_is_told_the_runs(
    name, setting, loaded, monkeypatch
):
    sizes = []

    def spy(original):
        @wraps(original)
        def chosen(*args, **settings):
            sizes.append(settings["sd"])
            return original(*args, **settings)

        return chosen

    monkeypatch.setattr(
        experiments.run.walks, "recommended", spy(experiments.run.walks.recommended)
    )
    monkeypatch.setattr(grids, "centred", spy(grids.centred))
    other = changed(loaded, samplers__best=ConfigDict(setting))
    run, sd = other.run, loaded.config.denoiser.sigma_data
    batch = draw(run, loaded.denoiser, ConfigDict(setting), np.arange(8))
    assert batch.nfe == 6 and sizes[0] == sd
    check_run(run)
    assert len(sizes) >= 2 and set(sizes) == {sd}
