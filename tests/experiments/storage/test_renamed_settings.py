"""A run directory whose samplers' settings are called as they were before is read under their present names."""

import inspect
import json

import pytest

import samplers
from experiments.configs.common import base_config
from experiments.modes.fit import read_fit
from experiments.run.walks import make_walk
from experiments.storage.renamed import SAMPLERS
from experiments.storage.saved_config import read_config
from samplers import AnnealedLangevin, PredictorCorrector, SASolver, UniPC
from sde_lib import VP

GRID = {"grid": "log_snr", "steps": 4}
FACTS = {"shape": [2], "levels": None, "num_classes": 0, "sd": 1.0}
UNIPC = {"name": "UniPC", "p": 3, "b": "bh1"}
CORRECTOR = {"name": "AnnealedLangevin"}
# section with the names of before, the sampler that it stands for
SECTIONS = [
    (UNIPC, UniPC(predictor_order=3, variant="bh1")),
    (
        {"name": "SASolver", "predictor": 2, "corrector": 1, "tau": 0.0},
        SASolver(predictor_steps=2, corrector_steps=1, tau=0.0),
    ),
    (
        {"name": "PredictorCorrector", "predictor": UNIPC, "corrector": CORRECTOR},
        PredictorCorrector(
            predictor=UniPC(predictor_order=3, variant="bh1"), corrector=AnnealedLangevin()
        ),
    ),
]


def saved(workdir, **sections):
    """Write the configuration of a run and return it as it is read."""
    config = json.loads(base_config().to_json()) | {"facts": FACTS, "samplers": sections}
    config["data"]["name"], config["net"]["name"] = "Digits", "MLP"
    (workdir / "config.json").write_text(json.dumps(config))
    return read_config(workdir)


@pytest.mark.parametrize("section, sampler", SECTIONS, ids=lambda value: str(value)[:20])
def test_a_configuration_with_the_names_of_before_is_the_same_sampler(tmp_path, section, sampler):
    config = saved(tmp_path, mine=section | GRID)
    assert make_walk(config.samplers.mine, VP()).sampler == sampler
    again = saved(tmp_path, mine=config.samplers.mine.to_dict())
    assert make_walk(again.samplers.mine, VP()).sampler == sampler


def test_a_fit_with_the_names_of_before_is_the_same_solver(tmp_path):
    numbers = {"levels": [4.0, 0.0], "asked": [3.0], "weights": [[1.0]]}
    made_for = {"sde": {"name": "VP"}, "checkpoint": 20}
    path = tmp_path / "fit1.json"
    path.write_text(json.dumps({"setting": {"name": "FewSteps"} | numbers, "made_for": made_for}))
    solver = make_walk(read_fit(path)["setting"], VP()).solver
    assert solver.noise_levels.tolist() == numbers["levels"]
    assert solver.network_levels.tolist() == numbers["asked"]
    assert solver.weights.tolist() == numbers["weights"]


def test_a_name_that_is_no_text_is_left_to_other_checks(tmp_path):
    predictor = {"name": ["UniPC"], "p": 3}
    section = {"name": "PredictorCorrector", "predictor": predictor, "corrector": CORRECTOR}
    assert saved(tmp_path, mine=section).samplers.mine.predictor.p == 3


@pytest.mark.parametrize("name", SAMPLERS)
def test_names_of_before_are_gone_and_those_of_now_are_there(name):
    settings = inspect.signature(getattr(samplers, name)).parameters
    assert not SAMPLERS[name].keys() & settings.keys()
    assert set(SAMPLERS[name].values()) <= settings.keys()
