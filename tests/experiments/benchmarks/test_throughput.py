"""The counts of the throughput benchmark, against closed forms and brute force."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.lax import conv_general_dilated

from experiments.benchmarks.accelerator.records import Records, read_records
from experiments.benchmarks.calls import Steps
from experiments.benchmarks.throughput import __main__ as script
from experiments.benchmarks.throughput import loop, network
from experiments.benchmarks.throughput.account import Account, account, kept_bytes
from experiments.benchmarks.throughput.operations import operations
from experiments.benchmarks.throughput.subjects import SUBJECTS, subject_run
from experiments.state import init_state
from experiments.storage.checkpoint import latest

LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv(x, w, stride=1, padding: Any = "SAME", **settings):
    return conv_general_dilated(
        x, w, (stride, stride), padding, dimension_numbers=LAYOUT, **settings
    )


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_a_convolution_multiplies_where_its_kernel_meets_the_image():
    counted = operations(conv, shape(8, 32, 32, 16), shape(3, 3, 16, 24))
    assert counted.convolutions == 2 * 8 * (3 * 32 - 2) ** 2 * 16 * 24
    assert counted.products == 0
    inside = operations(
        lambda x, w: conv(x, w, padding="VALID"), shape(2, 9, 7, 4), shape(3, 3, 4, 5)
    )
    assert inside.total == 2 * 2 * 7 * 5 * 9 * 4 * 5


@pytest.mark.parametrize(
    "stride, padding, up, apart",
    [(2, (1, 2), 1, 1), (1, (2, 1), 2, 1), (3, (0, 4), 2, 2), (1, (2, 2), 1, 2)],
)
def test_strides_and_dilations_are_counted_as_brute_force_does(stride, padding, up, apart):
    """Each product of a pixel that is 1 with an entry that is 1 adds 1 to the sum of the results."""

    def dilated(x, w):
        return conv(
            x, w, stride, [padding, padding], lhs_dilation=(up, up), rhs_dilation=(apart, apart)
        )

    ones = jnp.ones((2, 7, 6, 3)), jnp.ones((3, 2, 3, 4))
    assert operations(dilated, *ones).convolutions == 2 * float(dilated(*ones).sum())


def test_groups_of_channels_are_counted_as_brute_force_does():
    def grouped(x, w):
        return conv(x, w, feature_group_count=3)

    ones = jnp.ones((2, 5, 5, 6)), jnp.ones((3, 3, 2, 9))
    assert operations(grouped, *ones).total == 2 * float(grouped(*ones).sum())


@pytest.mark.parametrize("stride", [1, 2])
def test_each_of_the_two_gradients_of_a_convolution_costs_what_it_does(stride):
    x, w = shape(4, 12, 12, 3), shape(3, 3, 3, 5)
    once = operations(lambda x, w: conv(x, w, stride), x, w).total
    both = operations(jax.grad(lambda x, w: (conv(x, w, stride) ** 2).sum(), (0, 1)), x, w).total
    assert both == 3 * once


def test_products_of_matrices_are_counted_with_their_batches():
    counted = operations(
        lambda a, b: jnp.einsum("bij,bjk->bik", a, b), shape(7, 2, 3), shape(7, 3, 5)
    )
    assert counted == (0, 2 * 7 * 2 * 3 * 5)


def test_loops_and_branches_count_as_often_as_they_run():
    def body(carry, _):
        return carry @ carry, None

    def loop(x):
        once = jax.jit(lambda x: x @ x)(x)
        twice = jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x, once)
        return jax.lax.scan(body, twice, length=5)[0]

    assert operations(loop, shape(4, 4)).products == (1 + 2 + 5) * 2 * 4**3


def test_one_convolution_is_counted_as_xla_counts_it():
    x, w = shape(8, 32, 32, 16), shape(3, 3, 16, 24)
    counted = operations(conv, x, w).total
    lowered = jax.jit(conv).lower(x, w)
    for program in (lowered, lowered.compile()):
        costs: Any = program.cost_analysis()
        assert costs["flops"] == pytest.approx(counted)


def test_what_a_gradient_keeps_is_counted_once_and_without_its_arguments():
    def loss(params, x):
        hidden = jnp.sin(x @ params["w"])  # keeps the cosine, and x, which is given
        return (hidden @ params["v"]).sum()  # keeps hidden, and v, which is given

    params = {"w": shape(6, 5), "v": shape(5, 3)}
    assert kept_bytes(loss, params, shape(10, 6)) == 4 * 2 * 10 * 5
    products = jax.checkpoint(
        loss, policy=lambda primitive, *_, **__: primitive.name == "dot_general"
    )
    assert kept_bytes(products, params, shape(10, 6)) == 4 * 10 * 5


def test_the_account_has_every_part_of_the_state():
    """Two moments, an average and the parameters; a gradient; the random key of the run counts nothing."""
    run = subject_run("dit", "default", tiny=True)
    parameters = sum(p.size for p in jax.tree.leaves(run.split.params))
    state = jax.eval_shape(
        lambda params: init_state(jax.random.key(0), params, run.tx), run.split.params
    )
    batch = {"x": shape(8, 16, 16, 3), "label": jax.ShapeDtypeStruct((8,), jnp.int32)}
    by_hand = account(run, state, batch)
    assert by_hand.state == pytest.approx(
        4 * 4 * parameters, abs=16
    )  # and counters of the optimiser
    assert by_hand.gradient == 4 * parameters
    assert by_hand.batch == 8 * (16 * 16 * 3 + 1) * 4
    assert 8 * 64 * 32 * 4 < by_hand.results < by_hand.activations
    assert by_hand.total - by_hand.least == by_hand.activations - by_hand.results


def test_devices_share_the_batch_and_what_is_kept_of_it():
    by_hand = Account(state=16, gradient=4, batch=8, activations=40, results=12)
    assert by_hand.of_one(4) == (16, 4, 2, 10, 3)
    assert (by_hand.total, by_hand.least) == (68, 40)


def test_programs_take_turns_on_one_state():
    def step(amount):
        return lambda state, batch: (state + amount * batch, state)

    steps = Steps(jnp.zeros(()), jnp.ones(()))  # pyright: ignore[reportArgumentType]
    one, ten = steps.of(step(1)), steps.of(step(10))
    assert [float(call()) for call in (one, ten, one, one)] == [0, 1, 11, 12]


def measured(monkeypatch, out, *flags):
    """Run the part of the benchmark that measures a network; return its results."""
    monkeypatch.setattr("sys.argv", ["network", "--tiny", "--batch=4", f"--out={out}", *flags])
    monkeypatch.setattr(network, "set_up_jax", lambda: None)
    network.main()
    return read_records(out)


def test_a_network_is_measured_part_by_part(tmp_path, monkeypatch):
    flags = ("--network=dit", "--rounds=1", "--devices=1", "--parts", "account", "memory", "rates")
    records = measured(monkeypatch, tmp_path / "results.jsonl", *flags)
    counted, *memory = records[:3]
    assert counted["part"] == "account" and counted["parameters"] == 50028
    assert 1 < counted["xla_count_over_ours"] < 1.2
    assert [record["what"] for record in memory] == ["step", "step, remat"]
    for record in memory:
        assert 0.3 < record["over_by_hand"] < record["over_least"] < 5
        assert 0 < record["compile_seconds_from_cache"]
    rates = {record["what"]: record for record in records[3:]}
    assert list(rates) == ["product", "forward", "step", "step, remat", "walk"]
    assert rates["product"]["share_of_product"] == 1
    step = rates["step"]
    assert step["images_per_second"] == pytest.approx(4 / step["seconds"])
    assert step["gflop_per_second"] * step["seconds"] == pytest.approx(counted["gflop_of_step"])
    walk, forward = rates["walk"], rates["forward"]
    assert walk["over_network"] == pytest.approx(walk["seconds"] / 4 / forward["seconds"])
    assert walk["gflop_per_second"] * walk["seconds"] == pytest.approx(
        4 * forward["gflop_per_second"] * forward["seconds"]
    )


def test_the_loop_is_that_of_training(tmp_path, monkeypatch):
    again = []

    def started_again(workdir, steps):
        again.append((latest(workdir), steps))
        return {"seconds_to_first_step": 1.0, "processor_seconds": 2.0}

    monkeypatch.setattr(loop, "started_again", started_again)
    records = measured(
        monkeypatch, tmp_path / "results.jsonl", "--network=dit", "--parts", "loop", "--block=2"
    )
    waiting, checkpoint, *starts = records
    assert waiting["what"] == "input" and waiting["steps"] == 2 * (loop.STRETCHES - 1)
    assert 0 < waiting["share"] < 1
    assert checkpoint["what"] == "a checkpoint every 2 steps"
    assert 0 < checkpoint["wall_over_without"] and 0 < checkpoint["processor_over_without"]
    assert [record["seconds_to_first_step"] for record in starts] == [1.0, 1.0]
    steps = 2 * loop.STRETCHES
    assert again == [(steps, steps + 1), (steps, steps + 2)]


def test_a_stretch_with_a_checkpoint_is_compared_with_its_neighbours():
    """The machine gets slower by 1 from stretch to stretch; the first checkpoint does not count."""
    seconds = [10.0, 999.0, 12.0, 1.1 * 13.0, 14.0, 1.3 * 15.0, 16.0]
    assert loop.with_over_without(seconds) == pytest.approx(1.2)
    assert len(seconds) == loop.STRETCHES - 1


def test_each_network_has_its_budget_and_all_results_are_shown(tmp_path, monkeypatch, capsys):
    out = tmp_path / "results.jsonl"
    out.write_text("of an earlier run")
    monkeypatch.setattr(
        "sys.argv", ["throughput", f"--out={out}", "--budget=0.01", "--network", "small", "dit"]
    )
    script.main()
    printed = capsys.readouterr().out
    assert printed.count("stopped after its 0 s") == 2 and not out.exists()

    def pretended(name, options):
        Records(out.parent, out.name).add("rates", network=name, seconds=0.25)
        return "1 s"

    monkeypatch.setattr(script, "measured", pretended)
    monkeypatch.setattr("sys.argv", ["throughput", f"--out={out}"])
    script.main()
    printed = capsys.readouterr().out
    assert "## rates" in printed
    assert all(f"| {name} | 0.25 |" in printed for name in SUBJECTS)
