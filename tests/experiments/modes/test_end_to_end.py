"""Every process that a configuration can name, with a network and the default settings, through
every mode.

Here right answers are known although networks are trained: both networks begin with an output of
nought, which under the default prediction is the denoiser of N(0, s^2), s the standard deviation of
the data, and training takes steps that are too small to matter. So samples have the standard
deviation s, and the likelihood of an example is that of N(0, s^2).
"""

import inspect
import json
import math
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_lib
from experiments import data
from experiments.configs import files, toy
from experiments.configs.common import SDES
from experiments.modes.dequantise import dequantise
from experiments.modes.diagnose import diagnose
from experiments.modes.evaluate import evaluate
from experiments.modes.fit import fit, with_fits
from experiments.modes.likelihood import likelihood
from experiments.modes.sample import sample
from experiments.modes.train import train
from experiments.run.build import make_dataset
from experiments.run.loading import load
from experiments.run.walks import GridWalk, make_walk
from samplers import draw_prior

MODES = {f.__name__: f for f in (sample, evaluate, likelihood, diagnose, dequantise, fit)}
# Public processes that no variant names, and that need more than a name.
OTHERS = {
    "Discrete": {"name": "Discrete", "sde": {"name": "VP"}, "n": 100},
}
NUMBER = 256  # samples of each sampler


def processes():
    """Return the sections of all processes by name: the variants, and every public process that
    none of them names.
    """
    processes = dict(SDES)
    for name, kind in sorted(vars(sde_lib).items()):
        if not (inspect.isclass(kind) and issubclass(kind, sde_lib.SDE)):
            continue
        named = {section["name"] for section in processes.values()}
        if not inspect.isabstract(kind) and name not in named:
            processes[name] = OTHERS.get(name, {"name": name})
    return processes


@pytest.fixture(scope="module", autouse=True)
def programs_that_compile_fast():
    """Everything here runs once, on next to nothing."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A file of 96 grey pictures of 4 x 4 pixels, 256 levels, around the middle."""
    path = tmp_path_factory.mktemp("data") / "pictures.npy"
    levels = np.random.default_rng(0).normal(127.5, 40, (96, 4, 4, 1)).clip(0, 255)
    np.save(path, levels.round().astype(np.uint8))
    return path


def small(config, sde):
    """Make the work small; of the samplers, nothing is changed."""
    config.sde = sde
    config.devices = 1
    config.optim.update({"lr": 1e-7, "warmup": 0, "decay_steps": 0})
    config.train.update({"steps": 4, "batch_size": 16, "log_every": 2, "held_out_every": 4})
    config.train.update({"sample_every": 0, "flip": False})
    config.eval.update({"split": "validation", "batch_size": 32, "bound_draws": 8})
    config.eval.number = NUMBER
    config.sampling.update({"number": NUMBER, "batch_size": NUMBER})
    config.fit.update({"nfe": 3, "noises": 4, "updates": 2})
    config.dequantise.update({"steps": 2, "batch_size": 16, "width": 4, "layers": 2})
    return config


def vectors(sde):
    config = toy.get_config("mixture")
    config.data.size = 200
    config.net.update({"width": 8, "depth": 1})
    return small(config, sde)


def images(sde, path):
    config = files.get_config()
    config.data.path = str(path)
    config.data.validation = 0.3
    config.net.update({"nf": 8, "ch_mult": (1,), "num_res_blocks": 1, "attn_resolutions": ()})
    return small(config, sde)


def trained(config, workdir):
    """Train in two parts; that the end is bitwise that of one is tested in test_resume.py."""
    for steps in (2, 4):
        config.train.steps = steps
        train(config, workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4] and "held_out/loss" in lines[-1]
    assert all(np.isfinite(value) for line in lines for value in line.values())
    return load(workdir)


def with_config(loaded, **sections):
    """Return a loaded run with other settings, as a command line gives them."""
    config = loaded.run.config.copy_and_resolve_references().unlock()
    for section, values in sections.items():
        config[section].update(values)
    return loaded._replace(config=config, run=loaded.run._replace(config=config))


def run(mode, loaded, workdir, capsys):
    """Run a mode; it says last which command comes next, and the model card comes back."""
    capsys.readouterr()
    (workdir / "card.md").unlink()
    result = MODES[mode](loaded, workdir)
    assert "cannot be read" not in (workdir / "card.md").read_text()
    word, *command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert word == "next:" and command[:3] == ["python", "-m", "experiments.main"]
    assert command[3] == f"--workdir={workdir}" and command[4].removeprefix("--mode=") in MODES
    return result


