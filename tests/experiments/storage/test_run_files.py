"""Every file of a run directory, damaged: one message that names file and remedy, or the result as
if it were whole, in every mode.

A new mode meets the tests of `MODES` by itself, a new section of the configuration those of
`SECTIONS`.
"""

import errno
import json
import shutil

import numpy as np
import pytest

from experiments.configs.common import base_config
from experiments.errors import RunError
from experiments.modes import MODES, function_of
from experiments.modes.fit import with_fits
from experiments.modes.likelihood import _earlier_values
from experiments.modes.sample import draw_many
from experiments.modes.train import train
from experiments.run.loading import load
from experiments.storage import lock
from experiments.storage.saved_config import NEWER_SECTIONS, read_config

SECTIONS = json.loads(base_config().to_json())
WORKING = sorted({*MODES, "train"})


def run_mode(name, workdir, config):
    """Do what the command line does for one mode."""
    if name == "train":
        return train(config, workdir)
    loaded = with_fits(load(workdir), workdir)
    return function_of(name)(loaded, workdir)


def edit(workdir, change, file="config.json"):
    """Change the JSON in a file of a run by a function of it."""
    path = workdir / file
    content = json.loads(path.read_text())
    changed = change(content)
    path.write_text(json.dumps(content if changed is None else changed))


def set_at(place, value):
    """Return the function that sets config.<place>, or removes it where `value` is `...`."""

    def change(config):
        *sections, key = place.split(".")
        for section in sections:
            config = config[section]
        if value is ...:
            del config[key]
        else:
            config[key] = value

    return change


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("value", [..., None, [], 5 + 2j, "text", float("nan")], ids=str)
def test_a_section_that_is_missing_or_no_section_is_named(trained_once, tmp_path, section, value):
    shutil.copy(trained_once / "config.json", tmp_path)
    value = {"wrong": True} if value == 5 + 2j else value  # JSON has no complex numbers
    if isinstance(value, dict) and isinstance(SECTIONS[section], dict):
        value = [value]
    edit(tmp_path, set_at(section, value))
    if value is ... and section in NEWER_SECTIONS:  # a run of an older version
        assert json.loads(read_config(tmp_path).to_json())[section] == SECTIONS[section]
        return
    if isinstance(value, str) and isinstance(SECTIONS[section], str):
        value = 5
        edit(tmp_path, set_at(section, value))
    with pytest.raises(RunError, match="config.json is damaged.*bring it back") as caught:
        read_config(tmp_path)
    assert isinstance(value, float) or f"config.{section} " in str(caught.value)


PLACES = [
    f"{section}.{key}"
    for section, settings in SECTIONS.items()
    if isinstance(settings, dict) and section not in ("data", "net", "sde", "facts", "samplers")
    for key in settings
]


@pytest.mark.parametrize("place", PLACES)
def test_a_value_of_another_type_is_named_and_one_that_is_newer_takes_its_default(
    trained_once, tmp_path, place
):
    shutil.copy(trained_once / "config.json", tmp_path)
    whole = read_config(tmp_path)
    for value in ({"a": 1}, None, [5], True, 1.5, "1e-3"):
        section, key = place.split(".")
        default = SECTIONS[section][key]
        if isinstance(value, type(default)):
            continue
        edit(tmp_path, set_at(place, value))
        with pytest.raises(RunError, match=rf"config\.json is damaged: config\.{place}"):
            read_config(tmp_path)
    edit(tmp_path, set_at(place, ...))
    read = read_config(tmp_path)
    section, key = place.split(".")
    assert key in read[section] and read[section].keys() == whole[section].keys()


@pytest.mark.parametrize("fact", ["shape", "levels", "num_classes", "sd"])
def test_facts_are_whole_and_make_sense(trained_once, tmp_path, fact):
    for value in (..., "x", -1, [], [0], True, float("inf")):
        shutil.copy(trained_once / "config.json", tmp_path)
        edit(tmp_path, set_at(f"facts.{fact}", value))
        with pytest.raises(RunError, match=r"config\.json is damaged"):
            read_config(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"5", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000]
)
def test_a_configuration_that_is_not_an_object_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(RunError, match=r"config\.json is damaged.*bring it back from a copy"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "place, value",
    [
        ("sde.beta_max", 4.0),
        ("sde.name", "SubVP"),
        ("denoiser.prediction", "noise"),
        ("denoiser.sigma_data", 0.1),
        ("net.width", 16),
        ("net.width", None),
        ("facts.sd", 0.1),
        ("facts.shape", [3]),
        ("facts.levels", 17),
        ("train.conditional", True),
    ],
)
def test_a_configuration_is_vouched_for_by_the_weights(trained, tiny_config, place, value):
    before = (trained / "config.json").read_bytes()
    edit(trained, set_at(place, value))
    with pytest.raises(RunError, match=rf"does not fit.*config\.{place.replace('train.', '')} was"):
        load(trained)
    config = tiny_config()
    config.train.steps = 21
    with pytest.raises(RunError, match=rf"config\.{place}"):
        train(config, trained)
    (trained / "config.json").write_bytes(before)
    assert load(trained).step == 20


def test_a_lost_configuration_is_written_anew_by_the_command_that_trained(trained, tiny_config):
    before = json.loads((trained / "config.json").read_text())
    (trained / "config.json").unlink()
    other = tiny_config()
    other.sde.beta_max = 4.0
    with pytest.raises(RunError, match=r"does not fit.*config\.sde\.beta_max was .*, now 4"):
        train(other, trained)
    assert not (trained / "config.json").exists()
    train(tiny_config(), trained)
    assert json.loads((trained / "config.json").read_text()) == before


