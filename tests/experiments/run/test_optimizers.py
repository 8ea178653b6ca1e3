"""Optimisers by their names in optax: updates, schedules, settings, and checkpoints of what they
remember.
"""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.errors import RunError
from experiments.modes.train import train
from experiments.run.devices import make_mesh
from experiments.run.optimizers import SCHEDULES, make_optimizer, make_schedule, optimizers
from experiments.run.placement import replicated
from experiments.state import init_state, make_train_step
from experiments.storage.checkpoint import Checkpoints, restore, template_of

WARMUP, END, LR = 4, 12, 0.5


def given_gradient(params, key, batch):
    """A loss whose gradient is the batch."""
    return sum(jax.tree.leaves(jax.tree.map(lambda p, g: jnp.sum(p * g), params, batch)))


def after_the_warm_up(name, progress):
    """Return the share of the learning rate that is left when this share of the schedule has
    passed.
    """
    return {
        "constant": np.ones_like(progress),
        "cosine": 0.5 * (1 + np.cos(np.pi * progress)),
        "linear": 1 - progress,
    }[name]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_warms_up_and_arrives_at_its_end(name):
    """Plain gradient descent on a gradient of 1 moves by the learning rate."""
    tx = make_optimizer("sgd", lr=LR, warmup=WARMUP, clip=0.0, schedule=name, decay_steps=END)
    state = init_state(jax.random.key(0), {"w": jnp.zeros(())}, tx)
    step = make_train_step(given_gradient, tx)
    places = [0.0]
    for _ in range(END + 3):
        state, _ = step(state, {"w": jnp.ones(())})
        places.append(float(state.params["w"]))
    made = np.arange(END + 3)
    progress = np.clip((made - WARMUP) / (END - WARMUP), 0, 1)
    rates = LR * np.where(made < WARMUP, made / WARMUP, after_the_warm_up(name, progress))
    np.testing.assert_allclose(-np.diff(places), rates, atol=2e-6)


def test_without_a_name_the_schedule_is_a_cosine_where_it_has_an_end():
    steps = np.arange(20)
    for decay_steps, name in ((0, "constant"), (END, "cosine")):
        ours, named = (make_schedule(LR, WARMUP, schedule, decay_steps) for schedule in ("", name))
        np.testing.assert_array_equal(jax.vmap(ours)(steps), jax.vmap(named)(steps))


@pytest.mark.parametrize(
    "name, settings, theirs",
    [
        ("adam", {}, lambda rate: optax.adam(rate, b1=0.9, b2=0.999, eps=1e-8)),
        ("adamw", {"weight_decay": 0.3}, lambda rate: optax.adamw(rate, weight_decay=0.3)),
        ("lion", {"b1": 0.5}, lambda rate: optax.lion(rate, b1=0.5)),
        ("sgd", {"momentum": 0.9, "nesterov": True}, lambda rate: optax.sgd(rate, 0.9, True)),
        ("muon", {"ns_steps": 3}, lambda rate: optax.contrib.muon(rate, ns_steps=3)),
        ("adafactor", {"min_dim_size_to_factor": 2}, lambda rate: optax.adafactor(rate, 2)),
    ],
)
def test_a_named_optimizer_is_that_of_optax_and_goes_on_bitwise_from_a_checkpoint(
    name, settings, theirs, tmp_path
):
    params = {"w": jnp.asarray([[1.0, 2.0], [3.0, 5.0]]), "b": jnp.asarray([-1.0, 1.0])}
    gradients = [jax.tree.map(lambda p, i=i: jnp.sin(3 * p + i), params) for i in range(4)]
    ours = make_optimizer(name, lr=0.1, warmup=0, clip=0.5, **settings)
    rate = optax.join_schedules(
        [optax.linear_schedule(0.0, 0.1, 1), optax.constant_schedule(0.1)], [0]
    )
    reference = optax.chain(optax.clip_by_global_norm(0.5), theirs(rate))
    step, ends = make_train_step(given_gradient, ours), []
    for tx in (ours, reference):
        state = init_state(jax.random.key(0), params, tx)
        step = make_train_step(given_gradient, tx)
        for i, gradient in enumerate(gradients):
            if i == 2 and tx is ours:
                with Checkpoints(tmp_path) as checkpoints:
                    checkpoints.save(i, state, None)
                template = template_of(state, replicated(make_mesh(1, 1)))
                state = restore(tmp_path, template).state
            state, _ = step(state, gradient)
        ends.append(state._replace(key=0))
    jax.tree.map(np.testing.assert_array_equal, *ends)
    assert not np.allclose(ends[0].params["w"], params["w"])


