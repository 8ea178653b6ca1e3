"""The training step in a loop of one's own: no configuration, no flax, any callable as the network."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.state import TrainState, ema_update, init_state, make_optimizer, make_train_step
from sde_lib import VP, Denoiser, Uniform, denoising_loss, draw_times

REFERENCE = np.load(Path(__file__).parents[1] / "fixtures" / "optim_ema.npz")


def given_gradient(params, key, batch):
    """A loss whose gradient is the batch."""
    return sum(jax.tree.leaves(jax.tree.map(lambda p, g: jnp.sum(p * g), params, batch)))


def test_adam_warm_up_clipping_and_average_are_those_of_the_reference():
    at = lambda prefix, i: {name: REFERENCE[f"{prefix}{name}{i}"] for name in ("w", "b")}  # noqa: E731
    tx = make_optimizer(lr=2e-4, warmup=3, clip=1.0)
    state = init_state(jax.random.key(0), at("", 0), tx)
    step = make_train_step(given_gradient, tx, ema_rate=0.999)
    for i in range(6):
        state, metrics = step(state, at("g", i))
        norm = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in at("g", i).values()))
        assert norm > 1, "no gradient here is clipped"
        np.testing.assert_allclose(metrics.grad_norm, norm, rtol=1e-6)  # before clipping
        for got, expected in ((state.params, at("", i + 1)), (state.ema, at("ema_", i + 1))):
            for name in ("w", "b"):  # updates are 1e-4; float32 near 1 resolves 1e-7
                np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=2.5e-7)
    assert int(state.step) == 6
    # the first update of a warm-up is null, and compared above
    np.testing.assert_array_equal(REFERENCE["w1"], REFERENCE["w0"])


def test_without_warm_up_the_first_update_counts_and_a_cosine_ends_at_nothing():
    tx = make_optimizer(lr=1e-3, warmup=0, clip=0.0, decay_steps=4)
    state = init_state(jax.random.key(0), {"w": jnp.zeros(3)}, tx)
    step = make_train_step(given_gradient, tx)
    places = [np.zeros(3)]
    for _ in range(6):
        state, _ = step(state, {"w": jnp.full(3, 100.0)})
        places.append(np.asarray(state.params["w"]))
    moves = -np.diff(places, axis=0)[:, 0]
    # Adam moves by lr
    np.testing.assert_allclose(
        moves[:4], 1e-3 * (1 + np.cos(np.pi * np.arange(4) / 4)) / 2, rtol=1e-3
    )
    np.testing.assert_array_equal(moves[4:], 0)


def test_clipping_scales_the_whole_gradient():
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    # an update of g / (|g| + 1)
    tx = make_optimizer(lr=1.0, warmup=0, clip=1.0, b1=0.0, b2=0.0, eps=1.0)
    updates, _ = tx.update(grads, tx.init(grads), grads)
    np.testing.assert_allclose(
        [updates["a"][0], updates["b"][0]], [-0.6 / 1.6, -0.8 / 1.8], rtol=1e-5
    )


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"lr": 0.0}, "lr > 0"),
        ({"warmup": -1}, "warmup >= 0"),
        ({"clip": -1.0}, "clip >= 0"),
        ({"warmup": 9, "decay_steps": 9}, "warm-up"),
    ],
)
def test_an_optimizer_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(**settings)


def score_matching(params, key, x0):
    """Learn the noise in data N(0, 1) under VP, whose expectation is sigma x: the optimum is w = 1."""
    sde, (for_times, for_noise) = VP(), jax.random.split(key)
    denoiser = Denoiser(
        lambda x, sigma, cond: params["w"] * sigma[:, None] * x,
        sde,
        prediction="noise",
        inputs="sigma",
    )
    return jnp.mean(
        denoising_loss(for_noise, denoiser, x0, draw_times(for_times, sde, len(x0), Uniform()))
    )


def train_alone(steps, seed=0, size=256):
    """Train from a loop of one's own; return the state and the losses."""
    tx, data = optax.adam(2e-2), np.random.default_rng(seed)
    state = init_state(jax.random.key(seed), {"w": jnp.zeros(())}, tx)
    step = make_train_step(score_matching, tx, 0.98)
    losses = []
    for _ in range(steps):
        state, metrics = step(state, data.standard_normal((size, 1)).astype(np.float32))
        losses.append(float(metrics.loss))
    return state, losses


