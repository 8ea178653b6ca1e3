"""What is counted of large networks, and the steps that are compared where arrays live apart."""

import jax
import numpy as np
import pytest

from experiments.benchmarks import placements, scale
from experiments.benchmarks.scale import Paper, row


def cells(text):
    return [float(cell) for cell in text.strip("| ").split(" | ")[1:]]


def test_a_row_adds_up():
    paper = Paper("net", 1_000_000_000, 616e9, 2**30, share=0.5)
    devices, images, state, gathered, kept, together, compute, links, rate = cells(row(paper, 4, 3))
    assert (devices, images) == (4, 3)
    np.testing.assert_allclose(state, 20e9 / 4 / 2**30, atol=0.01)
    np.testing.assert_allclose(gathered, 4e9 / 2**30, atol=0.01)
    assert kept == 3.0 and together == pytest.approx(state + gathered + kept, abs=0.1)
    assert compute == 24  # 4 passes of 3 images at half of 616 TFLOP/s
    assert links == 180  # three quarters of 12 GB over 50 GB/s
    assert rate == 67  # 12 images in 180 ms


def test_what_is_kept_of_an_image_does_not_depend_on_how_many_there_are(image_run):
    run = image_run().run
    one, two, three = (scale._residuals(run, batch) for batch in (1, 2, 3))
    assert three - two == two - one > 0


def test_a_step_keeps_its_numbers_wherever_its_arrays_live(image_run):
    run = image_run((32, 32, 3), 256).run
    subjects = {
        name: placements.subject(run, place, 4) for name, place in placements.ways(4).items()
    }
    assert list(subjects) == ["one device", "whole on all", "split update", "fsdp"]
    losses = [float(each.call().loss) for each in subjects.values()]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)
    given = {name: each.given for name, each in subjects.items()}
    assert given["fsdp"] <= given["split update"] < given["whole on all"] <= given["one device"]
    assert jax.device_count() == 4
