"""The health report: sound models pass, each kind of damage is named."""

import json

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.build import Facts, Loaded, build, load
from experiments.data.base import DataSet, Source
from experiments.diagnose import diagnose, judge, measure
from sde_lib import SDE, VP, Estimate, GaussianMixture

MODEL = GaussianMixture(
    [0.4, 0.6], [[-0.8, 0.3], [0.6, 0.0]], [0.05 * np.eye(2), [[0.1, 0.03], [0.03, 0.04]]]
)
HEALTHY = {"samples": 1.0, "held_out": 1.0, "training": 1.0, "copies": 0.0, "finite": True}


class Points(DataSet):
    """Draws of the mixture."""

    shape, levels, num_classes, splits = (2,), None, 0, ("train", "test")

    def __init__(self):
        rng = np.random.default_rng(0)
        k = rng.random(3000) < 0.4
        parts = [
            rng.multivariate_normal(MODEL.means[i], c, 3000)
            for i, c in enumerate([0.05 * np.eye(2), [[0.1, 0.03], [0.03, 0.04]]])
        ]
        self.x = np.where(k[:, None], *parts).astype(np.float32)

    def source(self, split):
        x = self.x[:1000] if split == "test" else self.x[1000:]
        return Source(len(x), lambda i: (x[i], 0))


class Damaged(eqx.Module):
    """The exact denoiser, told another time, its noise estimates turned or made by a coarse rule instead."""

    sde: SDE
    told: float = 1.0
    turned: float = 0.0
    coarse: float = 0.0

    def __call__(self, x, t, cond=None):
        t = jnp.asarray(t)
        noise = MODEL.estimate(self.sde, x, jnp.minimum(self.told * t, 1.0)).noise
        noise = (1 - self.coarse) * noise + self.turned * noise[:, ::-1] * jnp.array([[1.0, -1.0]])
        return Estimate(x, noise)


@pytest.fixture(scope="module")
def findings(tiny_config):
    """Return the function (denoiser, raw denoiser) -> names of the failed checks."""
    config = tiny_config()
    config.eval.update({"split": "test", "train_split": "train"})
    run, dataset = build(config, Facts((2,), None, 0, 0.7)), Points()
    batch = {"x": jnp.asarray(dataset.x[:256]), "label": jnp.zeros(256, int)}

    def findings(denoiser, raw=None):
        loaded = Loaded(VP(), denoiser, run.config, run, 7)
        curves = measure(loaded, dataset, batch, raw or denoiser)
        return {check.name for check in judge(curves, HEALTHY) if not check.good}

    return findings


def test_a_perfect_denoiser_is_healthy(findings):
    assert findings(Damaged(VP())) == set()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ({"told": 1.6}, {"error over the error that the denoiser predicts"}),
        ({"turned": 0.8}, {"asymmetry of the Jacobian"}),
        (
            {"coarse": 0.5},
            {"loss over that of the best linear denoiser", "slope of the noise on its estimate"},
        ),
    ],
    ids=lambda v: "-".join(sorted(v)),
)
def test_damage_is_named(findings, damage, named):
    assert named <= findings(Damaged(VP(), **damage), Damaged(VP()))


def test_averaged_weights_that_are_worse_than_the_raw_ones_are_named(findings):
    assert "loss of the averaged weights over that of the raw ones" in findings(
        Damaged(VP(), coarse=0.4), Damaged(VP())
    )


def test_copies_and_samples_that_are_not_finite_are_named():
    level = np.linspace(0.1, 10, 4)
    curves = {
        "level": level,
        "linear": 0.5 + 0 * level,
        "slope": 1 + 0 * level,
        "calibration": 1 + 0 * level,
    }
    curves |= {
        name: 0 * level for name in ("over_linear", "over_raw", "asymmetry", "fokker_planck")
    }
    for memory in (
        HEALTHY | {"samples": 0.3},
        HEALTHY | {"copies": 0.5},
        HEALTHY | {"finite": False},
    ):
        assert [c.name for c in judge(curves, memory) if not c.good] == [
            "distance of samples to the training set"
        ]
    assert all(check.good for check in judge(curves, HEALTHY))
    assert not judge(curves | {"slope": curves["slope"] * np.nan}, HEALTHY)[2].good


def test_a_run_directory_gets_its_report(trained, capsys):
    report = diagnose(load(trained), trained)
    saved = json.loads((trained / "diagnose" / "report.json").read_text())
    assert saved["healthy"] == report["healthy"] == all(c["good"] for c in saved["checks"])
    assert (
        max(v for v in saved["curves"]["pde"] if v is not None) > 0
    )  # in the plane, beside a numerical solution
    assert (trained / "diagnose" / "report.png").stat().st_size > 20_000
    assert "asymmetry of the Jacobian" in capsys.readouterr().out
