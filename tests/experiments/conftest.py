"""Runs to test with: a tiny configuration, trained once, and the command line in processes of its
own.

A process takes seconds to import everything, so they are forked from a server that has done so;
`test_command.py` starts one afresh.
"""

import itertools
import multiprocessing
import runpy
import shutil
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
import pytest

from experiments import main
from experiments.configs import toy
from experiments.modes import MODES
from experiments.modes.train import train
from experiments.run.build import DataFacts, build, make_dataset, measure_facts
from experiments.run.devices import make_mesh
from experiments.run.loading import Loaded, load
from experiments.run.placement import replicated
from experiments.state import init_state
from experiments.storage.checkpoint import restore, template_of
from sde_lib import SDE, Estimate, expand, record_evaluations

ROOT = Path(__file__).parents[2]
# A network of 8 features on points with 8 classes: whole runs take a second.
TINY = {
    "data": {"size": 640},
    "net": {"width": 8, "depth": 1},
    "optim": {"lr": 1e-2, "warmup": 5},
    "train": {
        "steps": 20,
        "batch_size": 32,
        "log_every": 5,
        "held_out_every": 10,
        "checkpoint_every": 10,
    },
    "sampling": {"sampler": "ddim", "number": 20, "batch_size": 8},
    "eval": {"number": 20, "batch_size": 32, "rtol": 1e-2, "samplers": ("ddim", "ode")},
}


def _tiny_config(variant="mixture"):
    config = toy.get_config(variant)
    for section, values in TINY.items():
        config[section].update(values)
    config.samplers.ddim.steps = 5
    config.samplers.pc.steps = 5
    config.devices = 1
    return config


@pytest.fixture(scope="session")
def tiny_config():
    """Return the function (variant) -> configuration."""
    return _tiny_config


@pytest.fixture(scope="session")
def tiny_flags():
    """Return the flags that make the tiny configuration."""
    named = [
        f"--config.{section}.{key}={value}"
        for section, values in TINY.items()
        for key, value in values.items()
        if key != "samplers"
    ]
    return [
        f"--config={ROOT}/experiments/configs/toy.py:mixture",
        *named,
        "--config.samplers.ddim.steps=5",
    ]


@pytest.fixture
def tiny_run():
    """Return the objects of the tiny configuration, not trained."""
    config = _tiny_config()
    return build(config, measure_facts(config, make_dataset(config)))


@pytest.fixture(scope="session")
def image_run():
    """Return the function (shape, levels, **sections) -> an untrained run of small images: cheap,
    and its samples are finite, as the last layer of its network is zero.
    """

    def image_run(shape=(4, 4, 1), levels=17, num_classes=0, **sections):
        run = build(_image_config(sections), DataFacts(shape, levels, num_classes, 0.5))
        return Loaded(run.sde, run.denoiser(run.split.params), run.config, run, 0)

    return image_run


@pytest.fixture(scope="session")
def image_prior():
    """Return the function (shape, levels, **sections) -> a run of small images that has the exact
    denoiser of N(0, 1/4) in place of a network, which takes long to compile.
    """

    def image_prior(shape=(4, 4, 1), levels=17, **sections):
        facts = DataFacts(shape, levels, 0, 0.5)
        run = build(_image_config(sections), facts, abstract=True)
        return Loaded(run.sde, NormalPixels(run.sde), run.config, run, 0)

    return image_prior


class NormalPixels(eqx.Module):
    """The denoiser of independent pixels of variance 1/4."""

    sde: SDE

    def __call__(self, x, t, cond=None):
        record_evaluations()
        alpha, sigma = self.sde.marginal(expand(t, x))
        power = alpha**2 / 4 + sigma**2
        return Estimate(x0=alpha / 4 * x / power, noise=sigma * x / power)


def _image_config(sections):
    config = _tiny_config()
    config.net = {
        "name": "UNet",
        "nf": 8,
        "ch_mult": (1,),
        "num_res_blocks": 1,
        "attn_resolutions": (),
    }
    for section, values in sections.items():
        config[section].update(values)
    return config


@pytest.fixture(scope="session")
def state_of():
    """Return the function (workdir, step) -> what a checkpoint holds, as NumPy arrays, and the
    position in the data.
    """

    def state_of(workdir, step=None):
        run = load(workdir, step).run
        state = jax.eval_shape(
            lambda params: init_state(jax.random.key(0), params, run.tx), run.split.params
        )
        restored = restore(workdir, template_of(state, replicated(make_mesh(1, 1))), step)
        state = restored.state._replace(key=jax.random.key_data(restored.state.key))
        return jax.tree.map(np.asarray, state), restored.position

    return state_of


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    train(_tiny_config(), workdir)
    return workdir


@pytest.fixture
def trained(trained_once, tmp_path):
    """A run directory of 20 steps, with checkpoints at 10 and 20, to do with as one likes."""
    return shutil.copytree(trained_once, tmp_path / "trained")


class Finished(NamedTuple):
    code: int  # -9: killed by signal 9
    out: str
    err: str


class Command:
    """One run of the command line."""

    def __init__(self, process, folder: Path):
        self.process, self._folder = process, folder

    def finish(self, seconds=240) -> Finished:
        self.process.join(seconds)
        assert self.process.exitcode is not None, (
            f"not finished after {seconds} seconds: {self.process.kill()}"
        )
        return Finished(
            self.process.exitcode, *((self._folder / name).read_text() for name in ("out", "err"))
        )


@pytest.fixture
def in_process(monkeypatch, capfd):
    """Return the function (*flags) -> Finished that runs the command line in this process, without
    its settings of JAX.
    """
    monkeypatch.setattr(main, "_set_up", lambda: None)

    def run(*flags) -> Finished:
        capfd.readouterr()
        code = main.run([str(flag) for flag in flags])
        return Finished(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Return the function (*flags, limit=0) -> Command that starts the command line."""
    context, number = multiprocessing.get_context("forkserver"), itertools.count()
    modes = [f"experiments.modes.{name}" for name in MODES]
    context.set_forkserver_preload(["experiments.main", "experiments.run.check", *modes])
    home = tmp_path_factory.mktemp("commands")
    environment = pytest.MonkeyPatch()
    if cache := jax.config.jax_compilation_cache_dir:
        environment.setenv("JAX_COMPILATION_CACHE_DIR", cache)
        environment.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

    def start(*flags, limit=0):
        (folder := home / str(next(number))).mkdir()
        handed_over = {
            "ARGV": [str(f) for f in flags],
            "OUT": str(folder / "out"),
            "ERR": str(folder / "err"),
            "LIMIT": limit,
        }
        script = str(Path(__file__).with_name("as_user.py"))
        process = context.Process(target=runpy.run_path, args=(script, handed_over), daemon=True)
        process.start()
        return Command(process, folder)

    yield start
    environment.undo()


@pytest.fixture(scope="session")
def command(start):
    """Return the function (*flags) -> Finished that runs the command line to its end."""
    return lambda *flags, limit=0: start(*flags, limit=limit).finish()
