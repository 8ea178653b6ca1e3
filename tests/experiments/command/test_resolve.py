"""Nothing that a command line says is dropped: a changed setting takes effect, or is refused by
name and with a reason.

Every setting of the base configuration meets every mode here, so that a new setting, or a new mode,
is tested as it comes.
"""

import json
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.command.overrides import value_at
from experiments.command.parse import Command, Override, parse
from experiments.command.resolve import DECIDED, REPLACED, merge, resolve
from experiments.command.schema import FACTS, check_settings
from experiments.command.switches import SWITCHES, check_switches
from experiments.configs.common import base_config
from experiments.errors import RunError
from experiments.modes import MODES
from experiments.run.build import DataFacts
from experiments.storage.saved import read_saved

OTHERS = [mode for mode in MODES if mode != "train"]


def leaves(config, path=""):
    """Return the settings of a configuration by their paths."""
    values = {}
    for key, value in config.items():
        place = f"{path}.{key}" if path else key
        values |= (
            leaves(value, place) if isinstance(value, ConfigDict) and value else {place: value}
        )
    return values


def another(path, value):
    """Return the text of another value of the same type."""
    if isinstance(value, bool):
        return str(not value)
    if isinstance(value, int):
        return str(value + 1)
    if isinstance(value, float):
        return str(value / 2 if value else 0.25)
    if isinstance(value, tuple | list):
        return "(5,)"
    return "other"


@pytest.fixture(scope="module")
def run_config(trained_once):
    return read_saved(trained_once)


@pytest.mark.parametrize("mode", OTHERS)
def test_every_setting_takes_effect_in_every_mode_or_is_refused(mode, run_config):
    """The base configuration's, the tiny run's own, and one that no configuration spells out."""
    settings = {**leaves(base_config()), **leaves(run_config)}
    settings = {
        path: value for path, value in settings.items() if not isinstance(value, ConfigDict)
    }
    assert len(settings) > 70
    effective = set()
    before = run_config.to_json_best_effort()
    for path in settings:
        text = another(path, value_at(run_config, path))
        command = Command(mode=mode, workdir="here", overrides=(Override(path, text),))
        try:
            config, _, other_data = merge(command, run_config, None)
        except RunError as error:
            assert f"--config.{path}={text} has no effect on --mode={mode}" in str(error)
            assert (
                "it is read by --mode=" in str(error)
                or "trained with another" in str(error)
                or "which uses" in str(error)
            )
            continue
        effective.add(path.split(".")[0])
        changed = value_at(config, path)
        assert json.dumps(changed) != json.dumps(value_at(run_config, path)), path
        assert other_data == path.startswith("data")
        assert MODES[mode].takes(path, config)
    assert effective <= {*REPLACED, "samplers", "data", "train"}
    computes = mode != "export"  # which writes an average of what is there into one file
    assert ("devices" in effective) == computes and (computes or effective == {"average"})
    assert run_config.to_json_best_effort() == before


@pytest.mark.parametrize("path, switch", SWITCHES.items())
def test_a_setting_whose_switch_is_off_is_refused(path, switch, run_config):
    config = run_config.copy_and_resolve_references().unlock()
    section, _, key = switch.partition(".")
    overrides = (Override(path, "3"),)
    config[section][key] = type(config[section][key])()
    with pytest.raises(RunError, match=f"--config.{path}=3 has no effect while config.{switch} is"):
        check_switches(config, overrides)
    with config.ignore_type():
        config[section][key] = 1
    check_switches(config, overrides)
    assert {path, switch} <= leaves(base_config()).keys()


@pytest.mark.parametrize("mode", OTHERS)
def test_a_mode_names_only_settings_that_there_are(mode):
    known = leaves(base_config())
    for path in MODES[mode].reads:
        assert any(name == path or name.startswith(path + ".") for name in known), path