def test_score_matching_in_a_loop_of_ones_own_finds_the_score():
    state, losses = train_alone(300)
    # ten seeds end with a standard deviation of 0.0034 from 1, their averages over some 50 steps of
    # 0.0019
    np.testing.assert_allclose(state.params["w"], 1, atol=0.02)
    np.testing.assert_allclose(state.ema["w"], 1, atol=0.01)
    assert np.mean(losses[-50:]) < 0.5 * np.mean(losses[:5])


def test_the_randomness_of_a_step_is_its_key_and_number():
    whole, losses = train_alone(6)
    data = np.random.default_rng(0)
    batches = [data.standard_normal((256, 1)).astype(np.float32) for _ in range(6)]
    tx = optax.adam(2e-2)
    state = init_state(jax.random.key(0), {"w": jnp.zeros(())}, tx)
    step = make_train_step(score_matching, tx, 0.98)
    for i, batch in enumerate(batches[:3]):
        expected = score_matching(
            state.params, jax.random.fold_in(jax.random.key(0), i), jnp.asarray(batch)
        )
        state, metrics = step(state, batch)
        np.testing.assert_allclose(metrics.loss, expected, rtol=1e-5)
    # as from a checkpoint, into a step compiled anew
    state = jax.tree.map(jnp.copy, TrainState(*state))
    step = make_train_step(score_matching, tx, 0.98)
    for batch in batches[3:]:
        state, metrics = step(state, batch)
    jax.tree.map(np.testing.assert_array_equal, whole._replace(key=0), state._replace(key=0))
    assert float(metrics.loss) == losses[-1]


def test_a_step_donates_its_state_but_not_the_parameters_that_the_run_began_with():
    tx, params = optax.adam(1e-2), {"w": jnp.ones(())}
    key = jax.random.key(0)
    before = init_state(key, params, tx)
    after, _ = make_train_step(score_matching, tx)(before, np.ones((8, 1), np.float32))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((after, params, key)))


def test_a_step_can_end_at_weights_of_unit_magnitude():
    """A weight that counts by its direction has a gradient across itself, and grows with every step
    unless it is held.
    """
    start = {"weight": np.float32([[3.0, 0.0], [4.0, 1.0]]), "gain": np.float32([2.0, 2.0])}
    gradient = {"weight": np.float32([[0.4, 1.0], [-0.3, 0.0]]), "gain": np.float32([1.0, -1.0])}
    ends = {}
    for held in (False, True):
        tx = make_optimizer(lr=0.1, warmup=0, clip=0.0, unit_weights=held)
        state, step = init_state(jax.random.key(0), start, tx), make_train_step(given_gradient, tx)
        for _ in range(2):
            state, _ = step(state, gradient)
        ends[held] = state.params
    # of each output, along the input axis
    np.testing.assert_allclose(np.mean(ends[True]["weight"] ** 2, axis=0), 1, rtol=1e-3)
    # Adam's step has the gradient's signs: 0.1 from the start, which was held at magnitude 1, and
    # once more
    column = np.array([3.0, 4.0]) + [-0.1, 0.1]
    column = column / np.sqrt(np.mean(column**2)) + [-0.1, 0.1]
    np.testing.assert_allclose(
        ends[True]["weight"][:, 0], column / np.sqrt(np.mean(column**2)), rtol=1e-3
    )
    np.testing.assert_array_equal(ends[True]["gain"], ends[False]["gain"])
    with pytest.raises(ValueError, match="such as MPUNet; leave it False"):
        make_optimizer(unit_weights=True).init({"kernel": start["weight"]})


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 2 / 11), (1, 3 / 12), (89, 91 / 100), (10**6, 0.999)]
)
def test_the_average_warms_up(step, rate):
    """After n updates the old average counts (1 + n) / (10 + n), at most the rate that it is meant
    to have.
    """
    moved = ema_update(jnp.zeros(2), jnp.ones(2), 0.999, jnp.asarray(step))
    np.testing.assert_allclose(moved, 1 - rate, rtol=1e-4)
