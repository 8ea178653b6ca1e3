"""A converted checkpoint is a run like any other: it is loaded, sampled from with the published
settings, and exported.
"""

import json
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

import experiments
import models
from experiments.command.parse import parse
from experiments.command.resolve import resolve
from experiments.configs import files
from experiments.configs.toy import get_config
from experiments.convert import FORMATS, Converted, convert, write_run
from experiments.convert.__main__ import main
from experiments.errors import RunError
from experiments.modes.sample import sample
from experiments.modes.train import train
from experiments.run.build import Run, make_dataset
from experiments.run.check import check_data
from experiments.run.walks import make_walk
from tests.experiments.settings import with_settings
from tests.models.networks import filled


@pytest.fixture(scope="module")
def workdir(networks, tmp_path_factory):
    """A run directory of a small NCSN++, made by the command."""
    made = tmp_path_factory.mktemp("converted") / "run"
    name = networks / "ncsnpp_ve_cifar"
    flags = [
        f"--from={name}.npz",
        "--format=score_sde_pytorch",
        f"--config={name}.config.json",
        f"--workdir={made}",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["convert", *flags])
        patch.setattr("experiments.convert.__main__.set_up_jax", lambda: None)
        main()
    return made


def test_a_run_is_opened_with_one_call(workdir, networks):
    loaded = experiments.load(workdir)
    assert isinstance(loaded.run, Run) and loaded.step == 0
    assert loaded.sde.sigma_max == 100.0 and loaded.config.denoiser.inputs == "unit_sigma"
    with np.load(networks / "ncsnpp_ve_cifar.npz") as file:
        there = {k: file[k] for k in ("x", "t", "y_f64")}
    y = jax.jit(lambda x, t: loaded.denoiser.net(x, t, None))(
        jnp.asarray(there["x"].transpose(0, 2, 3, 1)), jnp.asarray(there["t"])
    )
    error = np.abs(np.asarray(y).transpose(0, 3, 1, 2) - there["y_f64"]).reshape(4, -1).max(1)
    assert (error / np.abs(there["y_f64"]).reshape(4, -1).max(1)).max() < 6e-5
    # the denoiser of data in [-1, 1] sees the network of [0, 1]: at time t, sigma is twice the
    # network's
    t = float(np.log(0.37 / 0.01) / np.log(50 / 0.01))
    x = jnp.asarray(there["x"].transpose(0, 2, 3, 1)[1:2])
    noise = jax.jit(lambda x: loaded.denoiser(x, t).noise)(2 * x - 1)
    want = -0.37 * there["y_f64"].transpose(0, 2, 3, 1)[1:2]
    np.testing.assert_allclose(noise, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


def test_samples_are_drawn_with_the_published_sampler(workdir, tmp_path):
    run = shutil.copytree(workdir, tmp_path / "run")
    loaded = experiments.load(run)
    published = loaded.config.samplers.published
    assert published.predictor.name == "ReverseDiffusion" and published.corrector.to_dict() == {
        "name": "Langevin", "snr": 0.16, "n_steps": 1, "norms": "batch",
    }  # fmt: skip
    walk, times = make_walk(published, loaded.sde)
    assert len(times) == 1001 and times[-1] == 1e-5
    config = loaded.config.copy_and_resolve_references().unlock()
    config.samplers.published.steps = 2
    config.sampling.update({"number": 2, "batch_size": 2})
    sample(with_settings(loaded, config, ("samplers", "sampling")), run)
    with np.load(run / "samples" / "published" / "samples.npz") as file:
        assert file["x"].shape == (2, 16, 16, 3) and file["x"].dtype == np.uint8


def test_a_converted_run_is_told_its_data_on_the_command_line(workdir, tmp_path):
    for size in (16, 8):
        np.save(
            tmp_path / f"{size}.npy",
            np.random.default_rng(0).integers(0, 256, (20, size, size, 3), np.uint8),
        )

    def resolved(*flags):
        given = ("--mode=likelihood", f"--workdir={workdir}", "--config.eval.split=validation")
        return resolve(parse([*given, *flags]), converted=True)

    run = experiments.load(workdir).run
    with pytest.raises(ValueError, match="Files needs a value for path"):
        make_dataset(resolved().config)
    file = f"--config={files.__file__}:ve"
    for flags in (["--config.data.image_size=None"], [file]):
        config, _, other = resolved(*flags, f"--config.data.path={tmp_path}/16.npy")
        assert other
        for section in ("sde", "net", "denoiser"):
            assert config[section].to_json() == run.config[section].to_json()
        check_data(run._replace(config=config), make_dataset(config), other=other)
    config, _, other = resolved(file, f"--config.data.path={tmp_path}/8.npy")
    with pytest.raises(
        RunError, match=r"takes data of shape \(16, 16, 3\), those of --config have \(8, 8, 3\)"
    ):
        check_data(run._replace(config=config), make_dataset(config), other=other)


def test_a_run_is_not_overwritten_and_what_is_wrong_is_said(workdir, networks, tmp_path):
    source, config = networks / "ddpm.npz", str(networks / "ddpm.config.json")
    for arguments, message in [
        ((source, "score_sde_pytorch", workdir, config), "already holds a run"),
        ((source, "pytorch", tmp_path, config), "unknown format 'pytorch'; choose one of"),
        ((tmp_path / "none.pth", "score_sde_pytorch", tmp_path, config), "there is no file"),
        (
            (source, "score_sde_pytorch", tmp_path, None),
            "name the network's configuration with --config",
        ),
        ((source, "score_sde_pytorch", tmp_path, "none.py"), "no configuration file none.py"),
    ]:
        with pytest.raises(RunError, match=message):
            convert(*arguments)
    assert set(FORMATS) >= {"score_sde_pytorch", "score_sde", "diffusers"}
    assert json.loads((workdir / "config.json").read_text())["net"]["centered"] is False


@pytest.mark.filterwarnings("ignore:config")  # the moons are not of unit standard deviation
@pytest.mark.parametrize("dropout, moves", [(0.0, False), (0.5, True)])
def test_training_goes_on_where_nothing_is_known_of_no_label(dropout, moves, tmp_path):
    """From the mean of the labels instead of NaN; dropping labels trains it."""
    config = get_config("moons,ve")
    config.net = {"name": "MLP", "width": 8, "depth": 1}
    config.facts = {"shape": (2,), "levels": None, "num_classes": 2, "sd": 1.0}
    config.denoiser.sigma_data = 1.0
    config.train.update(
        {
            "steps": 1,
            "batch_size": 16,
            "held_out": "",
            "conditional": True,
            "label_dropout": dropout,
        }
    )
    config.optim.update({"lr": 1e-3, "warmup": 0})
    params = filled(
        models.split(models.MLP((2,), width=8, depth=1, num_classes=2, rngs=nnx.Rngs(0))).params
    )
    rows = params["conditioning"]["label"]["embedding"]
    params["conditioning"]["label"]["embedding"] = rows.at[-1].set(jnp.nan)
    write_run(Converted(config, params, params, 0), tmp_path / "run")
    train(config, tmp_path / "run")
    after = experiments.load(tmp_path / "run").denoiser.net.params["conditioning"]["label"][
        "embedding"
    ]
    # the first step of Adam moves by the learning rate, the average by 9 / 11 of that
    np.testing.assert_allclose(
        abs(after[-1] - rows[:-1].mean(0)), moves * 9 / 11 * 1e-3, rtol=0.05, atol=1e-6
    )
    assert np.isfinite(after).all() and not np.array_equal(after[:-1], rows[:-1])


@pytest.mark.filterwarnings("ignore:config")  # the moons are not of unit standard deviation
def test_training_goes_on_from_a_converted_checkpoint(tmp_path):
    """Weights, average and step are those of the checkpoint; data and optimizer are the user's; the
    network is not.
    """
    config = get_config("moons,ve")
    config.net = {"name": "MLP", "width": 8, "depth": 1}
    config.facts = {"shape": (2,), "levels": None, "num_classes": 2, "sd": 1.0}
    config.denoiser.sigma_data = 1.0
    params = models.split(models.MLP((2,), width=8, depth=1, rngs=nnx.Rngs(0))).params
    average = jax.tree.map(lambda p: p + 1, params)
    write_run(Converted(config, params, average, 5), tmp_path / "run")

    def changed(**sections):
        own = ConfigDict(config).copy_and_resolve_references()
        own.train.update({"steps": 6, "batch_size": 16, "held_out": "", "checkpoint_every": 10})
        own.optim.update({"lr": 1e-9, "warmup": 0})
        for section, values in sections.items():
            own[section].update(values)
        return own

    with pytest.raises(RunError, match=r"another configuration \(config.net.width was 8, now 16\)"):
        train(changed(net={"width": 16}), tmp_path / "run")
    with pytest.raises(RunError, match=r"config.sde.sigma_max was 100.0, now 50.0"):
        train(changed(sde={"sigma_max": 50.0}), tmp_path / "run")
    assert experiments.load(tmp_path / "run").step == 5
    train(changed(), tmp_path / "run")
    trained = experiments.load(tmp_path / "run")
    assert trained.step == 6
    warm = (1 + 6) / (10 + 6)  # the average's rate after the sixth step
    for (path, got), p in zip(
        jax.tree_util.tree_leaves_with_path(trained.denoiser.net.params),
        jax.tree.leaves(params),
        strict=True,
    ):
        np.testing.assert_allclose(
            got, p + warm, rtol=1e-5, atol=1e-6, err_msg=jax.tree_util.keystr(path)
        )
    with pytest.raises(
        RunError, match="config.train.batch_size was 16, now 32"
    ):  # an ordinary run from then on
        train(changed(train={"batch_size": 32}), tmp_path / "run")
