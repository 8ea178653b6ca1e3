"""Where arrays live: rules, and that a run computes the same wherever they do."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from experiments.configs.common import base_config
from experiments.run.devices import DATA, FSDP, fitting_mesh, group_mesh, make_mesh
from experiments.run.placement import Placement, Rule, groups, placement, replicated, share
from experiments.state import abstract_state, init_state, make_train_step

WIDE = 64  # numbers along the axes of the weights of the toy network


def rule(pattern, axis):
    return Rule(re.compile(pattern), axis)


def spec_of(place, shape, name="kernel"):
    return place.weights({name: jax.ShapeDtypeStruct(shape, jnp.float32)})[name].spec


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((64, 32), 0),
        ((32, 64), 1),
        ((3, 3, 64, 128), 3),
        ((64, 64), 1),  # of equal axes the last
        ((6, 1001, 64), 2),  # 1001 is odd
        ((2048,), 0),
        ((32, 32), 1),  # 1024 numbers are enough
    ],
)
def test_an_array_is_split_along_its_largest_axis_that_can_be(shape, axis):
    place = Placement(make_mesh(4, 4, fsdp=2))
    assert spec_of(place, shape) == PartitionSpec(*[None] * axis, (FSDP,))


@pytest.mark.parametrize("shape", [(), (16,), (31, 33), (3, 3, 3, 37), (1023,), (1025, 1)])
def test_a_small_or_odd_array_is_whole(shape):
    assert spec_of(Placement(make_mesh(4, 4, fsdp=4)), shape) == PartitionSpec()


def test_the_first_rule_whose_pattern_is_found_decides():
    rules = (rule("norm", "whole"), rule("embedding", 0), rule("em", "largest"))
    place = Placement(make_mesh(4, 4, fsdp=2), rules=rules)
    assert spec_of(place, (64, 32), "block_norm_1") == PartitionSpec()
    assert spec_of(place, (32, 64), "embedding") == PartitionSpec((FSDP,))
    assert spec_of(place, (32, 64), "item") == PartitionSpec(None, (FSDP,))
    assert spec_of(place, (32, 64), "other") == PartitionSpec(None, (FSDP,))


def test_a_rule_that_cannot_be_followed_is_an_error_that_names_the_array():
    place = Placement(make_mesh(4, 4, fsdp=2), rules=(rule("kernel", 0),))
    with pytest.raises(ValueError, match=r"kernel of shape \(33, 64\) along axis 0 into 2 parts"):
        spec_of(place, (33, 64))
    with pytest.raises(ValueError, match="another axis"):
        spec_of(Placement(place.mesh, rules=(rule("kernel", 2),)), (64, 64))


@pytest.mark.parametrize("text", ["norm", "norm=last", "norm=-1", "norm=1.5", "[=0", "=", "norm="])
def test_a_rule_that_cannot_be_read_is_an_error_that_shows_it(text):
    config = base_config()
    config.placement.rules = (text,)
    with pytest.raises(ValueError, match=re.escape(f"config.placement.rules holds {text!r}")):
        placement(config, 4)


def test_rules_are_read_from_a_configuration():
    config = base_config()
    config.devices, config.placement.fsdp = 4, 2
    config.placement.rules = ("a=b=whole", "kernel=1")
    place = placement(config, 4)
    assert [(r.pattern.pattern, r.axis) for r in place.rules] == [("a=b", "whole"), ("kernel", 1)]
    assert dict(place.mesh.shape) == {DATA: 2, FSDP: 2}


@pytest.mark.parametrize(
    ("batch", "devices", "fsdp", "message"),
    [
        (6, 4, 1, "a batch of 6 cannot be shared by 4 devices; choose 4 or 8"),
        (3, 4, 1, "a batch of 3 cannot be shared by 4 devices; choose 4, or"),
        (8, 3, 2, "config.placement.fsdp is 2, but 3 devices make no whole number of groups"),
        (6, 0, 4, "a batch of 6 cannot be shared by 4 devices; choose 4 or 8"),
        (8, 5, 1, "config.devices is 5, but JAX sees 4"),
    ],
)
def test_devices_that_cannot_share_the_work_are_refused(batch, devices, fsdp, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(batch, devices, fsdp)


def test_a_batch_of_any_size_finds_a_mesh():
    assert dict(fitting_mesh(6, 0, 2).shape) == {DATA: 1, FSDP: 2}
    assert dict(fitting_mesh(8, 0, 2).shape) == {DATA: 2, FSDP: 2}
    mesh = fitting_mesh(3, 0, 2)  # which no group can share
    assert share(mesh, {"x": np.zeros((3, 2))})["x"].sharding.is_fully_replicated


def test_groups_are_of_devices_of_their_own():
    config = base_config()
    config.placement.fsdp = 2
    one, two = groups(config, 2)
    assert [d.id for d in one.mesh.devices.flat] == [0, 1]
    assert [d.id for d in two.mesh.devices.flat] == [2, 3]
    assert dict(group_mesh(3, 1).shape) == {DATA: 1, FSDP: 1}


def toy_loss(params, key, batch):
    """Of a network of two layers with noise, as a mean over examples."""
    x = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
    hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"][None])
    return jnp.mean(jnp.square(hidden @ params["second"]["kernel"] - batch["x"]))


def toy_params():
    keys = jax.random.split(jax.random.key(0), 2)
    normal = [jax.random.normal(key, (WIDE, WIDE)) / 8 for key in keys]
    return {
        "first": {"kernel": normal[0], "bias": jnp.zeros(WIDE)},
        "second": {"kernel": normal[1]},
    }


def trained(place, steps=3):
    """Return the state after a few steps of training with a placement, and its losses."""
    tx = optax.adam(1e-2)
    shardings = place.state(abstract_state(toy_params(), tx))
    state = init_state(jax.random.key(1), toy_params(), tx, shardings=shardings)
    step = make_train_step(place.gathers(toy_loss), tx, 0.9, shardings=shardings)
    x = np.random.default_rng(0).standard_normal((8, WIDE)).astype(np.float32)
    losses = []
    for _ in range(steps):
        state, metrics = step(state, share(place.mesh, {"x": x}))
        losses.append(float(metrics.loss))
    return state, losses


WAYS = {
    "data": Placement(make_mesh(8, 4)),
    "split update": Placement(make_mesh(8, 4), split_update=True),
    "fsdp 2": Placement(make_mesh(8, 4, fsdp=2)),
    "fsdp 2, split update": Placement(make_mesh(8, 4, fsdp=2), split_update=True),
    "fsdp 4": Placement(make_mesh(8, 4, fsdp=4)),
}


@pytest.mark.parametrize("way", WAYS)
def test_training_is_the_same_wherever_arrays_live(way):
    place = WAYS[way]
    expected, losses = trained(Placement(make_mesh(8, 1)))
    state, found = trained(place)
    np.testing.assert_allclose(found, losses, rtol=2e-6)
    for name in ("params", "ema", "opt"):
        leaves = jax.tree.leaves(getattr(expected, name))
        for want, got in zip(leaves, jax.tree.leaves(getattr(state, name)), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-6)


def share_of(array):
    """Return which part of an array its first device holds."""
    return array.addressable_shards[0].data.size / array.size


@pytest.mark.parametrize(
    ("way", "of_weights", "of_moments"),
    [
        ("data", 1, 1),
        ("split update", 1, 1 / 4),
        ("fsdp 2", 1 / 2, 1 / 2),
        ("fsdp 2, split update", 1 / 2, 1 / 4),
        ("fsdp 4", 1 / 4, 1 / 4),
    ],
)
def test_a_device_holds_its_part_only_before_and_after_a_step(way, of_weights, of_moments):
    for steps in (0, 2):
        state, _ = trained(WAYS[way], steps)
        assert share_of(state.params["first"]["kernel"]) == of_weights
        assert share_of(state.ema["first"]["kernel"]) == of_moments
        assert share_of(state.opt[0].mu["second"]["kernel"]) == of_moments
        assert share_of(state.opt[0].nu["second"]["kernel"]) == of_moments
        assert share_of(state.params["first"]["bias"]) == 1  # too small to be worth it


def test_the_backward_pass_gathers_the_weights_again():
    """Between the two passes no device holds them whole."""
    place = WAYS["fsdp 4"]
    gradient = jax.grad(place.gathers(toy_loss))
    params = jax.device_put(toy_params(), place.weights(toy_params()))
    batch = share(place.mesh, {"x": np.zeros((8, WIDE), np.float32)})
    text = jax.jit(gradient).lower(params, jax.random.key(0), batch).compile().as_text()
    assert text.count("all-gather(") >= 3  # two for the forward pass, and the second weights again
    gradients = jax.jit(gradient)(params, jax.random.key(0), batch)
    assert share_of(gradients["first"]["kernel"]) == 1 / 4


def test_the_arrays_of_a_module_are_put_and_the_rest_is_kept():
    class Module(eqx.Module):
        kernel: jax.Array
        name: str = eqx.field(static=True)
        number: float = 0.5

    place = WAYS["fsdp 2"]
    moved = place.put_weights(Module(jnp.ones((WIDE, WIDE)), "here"))
    assert share_of(moved.kernel) == 1 / 2
    assert (moved.name, moved.number) == ("here", 0.5)


def test_what_is_replicated_is_whole_everywhere():
    mesh = make_mesh(4, 4, fsdp=2)
    array = jax.device_put(jnp.arange(8.0), replicated(mesh))
    assert share_of(array) == 1 and len(array.addressable_shards) == 4
