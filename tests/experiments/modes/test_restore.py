"""Restoring on the command line: what comes in, what comes out, and what is refused."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.data.codec import GreyLevels
from experiments.errors import RunError
from experiments.modes.restore import make_job, psnr, restore
from experiments.run.loading import load
from experiments.run.opening import FREE
from experiments.run.restoration import Part
from tests.experiments.settings import with_settings

# A method that compiles fast; the others are walked by one test.
STEPS = {"steps": 2, "samples": 3, "method": "diffpir"}


@pytest.fixture(scope="module", autouse=True)
def programs_that_compile_fast():
    """Everything here runs once, on next to nothing."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def changed(loaded, label=-1, seed=0, **inverse):
    """Return a run with other settings of `config.inverse`, another label and another seed."""
    config = loaded.config.copy_and_resolve_references().unlock()
    config.inverse.update(STEPS)
    for key, value in inverse.items():
        with config.inverse.ignore_type():
            config.inverse[key] = value
    config.sampling.label = label
    config.sampling.seed = seed
    return with_settings(loaded, config.lock(), FREE)


def results(folder):
    with np.load(folder / "samples.npz") as saved:
        return dict(saved), json.loads((folder / "summary.json").read_text())


class Twice:
    """An operator of one's own."""

    def __init__(self, factor: float = 2.0):
        self.factor = factor

    def __call__(self, x):
        return self.factor * x[:1]


class Powers(Twice):
    """One that is not linear."""

    def __call__(self, x):
        return x[:1] ** 3


def drawn_at_once(loaded, task, index, report):
    return Part(x=np.zeros((len(index), 2), np.float32), nfe=1)


def refused(*arguments):
    raise AssertionError("nothing is drawn")


# One of each kind: a posterior denoiser with a Jacobian and one without, samplers, particles. That
# every method draws is in tests/experiments/run/test_restoration.py.
@pytest.mark.parametrize("method", ["tmpd", "jfps", "daps", "repaint", "tds"])
def test_every_kind_of_method_restores_a_run_of_vectors(method, trained, in_process):
    done = in_process(
        "--mode=restore",
        f"--workdir={trained}",
        f"--config.inverse.method={method}",
        "--config.inverse.steps=2",
        "--config.inverse.samples=2",
        "--config.inverse.number=3",
        "--config.inverse.split=train",
    )
    assert done.code == 0, done.err
    folder = trained / "restored" / method
    arrays, summary = results(folder)
    assert arrays["x"].shape == (3, 2, 2) and np.isfinite(arrays["x"]).all()
    assert arrays["mean"].shape == arrays["std"].shape == arrays["truth"].shape == (3, 2)
    # the default mask keeps the first of two numbers, with noise of 0.05
    assert arrays["observation"].shape == (3, 1)
    assert np.abs(arrays["observation"] - arrays["truth"][:, :1]).max() < 6 * 0.05
    assert summary["method"] == method and summary["checkpoint"] == 20 and summary["nfe"] >= 2
    assert len(summary["chi_square"]) == len(summary["rmse"]) == 3 and "psnr" not in summary
    assert summary["seconds"] > 0 and summary["operator"] == {"name": "Mask"}
    with Image.open(folder / "restored.png") as picture:
        assert min(picture.size) >= 300
    assert "chi-square" in done.out and str(folder / "samples.npz") in done.out
    assert f"| `{method}` | `Mask`, noise 0.05 | 3 x 2 |" in (trained / "card.md").read_text()


def test_examples_of_images_are_measured_restored_and_compared(image_prior, tmp_path):
    loaded = image_prior((8, 8, 1), 17, data={"name": "Digits"})
    loaded.config.unlock().data = {"name": "Digits"}
    run = changed(loaded, operator={"name": "Pool", "factor": 2}, number=2, std=0.1)
    restore(run, tmp_path)
    arrays, summary = results(tmp_path / "restored" / "diffpir")
    assert arrays["x"].shape == (2, 3, 8, 8, 1) and arrays["x"].dtype == np.uint8
    assert arrays["truth"].dtype == np.uint8 and arrays["truth"].max() <= 16
    pooled = arrays["truth"].reshape(2, 4, 2, 4, 2, 1).mean((2, 4))
    residual = (arrays["observation"] - pooled) / (0.1 * 17 / 2)
    assert residual.shape == (2, 4, 4, 1) and 0.5 < residual.std() < 1.5
    assert len(summary["psnr"]) == len(summary["psnr_of_samples"]) == 2
    error = arrays["mean"] - arrays["truth"]
    expected = 20 * np.log10(16) - 10 * np.log10((error**2).mean((1, 2, 3)))
    np.testing.assert_allclose(summary["psnr"], expected, rtol=1e-6)
    with Image.open(tmp_path / "restored" / "diffpir" / "restored.png") as picture:
        assert picture.size[1] > 7 * 96


