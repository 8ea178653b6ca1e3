"""A class of one's own by its path: found again in every mode, imported only where the user asked
for it.
"""

import json
import sys

import pytest

import experiments
import models
import samplers
import sde_lib
from experiments import data
from experiments.errors import RunError
from experiments.run.build import make

CODE = """
import pathlib
import flax.nnx as nnx
import jax.numpy as jnp
import equinox as eqx
import numpy as np
import models, samplers, sde_lib
from experiments.data import DataSet
from experiments.data.base import Source

pathlib.Path({executed!r}).write_text("executed")


class Net(nnx.Module):
    def __init__(self, shape, *, width: int = 4, rngs):
        self.inner = models.MLP(shape, width=width, depth=1, rngs=rngs)

    def __call__(self, x, signal, cond=None, *, rngs=None):
        return self.inner(x, signal, cond, rngs=rngs)


class Process(sde_lib.SDE):
    def marginal(self, t):
        return jnp.cos(t), jnp.sin(t)


class Walk(samplers.Sampler):
    order = 1
    strength: float = 1.0

    def plan(self, sde, ts):
        return ts[1:]

    def step(self, keys, denoise, x, coefficients, memory, cond):
        return x, memory


class Times(sde_lib.TimeDistribution):
    def quantile(self, sde, u):
        return u


class Plane(DataSet):
    shape, levels, num_classes, splits = (2,), None, 0, ("train", "validation", "test")

    def source(self, split):
        x = np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32)
        return Source(64, lambda index: (x[index], 0))
"""
KINDS = [
    ("Net", models, "Module", {"shape": (2,), "num_classes": 0}),
    ("Process", sde_lib, "SDE", {}),
    ("Walk", samplers, "Sampler", {}),
    ("Times", sde_lib, "TimeDistribution", {}),
    ("Plane", data, "DataSet", {}),
]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return the name of a module with classes of one's own, and the file that it writes when it is
    executed.
    """
    name = f"own_{abs(hash(tmp_path))}"
    executed = tmp_path / "executed"
    (tmp_path / f"{name}.py").write_text(CODE.format(executed=str(executed)))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name, executed
    sys.modules.pop(name, None)


@pytest.mark.parametrize("cls, package, kind, extra", KINDS, ids=lambda value: str(value)[:20])
def test_every_kind_of_object_may_be_ones_own(cls, package, kind, extra, own):
    import flax.nnx as nnx

    base = nnx.Module if kind == "Module" else getattr(package, kind)
    if kind == "Module":
        extra = extra | {"rngs": nnx.Rngs(0)}
    made = make(package, {"name": f"{own[0]}:{cls}"}, base, **extra)
    assert type(made).__name__ == cls and isinstance(made, base)
    other = "Process" if cls != "Process" else "Walk"
    with pytest.raises(ValueError, match=f"{own[0]}:{other}' is no {kind}"):
        make(package, {"name": f"{own[0]}:{other}"}, base, **extra)
    with pytest.raises(ValueError, match="has no class 'Nothing'"):
        make(package, {"name": f"{own[0]}:Nothing"}, base, **extra)
    with pytest.raises(ValueError, match="cannot import 'nowhere.at_all:Net': ModuleNotFoundError"):
        make(package, {"name": "nowhere.at_all:Net"}, base, **extra)
    with pytest.raises(ValueError, match=f"{cls} has no setting sise"):
        make(package, {"name": f"{own[0]}:{cls}", "sise": 3}, base, **extra)


def test_a_network_without_labels_is_not_given_any(own):
    import flax.nnx as nnx

    with pytest.raises(ValueError, match="Net does not take num_classes, which is 3 here"):
        make(
            models,
            {"name": f"{own[0]}:Net"},
            nnx.Module,
            shape=(2,),
            num_classes=3,
            rngs=nnx.Rngs(0),
        )


def test_a_run_of_ones_own_network_is_opened_only_with_trust(own, tiny_flags, tmp_path, in_process):
    name, executed = own
    workdir = tmp_path / "run"
    flags = [
        f"--config.net.name={name}:Net",
        "--config.data.name=" + f"{name}:Plane",
        "--config.train.steps=2",
    ]
    config = tmp_path / "mine.py"
    config.write_text(
        "from experiments.configs import toy\n\n"
        "def get_config():\n"
        "    config = toy.get_config()\n"
        f"    config.data = {{'name': '{name}:Plane'}}\n"
        f"    config.net = {{'name': '{name}:Net'}}\n"
        "    return config\n"
    )
    small = [flag for flag in tiny_flags if "train." in flag or "sampl" in flag]
    result = in_process(f"--config={config}", *small, *flags[2:], f"--workdir={workdir}")
    assert result.code == 0, result.err
    assert json.loads((workdir / "config.json").read_text())["net"]["name"] == f"{name}:Net"
    assert result.out.rstrip().endswith("--mode=sample --trust")  # the next command

    executed.unlink()
    del sys.modules[name]
    for attempt in ("--mode=sample", "--mode=train", "--dry_run"):
        result = in_process(attempt, f"--workdir={workdir}")
        assert result.code == 1 and f"= '{name}:" in result.err and "add --trust" in result.err
    with pytest.raises(RunError, match=r"load\(workdir, trust=True\)"):
        experiments.load(workdir)
    assert name not in sys.modules and not executed.exists()

    result = in_process(
        "--mode=sample", f"--workdir={workdir}", "--trust", "--config.sampling.number=4"
    )
    assert result.code == 0 and executed.exists(), result.err
    assert experiments.load(workdir, trust=True).step == 2


@pytest.mark.parametrize(
    "place", ["sde.sde", "samplers.pc.predictor", "objective.times", "deeper.list"]
)
def test_foreign_code_is_found_wherever_it_is_named(place, trained):
    file = trained / "config.json"
    saved = json.loads(file.read_text())
    section = saved
    for key in place.split("."):
        section = section.setdefault(key, {})
    section["name"] = "somebody.code:Run"
    saved["deeper"] = [saved.pop("deeper")] if "deeper" in saved else []
    file.write_text(json.dumps(saved))
    with pytest.raises(RunError, match="somebody.code:Run"):
        experiments.load(trained)
