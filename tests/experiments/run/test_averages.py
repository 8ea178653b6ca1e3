"""Several averages in one training step, and the settings that say which."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.command.schema import check_settings
from experiments.configs.common import base_config
from experiments.run.averages import check_averages, choice_of, kept, rules
from experiments.run.power_average import exponent
from experiments.state import TrainState, init_state, make_train_step


def config(average="ema", **averages):
    config = base_config()
    config.average = average
    config.averages.update(averages)
    return config


def toy_loss(params, key, batch):
    return jnp.sum((params["w"] - jax.random.normal(key, (5,))) ** 2) + jnp.sum(batch)


def history_of(settings, steps=40, rate=0.95):
    """Train a toy with the averages of a configuration; return the state and the parameters."""
    tx = optax.adam(0.1)
    updates = rules(settings)
    state = init_state(jax.random.key(0), {"w": jnp.ones(5)}, tx, len(updates))
    step = make_train_step(toy_loss, tx, rate, averages=updates)
    history = []
    for _ in range(steps):
        state, _ = step(state, jnp.zeros(1))
        history.append(np.asarray(state.params["w"], np.float64))
    return state, np.array(history)


def test_each_average_is_the_weighted_sum_of_its_own_rule():
    settings = config(rates=(0.9, 0.5), snapshot_every=10, sigma_rel=(0.05, 0.2))
    assert [str(choice) for choice in kept(settings)] == [
        "ema=0.9",
        "ema=0.5",
        "sigma_rel=0.05",
        "sigma_rel=0.2",
    ]
    state, history = history_of(settings)
    for average, rate in zip(state.averages[:2], (0.9, 0.5), strict=True):
        expected = np.ones(5)
        for n, params in enumerate(history, start=1):
            keep = min(rate, (1 + n) / (10 + n))
            expected = keep * expected + (1 - keep) * params
        np.testing.assert_allclose(average["w"], expected, rtol=0, atol=2e-6)
    for average, width in zip(state.averages[2:], (0.05, 0.2), strict=True):
        ends = (np.arange(41) / 40) ** (exponent(width) + 1)
        np.testing.assert_allclose(average["w"], np.diff(ends) @ history, rtol=0, atol=2e-6)


def test_an_average_more_changes_neither_the_parameters_nor_the_others():
    alone, history = history_of(config())
    several, again = history_of(config(rates=(0.95, 0.9), snapshot_every=1))
    assert alone.averages == () and len(several.averages) == 4
    np.testing.assert_array_equal(history, again)
    np.testing.assert_array_equal(alone.ema["w"], several.ema["w"])
    np.testing.assert_array_equal(alone.ema["w"], several.averages[0]["w"])


def test_a_state_without_further_averages_is_made_as_before():
    state, _ = history_of(config(), steps=1)
    assert TrainState(*state[:5]) == state


def test_power_function_averages_are_kept_only_with_snapshots():
    assert kept(config()) == () and kept(config(sigma_rel=(0.1,))) == ()
    assert len(kept(config(snapshot_every=5))) == 2


@pytest.mark.parametrize(
    "average, kind, value",
    [
        ("ema", "ema", None),
        ("ema=0.9999", "ema", 0.9999),
        ("sigma_rel=0.15", "sigma_rel", 0.15),
        ("sigma_rel=1e-2", "sigma_rel", 0.01),
    ],
)
def test_an_average_is_named_by_kind_and_number(average, kind, value):
    assert choice_of(average) == (kind, value)


@pytest.mark.parametrize("average", ["", "Ema", "ema=", "ema=x", "0.99", "sigma_rel", "width=0.1"])
def test_a_name_of_no_average_is_refused_with_the_names_there_are(average):
    with pytest.raises(ValueError, match=f"config.average is '{average}'; expected ema, a rate"):
        check_averages(config(average))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"average": "ema=0.9"}, "is ema=0.9, but this run keeps the rates 0.999; choose"),
        (
            {"average": "ema=0.9", "rates": (0.99, 0.5)},
            "keeps the rates 0.999, 0.99, 0.5; choose one",
        ),
        ({"average": "sigma_rel=0.1"}, r"snapshot_every is 0\); train one that does"),
        ({"average": "sigma_rel=0.3", "snapshot_every": 5}, "need 0 < sigma_rel < 0.2887"),
        ({"average": "sigma_rel=nan", "snapshot_every": 5}, "need 0 < sigma_rel < 0.2887"),
        ({"rates": (0.9, 0.9)}, "keeps ema=0.9, ema=0.9; leave out"),
        ({"snapshot_every": 5, "sigma_rel": (0.1, 0.10)}, "keeps sigma_rel=0.1, sigma_rel=0.1"),
        ({"snapshot_every": 5, "sigma_rel": ()}, "names no widths to take snapshots of; name two"),
    ],
)
def test_averages_that_cannot_be_had_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        check_averages(config(**settings))


@pytest.mark.parametrize(
    "settings",
    [{}, {"average": "ema=0.999"}, {"average": "sigma_rel=0.2", "snapshot_every": 5}],
)
def test_averages_that_can_be_had_are_not(settings):
    check_averages(config(**settings))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rates": (0.9, 1.0)}, r"need 0 <= config.averages.rates < 1, got 1.0"),
        ({"rates": (-0.1,)}, r"need 0 <= config.averages.rates < 1, got -0.1"),
        ({"rates": ("x",)}, r"config.averages.rates takes numbers, got 'x'"),
        ({"sigma_rel": (0.1, 0.0)}, r"need 0 < config.averages.sigma_rel < 0.288675, got 0.0"),
        ({"sigma_rel": (0.29,)}, r"need 0 < config.averages.sigma_rel < 0.288675, got 0.29"),
        ({"snapshot_every": -1}, r"need config.averages.snapshot_every >= 0, got -1"),
    ],
)
def test_numbers_out_of_range_are_refused_one_by_one(settings, message):
    given = config(**settings)
    given.data.name = given.net.name = "X"
    with pytest.raises(ValueError, match=message):
        check_settings(given)
