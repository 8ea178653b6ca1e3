"""The health report: sound models pass, each kind of damage is named."""

import json
from types import SimpleNamespace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.data.base import DataSet, Source
from experiments.errors import RunError
from experiments.measures import health
from experiments.measures.health import linear_denoiser
from experiments.measures.health_report import judge, show
from experiments.measures.metrics import nearest_distances
from experiments.modes.diagnose import diagnose, health_curves, memorisation
from experiments.run.build import DataFacts, build
from experiments.run.loading import Loaded, load
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
    """The exact denoiser at `factor` times the time, its noise turned, or made by a coarse rule."""

    sde: SDE
    factor: float = 1.0
    turned: float = 0.0
    coarse: float = 0.0

    def __call__(self, x, t, cond=None):
        t = jnp.asarray(t)
        noise = MODEL.estimate(self.sde, x, jnp.minimum(self.factor * t, 1.0)).noise
        noise = (1 - self.coarse) * noise + self.turned * noise[:, ::-1] * jnp.array([[1.0, -1.0]])
        return Estimate(x, noise)


@pytest.fixture(scope="module")
def findings(tiny_config):
    """Return the function (denoiser, raw denoiser) -> names of the failed checks."""
    config = tiny_config()
    config.eval.update({"split": "test", "train_split": "train"})
    run, dataset = build(config, DataFacts((2,), None, 0, 0.7)), Points()
    batch = {"x": jnp.asarray(dataset.x[:256]), "label": jnp.zeros(256, int)}

    def findings(denoiser, raw=None):
        loaded = Loaded(VP(), denoiser, run.config, run, 7)
        curves = health_curves(loaded, dataset, batch, raw or denoiser)
        return {check.name for check in judge(curves, HEALTHY) if not check.good}

    return findings


def test_a_perfect_denoiser_is_healthy(findings):
    assert findings(Damaged(VP())) == set()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ({"factor": 1.6}, {"error over the error that the denoiser predicts"}),
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
    curves["judged"] = level > 0
    for memory in (
        HEALTHY | {"samples": 0.3},
        HEALTHY | {"copies": 0.5},
        HEALTHY | {"finite": False},
    ):
        assert [c.name for c in judge(curves, memory) if not c.good] == [
            "distance of samples to the training set"
        ]
    assert all(check.good for check in judge(curves, HEALTHY))
    for judged in (level > 0, level > 1):  # what is not finite is wrong at any level
        slope = np.where(level < 1, np.nan, curves["slope"])
        assert not judge(curves | {"slope": slope, "judged": judged}, HEALTHY)[2].good


def test_what_is_over_the_bounds_where_nothing_is_judged_is_told():
    level = np.linspace(0.1, 10, 4)
    curves = {name: 0 * level for name in ("over_raw", "asymmetry", "fokker_planck")}
    curves |= {"level": level, "slope": 1 + 0 * level, "calibration": 1 + 0 * level}
    curves |= {"over_linear": np.array([0.9, 0.8, 1.0, 1.12]), "judged": level < 9}
    first = judge(curves, HEALTHY)[0]
    assert first.good and "1 ± 0 at sigma/alpha = 6.7, allowed up to 1.05" in first.finding
    assert "not judged, as almost all or nothing is noise there: 1.12 ± 0" in first.finding
    assert "not judged" not in judge(curves, HEALTHY)[1].finding
    nowhere = judge(curves | {"judged": level > 99}, HEALTHY)[0]
    assert not nowhere.good and "nothing was judged" in nowhere.finding


def test_levels_that_are_not_judged_are_drawn_hollow(monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: figures.append(figure))
    level = np.array([0.1, 1.0, 10.0])
    names = ("loss", "raw", "linear", "predicted", "over_linear", "over_raw", "slope")
    curves = {name: level for name in (*names, "calibration", "asymmetry", "fokker_planck")}
    curves |= {"level": level, "judged": np.array([False, True, False])}
    show(curves, HEALTHY, [], "a run", tmp_path / "report.png")
    for axis in figures[0].axes[:5]:
        hollow = [line for line in axis.lines if line.get_markerfacecolor() == "white"]
        assert hollow
        for line in hollow:
            np.testing.assert_array_equal(line.get_xdata(), [0.1, 10.0])
    assert any("hollow" in text.get_text() for text in figures[0].texts)


class Few(Points):
    """The same, with a split of a few examples."""

    splits = ("train", "test", "few")

    def source(self, split):
        source = super().source("test" if split == "few" else split)
        return Source(3, source.read) if split == "few" else source


@pytest.mark.parametrize("split", ["split", "train_split"])
def test_a_split_that_says_nothing_is_refused_before_anything_is_computed(
    split, tiny_config, monkeypatch, tmp_path
):
    config = tiny_config()
    config.eval.update({"split": "test", "train_split": "train"} | {split: "few"})
    run = build(config, DataFacts((2,), None, 0, 0.7))
    monkeypatch.setattr("experiments.modes.diagnose.make_dataset", lambda config: Few())
    loaded = Loaded(VP(), Damaged(VP()), run.config, run, 7)
    with pytest.raises(RunError, match="takes 8 or more examples of each split, but 'few' has 3"):
        diagnose(loaded, tmp_path)