def test_what_optax_offers_is_known_by_name_and_the_rest_refused():
    assert {"adam", "adamw", "lion", "sgd", "muon", "rmsprop", "adafactor"} <= optimizers().keys()
    assert not {"scale_by_adam", "chain", "apply_updates", "clip"} & optimizers().keys()


@pytest.mark.parametrize(
    "settings, parts",
    [
        ({"name": "adamm"}, ["unknown optimizer 'adamm'", "adam", "lion"]),
        ({"name": "lbfgs"}, ["lbfgs", "needs nothing but gradients"]),
        ({"name": "adamw", "weight_dcay": 0.1}, ["no setting weight_dcay", "weight_decay", "lr"]),
        ({"name": "dpsgd"}, ["needs a value for l2_norm_clip"]),
        ({"b1": 1.0}, ["b1 >= 0 and < 1, got 1.0"]),
        ({"name": "sgd", "momentum": -0.5}, ["momentum >= 0 and < 1, got -0.5"]),
        ({"name": "adamw", "weight_decay": -1.0}, ["weight_decay >= 0, got -1.0"]),
        ({"lr": float("nan")}, ["lr > 0, got nan"]),
        ({"lr": float("inf")}, ["lr > 0", "got inf"]),
        ({"lr": "fast"}, ["lr > 0, got fast"]),
        ({"decay_steps": -1}, ["decay_steps >= 0, got -1"]),
        ({"schedule": "cosin"}, ["unknown schedule 'cosin'", "constant, cosine, linear"]),
        ({"schedule": "linear"}, ["'linear' has to end", "decay_steps"]),
        ({"schedule": "linear", "decay_steps": 9, "warmup": 9}, ["linear schedule ends", "9"]),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, parts):
    with pytest.raises(ValueError) as refused:
        make_optimizer(**settings)
    assert not [part for part in parts if part not in str(refused.value)], refused.value


def test_a_run_with_another_optimizer_resumes_bitwise_and_tells_it_from_adam(
    tiny_config, tmp_path, state_of
):
    config = tiny_config()
    config.optim.update({"name": "adamw", "weight_decay": 0.1, "schedule": "linear"})
    config.optim.decay_steps = 8
    config.train.update({"steps": 6, "held_out": ""})
    train(config, tmp_path / "whole")
    for steps in (2, 6):
        config.train.steps = steps
        train(config, tmp_path / "parts")
    jax.tree.map(
        np.testing.assert_array_equal, state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    )
    config.optim.weight_decay = 0.2
    with pytest.raises(RunError, match="config.optim.weight_decay was 0.1, now 0.2"):
        train(config, tmp_path / "parts")


def test_a_run_saved_before_these_settings_existed_resumes_bitwise(
    trained, tiny_config, tmp_path, state_of
):
    older = shutil.copytree(trained, tmp_path / "older")
    saved = json.loads((older / "config.json").read_text())
    for section, key in (("optim", "name"), ("optim", "schedule"), ("train", "accumulate")):
        del saved[section][key]
    (older / "config.json").write_text(json.dumps(saved))
    config = tiny_config()
    config.train.steps = 23
    for workdir in (trained, older):
        train(config, workdir)
    jax.tree.map(np.testing.assert_array_equal, state_of(trained), state_of(older))
