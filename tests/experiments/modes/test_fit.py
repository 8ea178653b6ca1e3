"""`--mode=fit`: a solver learned for a run is kept with it, known by its name, and refused or
warned about elsewhere.
"""

import json
import warnings

import numpy as np
import pytest

from experiments.errors import RunError
from experiments.modes.fit import fit, with_fits
from experiments.modes.sample import draw, draw_walk
from experiments.modes.train import train
from experiments.run.loading import load
from samplers import FewSteps, Fit
from sde_lib import Denoiser, StaticThreshold


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, tiny_config):
    """A run with a solver of three evaluations."""
    workdir, config = tmp_path_factory.mktemp("fitted") / "run", tiny_config()
    config.fit.update({"nfe": 3, "noises": 16, "updates": 80})
    train(config, workdir)
    fit(load(workdir), workdir)
    return workdir


def asking(workdir, step=None):
    """Return the run, asking for the fitted solver."""
    loaded = load(workdir, step)
    loaded.config.unlock().sampling.sampler = "fit3"
    return loaded


def test_a_fitted_solver_is_kept_and_used_by_its_name(fitted):
    content = json.loads((fitted / "fits" / "fit3.json").read_text())
    assert content["quality"]["distance"] < content["quality"]["start"]
    loaded = with_fits(asking(fitted), fitted)
    setting = loaded.config.samplers.fit3
    batch = draw(loaded.run, loaded.denoiser, setting, np.arange(6))
    assert batch.nfe == 3 and batch.x.shape == (6, 2) and np.isfinite(batch.x).all()
    np.testing.assert_allclose(
        draw(loaded.run, loaded.denoiser, setting, np.arange(3, 6)).x, batch.x[3:], atol=1e-5
    )
    states = draw_walk(loaded.run, loaded.denoiser, setting, np.arange(6), -1)
    assert states.shape == (4, 6, 2)
    np.testing.assert_allclose(states[-1], batch.x, atol=1e-6)


def test_another_checkpoint_is_warned_about_and_another_process_refused(fitted):
    with pytest.warns(UserWarning, match="fitted to checkpoint 20, this is 10"):
        with_fits(asking(fitted, 10), fitted)
    other = asking(fitted)
    other.config.sde = {"name": "VE"}
    with pytest.raises(RunError, match="was fitted for the process .* fit anew with --mode=fit"):
        with_fits(other, fitted)


@pytest.mark.parametrize(
    "name, message",
    [
        ("../config", "choose a plain name"),
        ("/tmp/fit", "choose a plain name"),
        ("ddim", "the name of a sampler of the configuration"),
        ("mine", r"fits/mine\.json is in the way .*move it, or choose another"),
    ],
)
def test_a_fit_takes_only_a_free_plain_name_and_says_so_before_it_learns(
    trained, monkeypatch, name, message
):
    monkeypatch.setattr("experiments.modes.fit._learn", lambda loaded, name: 1 / 0)
    (trained / "fits").mkdir()
    (trained / "fits" / "mine.json").write_text('{"precious": true}')
    before = {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()}
    loaded = load(trained)
    loaded.config.unlock().fit.save_as = name
    with pytest.raises(RunError, match=message):
        fit(loaded, trained)
    assert {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()} == before


def test_a_fit_to_other_weights_of_the_same_step_is_warned_about(fitted):
    loaded = asking(fitted)._replace(weights="others")
    with pytest.warns(UserWarning, match="fitted to checkpoint 20, but to other weights than"):
        with_fits(loaded, fitted)
    loaded = asking(fitted)
    loaded.config.samplers.fit3 = {"name": "DDIM"}
    with pytest.raises(RunError, match=r"fit3\.json has the name of a sampler.*rename"):
        with_fits(loaded, fitted)


def test_a_fit_is_made_under_the_guidance_and_says_under_which(fitted, monkeypatch):
    setting = json.loads((fitted / "fits" / "fit3.json").read_text())["setting"]
    solver = FewSteps(**{key: np.asarray(setting[key]) for key in setting if key != "name"})
    seen = []

    def fit_solver(denoise, *arguments, **settings):
        seen.append(denoise)
        return Fit(result=solver, history=np.ones(2))

    monkeypatch.setattr("experiments.modes.fit.fit_solver", fit_solver)
    guidance = {"name": "StaticThreshold", "bound": 0.5}

    def run(sampler, guidance):
        loaded = load(fitted)
        config = loaded.config.unlock()
        config.update({"guidance": guidance})
        config.fit.save_as = "guided"
        config.sampling.sampler = sampler
        return loaded

    fit(run("ddim", guidance), fitted)
    assert isinstance(seen[0], StaticThreshold) and isinstance(seen[0].denoise, Denoiser)
    content = json.loads((fitted / "fits" / "guided.json").read_text())
    assert content["made_for"]["guidance"] == guidance
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_fits(run("guided", guidance), fitted)
    with pytest.warns(UserWarning, match="guidance = .*StaticThreshold.*drawn under {}; .*save_as"):
        with_fits(run("guided", {}), fitted)
    with pytest.warns(UserWarning, match="guidance = {}, but samples are drawn under .*bound"):
        with_fits(run("fit3", guidance), fitted)