def check_samples(loaded, name, workdir):
    """Check samples against N(0, s^2).

    Deterministic walks carry each noise along a straight line, so each sample is known; of the
    default ones DDIM, with 50 steps of first order, is the farthest, by 5 % at most. Of others the
    spread is known: 5 standard errors of its estimate, a false alarm in 2 million, and 3 % for
    finite steps.
    """
    facts, config = loaded.run.facts, loaded.run.config
    x = np.load(workdir / "samples" / name / "samples.npz")["x"]
    assert x.shape == (NUMBER, *facts.shape) and np.isfinite(x).all(), name
    model = x if facts.levels is None else (x + 0.5) * (2 / facts.levels) - 1
    walk = make_walk(config.samplers[name], loaded.sde, facts.sd)
    if isinstance(walk, GridWalk) and walk.sampler.stochastic:
        error = 5 / math.sqrt(2 * model.size)
        assert abs(model.std() / facts.sd - 1) < error + 0.03, name
        return
    key, index = jax.random.key(config.sampling.seed), jnp.arange(NUMBER)
    start = np.asarray(draw_prior(key, loaded.sde, x.shape, index))
    alpha, sigma = (float(v) for v in loaded.sde.marginal(np.float32(1)))
    expected = facts.sd / math.hypot(sigma, alpha * facts.sd) * start
    rounding = 0 if facts.levels is None else 1 / facts.levels
    distance = np.sqrt(np.mean((model - expected) ** 2))
    assert distance < 0.06 * facts.sd + rounding, f"{name}: {distance / facts.sd}"


def check_likelihood(loaded, workdir, facts):
    """Check each example against the density of N(0, s^2) at what it was dequantised to."""
    config = loaded.run.config
    values = np.load(workdir / "likelihood" / config.eval.split / "values.npz")
    stream = data.batches(
        make_dataset(config), config.eval.split, 1000, seed=config.seed, train=False
    )
    x = np.asarray(next(stream)["x"], np.float64).reshape(len(values["bits_per_dim"]), -1)
    nats = 0.5 * (x / facts.sd) ** 2 + math.log(facts.sd) + 0.5 * math.log(2 * math.pi)
    bits = nats.mean(1) / math.log(2) + (math.log2(facts.levels / 2) if facts.levels else 0)
    np.testing.assert_allclose(values["bits_per_dim"], bits, atol=0.01)
    assert np.isfinite(values["bound"]).all() and np.abs(values["refinement"]).max() < 0.01


@pytest.mark.parametrize("name", processes())
def test_vectors_through_every_mode(name, tmp_path, capsys):
    workdir = tmp_path / "run"
    loaded = trained(vectors(processes()[name]), workdir)
    facts = loaded.run.facts
    assert set(loaded.config.eval.samplers) == {"pc", "ddim", "ode"}
    # Evaluation draws as sampling does, so one sampler is enough of it.
    judged = with_config(loaded, eval={"samplers": ("ddim",)})
    report = run("evaluate", judged, workdir, capsys)
    assert set(report["samplers"]) == {"ddim"}
    for sampler in loaded.config.samplers:
        chosen = with_config(loaded, sampling={"sampler": sampler})
        run("sample", chosen, workdir, capsys)
        check_samples(chosen, sampler, workdir)
    run("likelihood", loaded, workdir, capsys)
    check_likelihood(loaded, workdir, facts)
    report = run("diagnose", loaded, workdir, capsys)
    curves = report["curves"]
    assert all(np.isfinite(curves[key]).all() for key in ("loss", "linear", "over_linear"))
    run("fit", loaded, workdir, capsys)
    fitted = with_config(with_fits(loaded, workdir), sampling={"sampler": "fit3"})
    run("sample", fitted, workdir, capsys)
    assert np.isfinite(np.load(workdir / "samples" / "fit3" / "samples.npz")["x"]).all()


# What depends on the kind of data does not depend on the process: one with signal at t = 1, and one
# without.
@pytest.mark.parametrize("name", ["ve", "rectified"])
def test_images_through_training_sampling_and_likelihoods(name, pictures, tmp_path, capsys):
    workdir = tmp_path / "run"
    loaded = trained(images(processes()[name], pictures), workdir)
    facts = loaded.run.facts
    assert facts.levels == 256
    run("likelihood", loaded, workdir, capsys)
    check_likelihood(loaded, workdir, facts)
    for sampler in loaded.config.samplers:
        chosen = with_config(loaded, sampling={"sampler": sampler})
        run("sample", chosen, workdir, capsys)
        check_samples(chosen, sampler, workdir)
    run("dequantise", loaded, workdir, capsys)
    redrawn = run("likelihood", with_config(loaded, eval={"dequantise": True}), workdir, capsys)
    assert 0 < redrawn["bits_per_dim"] < 9