def test_grey_levels_pass_through_the_codec_and_come_back(image_prior, tmp_path):
    """A file of grey levels, and the picture of them, are the same model values: the usual mistake
    is to hand over 0..16, 0..255 or 0..1 where the model has -1..1.
    """
    loaded = image_prior((4, 4, 1), 17)
    levels = np.arange(16).reshape(4, 4, 1)
    np.save(tmp_path / "levels.npy", levels)
    np.save(tmp_path / "plain.npy", levels[..., 0].astype(float))
    shown = np.rint(levels[..., 0] * 255 / 16).astype(np.uint8)
    Image.fromarray(shown).save(tmp_path / "shown.png")
    files = tuple(str(tmp_path / name) for name in ("levels.npy", "plain.npy", "shown.png"))
    blur = {"name": "Blur", "std": 0.3}
    job = make_job(changed(loaded, operator=blur, observation=files))
    expected = (2 * levels + 1) / 17 - 1
    np.testing.assert_allclose(job.task.y[0], expected, atol=1e-6)
    np.testing.assert_allclose(job.task.y[1], expected, atol=1e-6)
    np.testing.assert_allclose(job.task.y[2], expected, atol=2 / 255)
    restore(changed(loaded, operator=blur, observation=files[:1]), tmp_path)
    arrays, _ = results(tmp_path / "restored" / "diffpir")
    np.testing.assert_allclose(arrays["observation"][0], levels, atol=1e-4)
    assert "truth" not in arrays


def test_the_mean_and_the_spread_are_written_in_grey_levels(image_prior, tmp_path):
    loaded = image_prior((4, 4, 1), 17)
    np.save(tmp_path / "y.npy", np.full((2, 2), 8.0))
    run = changed(loaded, operator={"name": "Pool"}, observation=(str(tmp_path / "y.npy"),))
    restore(run, tmp_path)
    folder = tmp_path / "restored" / "diffpir"
    arrays, _ = results(folder)
    with np.load(folder / "batch_0000000.npz") as batch:
        x = batch["x"]
    levels = (x + 1) * 17 / 2 - 0.5
    np.testing.assert_allclose(arrays["mean"][0], levels.mean(0), atol=1e-4)
    np.testing.assert_allclose(arrays["std"][0], levels.std(0), atol=1e-4)
    np.testing.assert_array_equal(arrays["x"][0], np.clip(np.rint(levels), 0, 16))


def test_colour_images_are_read_in_the_shape_that_the_operator_gives(image_prior, tmp_path):
    loaded = image_prior((4, 4, 3), 256)
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    Image.fromarray(colour[..., 0]).save(tmp_path / "grey.png")
    job = make_job(
        changed(loaded, operator={"name": "Grey"}, observation=(str(tmp_path / "grey.png"),))
    )
    assert job.task.y.shape == (1, 4, 4, 1)
    np.testing.assert_allclose(job.task.y[0], (2.0 * colour[..., :1] + 1) / 256 - 1, atol=1e-6)
    Image.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "mask.png")
    masked = {"name": "Mask", "mask": str(tmp_path / "mask.png")}
    job = make_job(changed(loaded, operator=masked, observation=(str(tmp_path / "colour.png"),)))
    kept = colour[np.eye(4, dtype=bool)].reshape(-1)
    np.testing.assert_allclose(job.task.y[0], (2.0 * kept + 1) / 256 - 1, atol=1e-6)


