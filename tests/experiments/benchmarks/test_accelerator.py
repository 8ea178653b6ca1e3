"""The accelerator script: the substitutes that it times compute what they stand for, the stored
answers are right, and parts report.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from experiments.benchmarks.accelerator import __main__ as script
from experiments.benchmarks.accelerator import (
    answers,
    correctness,
    restoration,
    rewritings,
    subjects,
)
from experiments.benchmarks.accelerator.records import Records, gather
from experiments.run.build import flops


def normal(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def test_the_substituted_norms_are_the_norm():
    x, scale, bias = normal(2, 4, 4, 8), normal(1, 1, 1, 8), normal(1, 1, 1, 8) + 1
    expected = models.group_norm.group_norm(x, scale, bias, 4, 1e-6)
    for substitute in (rewritings.traced_norm, rewritings.one_pass_norm):
        np.testing.assert_allclose(
            substitute(x, scale, bias, 4, 1e-6), expected, rtol=1e-4, atol=1e-5
        )


def test_the_substituted_convolution_is_the_convolution():
    x, kernel = normal(2, 4, 6, 3), normal(3, 3, 3, 5)
    np.testing.assert_allclose(
        rewritings.conv_after_upsampling(x, kernel),
        models.resample.conv_of_upsampled(x, kernel),
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("pad", "up", "down"), [((1, 1), 1, 2), ((2, 1), 2, 1), ((2, 2), 1, 1), ((2, 1), 1, 1)]
)
def test_the_substituted_filter_is_the_filter(pad, up, down):
    x = normal(2, 6, 4, 3)
    kernel = (1, 3, 3, 2)
    np.testing.assert_allclose(
        rewritings.depthwise_filter(x, kernel, pad, up=up, down=down),
        models.resample.filtered(x, kernel, pad, up=up, down=down),
        atol=1e-5,
    )


def test_substitutes_are_in_place_only_while_tracing():
    before = models.layers.group_norm
    with rewritings.replaced(rewritings.SWITCHES["none of them"][1]):
        assert models.layers.group_norm is rewritings.traced_norm
        assert models.layers.summable is rewritings.unchanged
    assert models.layers.group_norm is before


@pytest.mark.parametrize("name", ["network DDPM++", "network NCSN++", "walk DPMpp2M"])
def test_float32_answers_are_the_stored_ones(name):
    stored = np.load(answers.STORED)
    with jax.default_matmul_precision("highest"):
        answer = answers.questions("float32")[name]()
    assert correctness.distance(answer, stored[name]) < 1e-5


def test_every_question_has_its_stored_answer():
    assert set(answers.questions("float32")) == set(np.load(answers.STORED))


def test_a_wrong_or_missing_number_is_far_away():
    stored = np.ones(4)
    assert correctness.distance(1.5 * stored, stored) == pytest.approx(0.5)
    assert np.isnan(correctness.distance([1, 1, np.nan, 1], stored))


def test_results_are_kept_as_they_come_and_gathered(tmp_path):
    records = Records(tmp_path)
    records.add("throughput", what="step", seconds=np.float32(0.5))
    records.add("throughput", what="forward", seconds=float("nan"), batch=8)
    results = gather(tmp_path)
    assert json.loads((tmp_path / "accelerator.json").read_text()) == results
    assert results[0] == {"part": "throughput", "what": "step", "seconds": 0.5}
    assert results[1]["seconds"] == "nan"
    assert "| step | 0.5 |  |" in (tmp_path / "accelerator.md").read_text()


def test_a_part_that_fails_is_reported_and_the_next_one_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "PLAN", {"missing": ("no_such_part", 30), "late": ("ceilings", 30)})
    monkeypatch.setattr(
        "sys.argv", ["accelerator", f"--out={tmp_path}", "--tiny", "--parts", "missing", "late"]
    )
    monkeypatch.setattr(script.time, "monotonic", iter([0.0, 0.0, 0.0, 1.0, 1495.0]).__next__)
    script.main()
    outcomes = {
        record["name"]: record["outcome"]
        for record in json.loads((tmp_path / "accelerator.json").read_text())
    }
    assert outcomes == {"missing": "failed with exit code 1", "late": "no time left"}


def test_operations_are_counted_on_the_cpu_or_not_at_all(monkeypatch):
    """On a GPU JAX counts nothing before compiling: `--dry_run` ended in a traceback there."""
    run = subjects.make_run("DiT-B/2", "float32", tiny=True)
    counted = flops(run)
    hidden = 64 * 32 * 4 * 32 * 2 * 2 * 2  # both products of the perceptrons, 64 tokens, 2 blocks
    assert hidden < counted < 3 * hidden

    def no_cpu(backend=None):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", no_cpu)
    assert flops(run) is None


def test_posterior_sampling_is_measured_beside_plain_sampling(tmp_path, monkeypatch):
    walks = restoration.walks

    def two(run):
        return {
            name: walk for name, walk in walks(run).items() if name in ("no measurement", "DPS")
        }

    monkeypatch.setattr(restoration, "walks", two)
    flags = ["--network=DiT-B/2", "--mode=float32", "--batch=2", "--tiny", "--untimed"]
    monkeypatch.setattr("sys.argv", ["restoration", f"--out={tmp_path}", *flags])
    restoration.main()
    plain, dps = gather(tmp_path)
    assert (plain["what"], plain["memory_over_plain"]) == ("no measurement", 1.0)
    assert dps["what"] == "DPS" and 1.0 < dps["memory_over_plain"]
    assert "seconds" not in dps