def test_near_copies_are_counted_and_what_is_not_finite_is_left_out(tiny_config, monkeypatch):
    """A copy is nearer than a quarter of what training examples are to each other."""
    config = tiny_config()
    config.eval.update({"split": "test", "train_split": "train"})
    run, dataset = build(config, DataFacts((2,), None, 0, 0.7)), Points()
    loaded = Loaded(VP(), Damaged(VP()), run.config, run, 7)
    real = dataset.x[1000:]
    between = np.median(nearest_distances(real))

    def samples_with_copies(share):
        x = np.zeros((128, 2), np.float32) + 50
        x[: int(share * 128)] = real[: int(share * 128)] + 0.1 * between / np.sqrt(2)
        return SimpleNamespace(x=x)

    for share in (0.0, 0.25, 1.0):
        monkeypatch.setattr(
            "experiments.modes.diagnose.draw", lambda *_, share=share: samples_with_copies(share)
        )
        memory = memorisation(loaded, dataset)
        assert memory["copies"] == share and memory["finite"]
        np.testing.assert_allclose(memory["training"], between, rtol=1e-6)
    nowhere = samples_with_copies(0.5)
    nowhere.x[64:] = np.nan
    monkeypatch.setattr("experiments.modes.diagnose.draw", lambda *_: nowhere)
    memory = memorisation(loaded, dataset)
    assert memory["copies"] == 1 and not memory["finite"] and memory["samples"] < between
    nowhere.x[:] = np.inf
    memory = memorisation(loaded, dataset)
    assert np.isnan(memory["samples"]) and not memory["finite"]
    assert not judge_memory(memory)


def judge_memory(memory):
    one = np.ones(2)
    curves = dict.fromkeys(("level", "over_linear", "over_raw", "slope", "calibration"), one)
    curves |= {"asymmetry": 0 * one, "fokker_planck": 0 * one, "judged": one > 0}
    return judge(curves, memory)[-1].good


@pytest.mark.parametrize("levels", [None, 16])
def test_the_best_linear_denoiser_has_the_moments_of_the_data(levels, monkeypatch):
    """With covariances, and without them where there would be too many: for independent coordinates
    it is the same.
    """

    class Grey(DataSet):
        shape, num_classes, splits = (3,), 0, ("train",)

        def __init__(self):
            self.levels = levels
            draws = np.random.default_rng(0).integers(0, 16, (4000, 3)) // np.array([1, 2, 4])
            self.x = draws.astype(np.uint8 if levels else np.float32)

        def source(self, split):
            return Source(len(self.x), lambda i: (self.x[i], 0))

    dataset, sde = Grey(), VP()
    width = (levels or 2) / 2
    x = dataset.x / width - (1 if levels else 0) + (0.5 / width if levels else 0)
    noise = (1 / width) ** 2 / 12 if levels else 0
    x_t, t = jnp.array([[0.3, -0.2, 0.9]]), jnp.array([0.3])
    alpha, sigma = (float(v[0]) for v in sde.marginal(t))
    covariance = np.cov(x, rowvar=False) + noise * np.eye(3)
    shift = np.linalg.solve(
        alpha**2 * covariance + sigma**2 * np.eye(3), np.asarray(x_t)[0] - alpha * x.mean(0)
    )
    full = linear_denoiser(dataset, "train").estimate(sde, x_t, t).noise
    np.testing.assert_allclose(full[0], sigma * shift, rtol=2e-3)
    monkeypatch.setattr(health, "MOST_WITH_COVARIANCES", 2)
    alone = linear_denoiser(dataset, "train").estimate(sde, x_t, t).noise
    variances = alpha**2 * np.diag(covariance) + sigma**2
    np.testing.assert_allclose(
        alone[0], sigma * (x_t[0] - alpha * x.mean(0)) / variances, rtol=2e-3
    )


def test_a_run_directory_gets_its_report(trained, capsys):
    report = diagnose(load(trained), trained)
    saved = json.loads((trained / "diagnose" / "report.json").read_text())
    assert saved["healthy"] == report["healthy"] == all(c["good"] for c in saved["checks"])
    # in the plane, beside a numerical solution
    assert max(v for v in saved["curves"]["pde"] if v is not None) > 0
    assert (trained / "diagnose" / "report.png").stat().st_size > 20_000
    assert "asymmetry of the Jacobian" in capsys.readouterr().out


def test_a_ratio_has_the_standard_error_of_its_repetitions():
    """2000 repetitions of 400 pairs: their standard deviation is known to 1.6 %, so that 8 % is a
    false alarm once in 2 million.
    """
    rng = np.random.default_rng(0)
    bottom = rng.gamma(4.0, size=(2000, 400))
    top = 0.5 * bottom + rng.normal(size=bottom.shape)
    value, error = health.ratio(top, bottom)
    np.testing.assert_allclose(value.mean(), 0.5, atol=1e-3)
    np.testing.assert_allclose(error.mean(), value.std(), rtol=0.08)