def test_a_setting_that_has_the_runs_own_value_is_no_change(run_config):
    same = ("net.width=8", "seed=0", "optim.lr=0.01", "eval.samplers=ddim,ode", "data.size=640")
    command = parse(["--mode=sample", "--workdir=here", *(f"--config.{text}" for text in same)])
    config, notes, other_data = merge(command, run_config, None)
    assert config == run_config and not notes and not other_data


def test_the_file_of_another_network_is_refused_and_what_else_it_says_is_told(
    run_config, tiny_config
):
    command = Command(mode="sample", workdir="here", config="toy.py")
    for section in DECIDED:
        given = tiny_config().unlock()
        given[section].update(
            {"sde": {"name": "VE"}, "net": {"depth": 7}}.get(section, {"inputs": "time"})
        )
        with pytest.raises(
            RunError,
            match=rf"toy.py is of another network than here \(config.{section}.* "
            "leave --config out",
        ):
            merge(command, run_config, given)
    given = tiny_config().unlock()
    given.optim.lr = 0.5
    _, notes, _ = merge(command, run_config, given)
    assert notes == (
        "the run keeps what it was made with: config.optim.lr is 0.5 there, 0.01 here",
    )


def test_what_a_file_leaves_open_contradicts_nothing(run_config, tiny_config):
    given = tiny_config().unlock()
    del given.data["size"]
    given.data.density = None
    given.sampling.number = 7
    given.samplers = ConfigDict(
        {"mine": {"name": "DDIM", "grid": "uniform", "steps": 2, "end": 0.1}}
    )
    command = Command(mode="likelihood", workdir="here", config="toy.py")
    config, notes, other_data = merge(command, run_config, given)
    assert not notes and not other_data and config.data == run_config.data
    assert config.sampling.number == 7
    # a converted run keeps `published`
    assert set(config.samplers) == {
        "mine",
        *run_config.samplers,
    }


def test_other_data_take_effect_and_are_told(run_config, tiny_config):
    given = tiny_config().unlock()
    given.data.size = 100
    command = Command(mode="likelihood", workdir="here", config="toy.py")
    config, notes, other_data = merge(command, run_config, given)
    assert other_data and config.data.size == 100 and "the data are" in notes[0]
    assert not merge(command._replace(mode="sample"), run_config, given).other_data


def test_without_a_file_every_mode_starts_from_the_run(trained, in_process):
    result = in_process(f"--workdir={trained}", "--mode=sample", "--config.sampling.number=3")
    assert result.code == 0, result.err
    assert np.load(trained / "samples" / "ddim" / "samples.npz")["x"].shape == (3, 2)
    result = in_process(f"--workdir={trained}", "--config.train.steps=21")
    assert result.code == 0, result.err
    assert "going on from step 20" in result.out
    assert (trained / "checkpoints" / "21").exists()
    result = in_process(f"--workdir={trained}", "--config.optim.lr=0.5")
    assert result.code == 1 and "config.optim.lr was 0.01, now 0.5" in result.err


def test_a_dry_run_of_a_run_prints_what_the_mode_would_use(trained, in_process):
    flags = (f"--workdir={trained}", "--mode=sample", "--dry_run")
    result = in_process(*flags, "--config.samplers.ddim.steps=7")
    assert result.code == 0 and "steps: 7" in result.out, result.err
    result = in_process(*flags, "--config.net.width=9")
    assert result.code == 1 and "--config.net.width=9 has no effect on --mode=sample" in result.err
    assert not (trained / "samples").exists()


def test_the_facts_that_a_file_may_declare_are_those_of_a_run():
    assert FACTS == DataFacts._fields


def test_a_saved_configuration_of_an_older_version_gets_its_defaults(trained):
    file = trained / "config.json"
    saved = json.loads(file.read_text())
    del saved["eval"]["latency"], saved["fit"]["rate"]
    file.write_text(json.dumps(saved))
    config = resolve(parse([f"--workdir={trained}", "--mode=sample"])).config
    assert config.eval.latency is False and config.fit == base_config().fit
    check_settings(config)
    shutil.rmtree(trained)
    with pytest.raises(RunError, match="is no run directory"):
        resolve(parse([f"--workdir={trained}", "--mode=sample"]))