def test_pixels_that_a_mask_leaves_out_are_ignored(image_prior, tmp_path):
    loaded = image_prior((4, 4, 1), 17)
    mask = np.ones((4, 4))
    mask[1, 2] = 0
    np.save(tmp_path / "mask.npy", mask)
    image = np.full((4, 4), 5.0)
    image[1, 2] = np.nan
    np.save(tmp_path / "image.npy", image)
    operator = {"name": "Mask", "mask": str(tmp_path / "mask.npy")}
    job = make_job(changed(loaded, operator=operator, observation=(str(tmp_path / "image.npy"),)))
    np.testing.assert_allclose(job.task.y, np.full((1, 15), 11 / 17 - 1), atol=1e-6)


def test_projections_and_own_operators_measure_model_values(trained, tmp_path):
    loaded = load(trained)
    np.save(tmp_path / "matrix.npy", np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.0]]))
    np.savez(tmp_path / "y.npz", y=np.array([[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]]), other=1)
    operator = {"name": "Projection", "matrix": str(tmp_path / "matrix.npy")}
    run = changed(loaded, operator=operator, observation=(str(tmp_path / "y.npz"),))
    np.testing.assert_allclose(make_job(run).task.y, [[0.1, 0.2, 0.3], [1, 2, 3]], rtol=1e-6)
    np.save(tmp_path / "one.npy", np.array([0.7]))
    own = {"name": f"{__name__}:Twice", "factor": 3.0}
    job = make_job(changed(loaded, operator=own, observation=(str(tmp_path / "one.npy"),)))
    np.testing.assert_allclose(job.task.y, [[0.7]], rtol=1e-6)
    np.testing.assert_allclose(job.task.measured.operator(jnp.array([0.2, 0.0])), [0.6], rtol=1e-6)


def test_the_label_reaches_the_network_and_is_left_out_where_it_is_not_given(image_run, tmp_path):
    loaded = image_run((4, 4, 1), 17, num_classes=3, train={"conditional": True})
    np.save(tmp_path / "y.npy", np.full((2, 2), 8))
    given = {"operator": {"name": "Pool"}, "observation": (str(tmp_path / "y.npy"),)}
    seen = []

    def denoise(x, t, cond):
        jax.debug.callback(lambda cond: seen.append(np.asarray(cond)), cond)
        return loaded.denoiser(x, t, cond)

    for label, expected in ((2, 2), (-1, 3)):
        seen.clear()
        run = changed(loaded, label=label, **given)
        restore(run._replace(denoiser=denoise), tmp_path)
        jax.effects_barrier()
        assert seen and {int(n) for cond in seen for n in np.unique(cond)} == {expected}
    untold = image_run(
        (4, 4, 1), 17, num_classes=3, train={"conditional": True, "label_dropout": 0.0}
    )
    with pytest.raises(ValueError, match="label_dropout = 0.*give --config.sampling.label"):
        restore(changed(untold, **given), tmp_path)


def test_a_job_goes_on_where_it_was_stopped_and_gives_way_to_another(trained, monkeypatch):
    loaded = changed(load(trained), split="train", number=3)
    restore(loaded, trained)
    folder = trained / "restored" / "diffpir"
    batches = sorted(folder.glob("batch_*.npz"))
    assert len(batches) == 2  # 9 samples in batches of 8
    first, _ = results(folder)
    batches[0].unlink()
    restore(loaded, trained)
    np.testing.assert_array_equal(results(folder)[0]["x"], first["x"])
    with monkeypatch.context() as patched:
        patched.setattr("experiments.modes.restore.draw_part", refused)
        restore(loaded, trained)  # nothing is left to draw
    np.save(trained / "y.npy", np.full((2, 1), 0.3))
    given = {"observation": (str(trained / "y.npy"),)}
    run = load(trained)
    for other in (
        changed(run, split="train", number=2),
        changed(run, **given),
        changed(run, std=0.07, **given),
        changed(run, settings={"iterations": 3}, **given),
        changed(run, seed=1, **given),
        changed(run, samples=4, **given),
        changed(run, steps=3, **given),
    ):
        before = len(list(folder.parent.iterdir()))
        with monkeypatch.context() as patched:
            patched.setattr("experiments.modes.restore.draw_part", drawn_at_once)
            restore(other, trained)
        assert len(list(folder.parent.iterdir())) == before + 1  # nothing is written over
    with np.load(trained / "restored" / "diffpir.1" / "samples.npz") as kept:
        np.testing.assert_array_equal(kept["x"], first["x"])


