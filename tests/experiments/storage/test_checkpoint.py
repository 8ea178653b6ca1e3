import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.errors import RunError
from experiments.modes.train import train
from experiments.run.devices import make_mesh
from experiments.run.loading import load
from experiments.run.placement import replicated
from experiments.storage.checkpoint import Checkpoints, last_good, latest, restore, template_of

STATE = {"w": jnp.arange(6.0).reshape(2, 3), "key": jax.random.key(7)}


def template(state):
    return template_of(state, replicated(make_mesh(1, 1)))


def steps(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def files(workdir, step):
    folder = workdir / "checkpoints" / str(step)
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_what_is_saved_comes_back_bitwise_even_if_the_state_is_donated_meanwhile(tmp_path):
    expected = np.random.default_rng(0).standard_normal((300, 3)).astype(np.float32)
    state = {"w": jnp.array(expected), "key": jax.random.split(jax.random.key(3))}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, state, {"next": [5, "x"]})
        jax.jit(lambda s: jax.tree.map(jnp.flip, s), donate_argnums=0)(state)
    got, position = restore(
        tmp_path, template({"w": expected, "key": jax.random.split(jax.random.key(0))})
    )
    np.testing.assert_array_equal(got["w"], expected)
    assert (got["key"] == jax.random.split(jax.random.key(3))).all() and position == {
        "next": [5, "x"]
    }


@pytest.mark.parametrize(
    "keep, period, expected", [(2, 0, [8, 10]), (1, 4, [4, 8, 10]), (9, 0, [2, 4, 6, 8, 10])]
)
def test_the_newest_and_every_so_many_are_kept(tmp_path, keep, period, expected):
    for some in ((2, 4, 6), (8, 10)):  # in two runs, so that one meets the other's checkpoints
        with Checkpoints(tmp_path, keep, period) as checkpoints:
            for step in some:
                checkpoints.save(step, STATE, step)
    assert steps(tmp_path) == expected and latest(tmp_path) == 10
    assert [restore(tmp_path, template(STATE), step).position for step in expected] == expected
    assert restore(tmp_path, template(STATE)).position == 10


def test_the_only_checkpoint_goes_only_when_there_is_a_newer_one(tmp_path, monkeypatch):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, STATE, 1)
    monkeypatch.setattr("experiments.storage.checkpoint.hashes", lambda folder: 1 / 0)
    with pytest.raises(
        RunError,
        match=r"could not write checkpoint 2 \(division by zero\); the last good checkpoint is .*checkpoints/1\.",
    ):
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            checkpoints.save(2, STATE, 2)
    assert steps(tmp_path) == [1] and latest(tmp_path) == 1
    monkeypatch.undo()
    assert restore(tmp_path, template(STATE)).position == 1


def test_a_checkpoint_that_was_cut_off_is_passed_over_and_cleared_away(tmp_path):
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, STATE, step)
    folder = tmp_path / "checkpoints"
    (folder / "3" / "manifest.json").unlink()
    shutil.copytree(folder / "3", folder / "4.orbax-checkpoint-tmp-17")
    assert latest(tmp_path) == 2 and last_good(tmp_path).endswith("checkpoints/2")
    assert restore(tmp_path, template(STATE)).position == 2
    with pytest.raises(RunError, match="no complete checkpoint of step 3"):
        restore(tmp_path, template(STATE), 3)
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        assert sorted(p.name for p in folder.iterdir()) == ["1", "2"]
        checkpoints.save(3, STATE, "again")
    assert restore(tmp_path, template(STATE)).position == "again"


def test_a_flipped_bit_in_any_file_is_refused(trained):
    damaged = files(trained, 20)
    assert len(damaged) > 5
    for file in damaged:
        whole = file.read_bytes()
        for at in {0, len(whole) // 2, len(whole) - 1} if whole else ():
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            with pytest.raises(RunError, match="is damaged.*Remove that folder") as caught:
                load(trained)
            if file.name != "manifest.json":
                assert str(file.relative_to(trained / "checkpoints" / "20")) in str(caught.value)
        file.write_bytes(whole)
    assert load(trained).step == 20


def test_a_flipped_bit_anywhere_in_the_manifest_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, STATE, 1)
    file = tmp_path / "checkpoints" / "1" / "manifest.json"
    whole = file.read_bytes()
    for at in range(0, len(whole), 3):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(RunError, match="is damaged"):
            restore(tmp_path, template(STATE))


def test_a_torn_file_and_a_missing_one_are_refused(trained):
    largest = max(files(trained, 20), key=lambda p: p.stat().st_size)
    whole = largest.read_bytes()
    for tear in (lambda: largest.write_bytes(whole[:-1]), largest.unlink):
        tear()
        with pytest.raises(RunError, match=f"checkpoints/20 is damaged: .*{largest.name}"):
            load(trained)
    shutil.rmtree(trained / "checkpoints" / "20")  # the remedy that the message names
    assert load(trained).step == 10


def test_training_does_not_go_on_from_a_damaged_checkpoint(trained, tiny_config):
    file = files(trained, 20)[-1]
    file.write_bytes(file.read_bytes() + b"x")
    config = tiny_config()
    config.train.steps = 30
    with pytest.raises(RunError, match="is damaged"):
        train(config, trained)
    assert steps(trained) == [10, 20]


def test_no_checkpoint_is_an_error_that_says_how_to_make_one(trained, tmp_path):
    shutil.rmtree(trained / "checkpoints")
    with pytest.raises(RunError, match="no complete checkpoint; train it first"):
        load(trained)
    with pytest.raises(RunError, match="no run directory: it has no config.json"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize("change", [{"net": {"width": 16}}, {"net": {"depth": 2}}])
def test_a_checkpoint_of_another_network_is_refused(trained, change):
    config = json.loads((trained / "config.json").read_text())
    for section, values in change.items():
        config[section] |= values
    (trained / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="does not fit the network"):
        load(trained)


def test_an_older_checkpoint_can_be_asked_for(trained, state_of):
    assert load(trained, 10).step == 10
    (old, position), (new, later) = state_of(trained, 10), state_of(trained)
    assert int(old.step) == 10 and int(new.step) == 20 and position != later
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), old.params, new.params)))