@pytest.mark.parametrize("content", ["null", "5", "[]", "{}", "{", ""])
def test_a_damaged_manifest_is_named(trained, content):
    path = trained / "checkpoints" / "20" / "manifest.json"
    path.write_text(content)
    with pytest.raises(RunError, match=r"checkpoints/20 is damaged: manifest\.json.*Remove that"):
        load(trained)


@pytest.mark.parametrize("content", ["[]", "{}", "5", "{", '{"step": "x"}'])
def test_a_damaged_note_of_a_conversion_is_named(trained, tiny_config, content):
    (trained / "converted.json").write_text(content)
    with pytest.raises(RunError, match=r"converted\.json is damaged.*remove it"):
        train(tiny_config(), trained)


BROKEN_FITS = ["", "null", "[]", "{}", '{"setting": 5, "made_for": {}}', '{"setting": {}}']


@pytest.mark.parametrize("content", BROKEN_FITS)
def test_a_broken_fit_matters_only_to_who_asks_for_it(trained_once, tmp_path, content):
    loaded = load(trained_once)
    (tmp_path / "fits").mkdir()
    (tmp_path / "fits" / "mine.json").write_text(content)
    assert "mine" not in with_fits(loaded, tmp_path).config.samplers
    loaded.config.unlock().eval.samplers = ("ddim", "mine")
    with pytest.raises(RunError, match=r"fits/mine\.json is damaged.*fit anew with --mode=fit"):
        with_fits(loaded, tmp_path)


def test_a_torn_batch_is_drawn_anew_and_said(trained_once, tmp_path, capsys):
    loaded, folder = load(trained_once), tmp_path / "job"
    whole = draw_many(loaded, "ddim", 20, folder).x
    path = folder / "batch_0000008.npz"
    content = path.read_bytes()
    other = {"x": np.zeros((3, 2)), "nfe": 6, "seconds": 1.0}
    for damage in (b"", content[:-9], content[: len(content) // 2], b"\0" * 99, other):
        if isinstance(damage, dict):
            np.savez(path, **damage)
        else:
            path.write_bytes(damage)
        again = draw_many(loaded, "ddim", 20, folder)
        np.testing.assert_array_equal(again.x, whole)
        assert f"{path} is damaged; drawing these samples anew" in capsys.readouterr().err
    for at in range(0, len(content), 41):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        np.testing.assert_array_equal(draw_many(loaded, "ddim", 20, folder).x, whole)
    (folder / "job.json").write_text("[")
    np.testing.assert_array_equal(draw_many(loaded, "ddim", 20, folder).x, whole)
    assert (tmp_path / "job.1" / "job.json").read_text() == "["


def test_likelihoods_of_a_damaged_batch_are_computed_anew(tmp_path, capsys):
    path = tmp_path / "batch_0000000.npz"
    names = ("bits_per_dim", "std_error", "refinement", "prior_mismatch")
    whole = {name: np.arange(3.0) for name in names} | {"nfe": np.asarray(7)}
    bound = {"bound": np.ones(3), "bound_std_error": np.ones(3)}
    np.savez(path, **whole, **bound)
    assert _earlier_values(path, 3, 4).keys() == {*whole, *bound}
    assert _earlier_values(path, 3, 0).keys() == whole.keys()
    assert _earlier_values(None, 3, 0) is _earlier_values(tmp_path / "nothing", 3, 0) is None
    assert not capsys.readouterr().err
    np.savez(path, **whole)
    assert _earlier_values(path, 3, 4) is None  # there is no bound in it
    assert _earlier_values(path, 2, 0) is None  # it is of another batch
    path.write_bytes(path.read_bytes()[:-30])
    assert _earlier_values(path, 3, 0) is None
    assert capsys.readouterr().err.count(f"{path} is damaged; computing it anew") == 3


@pytest.mark.parametrize("mode", WORKING)
def test_every_mode_is_told_of_another_process_and_of_a_full_disk_before_it_computes(
    trained, tiny_config, monkeypatch, mode
):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}

    def in_use(path, job):
        raise RunError("in use")

    def full(folder, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name, replacement, message in (
        ("_acquire", in_use, "in use"),
        ("check_room", full, "cannot write to .*No space left on device.*make room"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(lock, name, replacement)
            with pytest.raises(RunError, match=message):
                run_mode(mode, trained, tiny_config())
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_a_checkpoint_that_could_not_be_written_is_noticed_by_training_before_the_next(
    tiny_config, tmp_path, monkeypatch
):
    config = tiny_config()
    config.train.update({"steps": 200, "checkpoint_every": 100, "log_every": 1, "held_out": ""})

    def fail(*arguments):
        raise RunError("no room")

    monkeypatch.setattr("experiments.storage.checkpoint.Checkpoints._write", fail)
    with pytest.raises(RunError, match="no room"):
        train(config, tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert 100 <= json.loads(lines[-1])["step"] < 200  # the next checkpoint would have told


def test_a_configuration_that_is_not_of_a_run_is_not_overwritten(tiny_config, tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(RunError, match=r"config\.json is not the configuration of a run"):
        train(tiny_config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    "place, value",
    [("devices", 4096), ("train.held_out", "nope"), ("dequantise.lr", -1.0), ("fit.rate", -1.0)],
)
def test_nothing_is_written_before_everything_has_been_tried(
    trained, tiny_config, tmp_path, place, value
):
    before = (trained / "config.json").read_bytes()
    config = tiny_config()
    set_at(place, value)(config)
    config.train.steps = 21
    for workdir in (trained, tmp_path / "new"):
        with pytest.raises((RunError, ValueError), match=str(value)):
            train(config, workdir)
    assert (trained / "config.json").read_bytes() == before and not (tmp_path / "new").exists()