@pytest.mark.parametrize(
    "flags, message",
    [
        (["std=0"], "need 0 < config.inverse.std"),
        (["std=-0.1"], "need 0 < config.inverse.std"),
        (["method=mmp"], "unknown method 'mmp'"),
        (["operator.name=mask"], "unknown operator 'mask'.*did you mean 'Mask'"),
        (["operator.size=3"], "config.inverse.operator: Mask has no setting size; it takes mask"),
        (["operator.name=Pool"], "config.inverse.operator: Pool takes one image"),
        (["operator.name=Projection"], "Projection needs a value for matrix"),
        (["operator.name=Projection", "operator.matrix=none.npy"], "there is no such file"),
        (["operator.name=none.module:Operator"], "cannot import 'none.module:Operator'"),
        (["operator.mask=wide.npy"], r"shape \(3,\), expected that of an example, \(2,\)"),
        (["observation=none.npy"], "observation=none.npy: there is no such file"),
        (["observation=wide.npy"], r"shape \(3,\), expected \(2,\) or \(1,\) for one"),
        (["observation=damaged.npy"], "cannot be read"),
        (["observation=text.npy"], "holds <U1 of shape"),
        (["observation=infinite.npy"], "holds inf, expected finite numbers"),
        (["observation=notes.txt"], "expected an image .* or an array"),
        (["observation=picture.png"], "which no image shows"),
        (["settings.iterationz=3"], "JFPS has no setting iterationz"),
        (["settings.iterations=few"], "JFPS needs a whole number as iterations, got 'few'"),
        (["split=none"], "unknown split 'none'"),
        (["samples=0"], "need config.inverse.samples >= 1"),
        ([f"operator.name={__name__}:Powers", "method=split_gibbs"], "linear operator"),
    ],
)
def test_what_cannot_be_restored_is_one_clear_error(
    flags, message, trained, in_process, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    np.save("wide.npy", np.ones(3))
    np.save("text.npy", np.array(["a", "b"]))
    np.save("infinite.npy", np.array([np.inf, 0.0]))
    (tmp_path / "damaged.npy").write_bytes(b"damaged")
    (tmp_path / "notes.txt").write_text("notes")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save("picture.png")
    done = in_process(
        "--mode=restore", f"--workdir={trained}", *[f"--config.inverse.{flag}" for flag in flags]
    )
    assert done.code == 1 and len(done.err.splitlines()) == 1, done.err
    assert re.search(message, done.err), done.err
    assert not (trained / "restored").exists()


@pytest.mark.parametrize(
    "values, message",
    [
        (np.linspace(0, 1, 16).reshape(4, 4), "from 0 to 1, expected grey levels 0..255"),
        (np.linspace(-1, 1, 16).reshape(4, 4), "from -1 to 1, expected grey levels 0..255"),
        (np.full((4, 4), 300.0), "from 300 to 300, expected grey levels 0..255"),
        (np.full((4, 4), -90.0), "from -90 to -90, expected grey levels"),
        (np.full((5, 4), 100.0), r"shape \(5, 4\), expected \(4, 4, 1\) for one"),
    ],
)
def test_values_that_are_no_grey_levels_are_refused(values, message, image_prior, tmp_path):
    path = tmp_path / "y.npy"
    np.save(path, values)
    run = changed(image_prior(levels=256), operator={"name": "Blur"}, observation=(str(path),))
    with pytest.raises(RunError, match=message):
        make_job(run)


def test_an_image_of_another_size_is_refused(image_prior, tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "large.png")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    loaded = image_prior()
    for name, message in (
        ("large.png", r"of shape \(8, 8, 1\), expected \(2, 2, 1\)"),
        ("torn.png", "cannot read"),
        ("none.png", "no such file"),
    ):
        files = (str(tmp_path / name),)
        with pytest.raises(RunError, match=message):
            make_job(changed(loaded, operator={"name": "Pool"}, observation=files))


def test_the_peak_of_images_is_the_lightest_grey_level(image_prior):
    error = np.full((1, 4, 4, 1), 2 / 17)  # one grey level
    assert psnr(image_prior(levels=17), error) == pytest.approx(20 * np.log10(16))
    assert GreyLevels(17).expected(np.array([16.0])) - GreyLevels(17).expected(
        np.array([0.0])
    ) == pytest.approx(2 - 2 / 17)
