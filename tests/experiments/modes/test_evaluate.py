import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import data
from experiments.data.base import DataSet, Source
from experiments.errors import RunError
from experiments.measures import latency, metrics
from experiments.measures.images.extractor import Extractor
from experiments.measures.images.feature_network import ImageFeatures
from experiments.modes import evaluate
from experiments.modes.likelihood import measure_likelihood, sentence
from experiments.run.build import DataFacts, build, make_dataset
from experiments.run.loading import Loaded, load
from sde_lib import VP, Denoiser, Estimate, Gaussian

COV = np.array([[1.0, 0.3, 0.0], [0.3, 0.5, -0.2], [0.0, -0.2, 0.8]])
MEAN = np.array([0.2, -0.4, 0.1])


class Normal(DataSet):
    """Points from a Gaussian, whose exact denoiser and density are known."""

    shape, levels, num_classes, splits = (3,), None, 0, ("train", "test")

    def __init__(self, size):
        rng = np.random.default_rng(0)
        self.x = rng.multivariate_normal(MEAN, COV, (2, size)).astype(np.float32)

    def source(self, split):
        x = self.x[self.splits.index(split)]
        return Source(len(x), lambda i: (x[i], 0))


def exact_run(config, denoiser=None, **settings):
    """Return a run whose network is perfect, with settings of its evaluation."""
    config.eval.update({"probes": 0, "rtol": 1e-4, "batch_size": 32} | settings)
    run, sde = build(config, DataFacts((3,), None, 0, 0.9)), VP()
    denoiser = denoiser or Gaussian(MEAN, COV).denoiser(sde)
    return Loaded(sde, denoiser, run.config, run, 7)


@pytest.mark.parametrize("probes", [0, 8])
def test_the_likelihood_of_an_exact_network_is_the_closed_form_within_its_stated_errors(
    probes, tiny_config
):
    # 70: the last batch is cut
    dataset = Normal(70)
    loaded = exact_run(tiny_config(), probes=probes)
    got = measure_likelihood(loaded, dataset)
    x = jnp.asarray(dataset.x[1])
    bits = -np.asarray(Gaussian(MEAN, COV).model_log_prob(VP(), x, VP().t_min), np.float64) / (
        3 * np.log(2)
    )
    assert got["images"] == 70 and got["split"] == "test" and got["nfe"] > 10
    np.testing.assert_allclose(
        got["std_error"], bits.std(ddof=1) / np.sqrt(70), rtol=0.1 if probes else 1e-3
    )
    if probes:  # 4 sigma: a false alarm in 16 000
        assert 0 < got["probe_std_error"] < 0.05
        assert abs(got["bits_per_dim"] - bits.mean()) < 4 * got["probe_std_error"] + 1e-3
    else:
        assert got["probe_std_error"] == 0
        np.testing.assert_allclose(got["bits_per_dim"], bits.mean(), atol=2e-4)
    assert abs(got["refinement"]) < 5e-3


def test_the_refinement_is_the_finer_solve_less_the_coarser_one(tiny_config):
    coarse, fine = (
        measure_likelihood(exact_run(tiny_config(), rtol=rtol), Normal(32)) for rtol in (1e-3, 1e-4)
    )
    # both at 1e-4
    np.testing.assert_allclose(
        fine["bits_per_dim"] - fine["refinement"], coarse["bits_per_dim"], atol=1e-6
    )
    assert abs(coarse["refinement"]) > abs(fine["refinement"]) > 0


def test_the_likelihood_does_not_depend_on_the_batch_or_the_devices(tiny_config):
    dataset = Normal(40)
    values = []
    for size, devices in ((32, 1), (16, 4)):
        config = tiny_config()
        config.devices = devices
        values.append(
            measure_likelihood(exact_run(config, batch_size=size, probes=2), dataset)[
                "bits_per_dim"
            ]
        )
    # probes belong to the image, other ones would make 1e-2
    np.testing.assert_allclose(values, values[0], atol=1e-5)


def test_bits_per_dimension_of_grey_levels_count_the_width_of_a_level(tiny_config):
    """What is measured on x in [-1, 1) is log2(levels / 2) more on the levels themselves
    (arXiv:1511.01844).
    """
    dataset, loaded = Normal(32), exact_run(tiny_config())
    plain = measure_likelihood(loaded, dataset)["bits_per_dim"]
    facts = loaded.run.facts._replace(levels=17)
    levels = measure_likelihood(loaded._replace(run=loaded.run._replace(facts=facts)), dataset)[
        "bits_per_dim"
    ]
    np.testing.assert_allclose(levels - plain, np.log2(17 / 2), rtol=1e-6)


def test_a_likelihood_that_does_not_finish_is_an_error_not_a_number(tiny_config):
    class Rough:
        def __call__(self, x, t, cond=None):
            return Estimate(x * jnp.nan, x)

    with pytest.raises(
        RunError, match="the likelihood of 32 of 32 images did not finish; raise config.eval.rtol"
    ):
        measure_likelihood(exact_run(tiny_config(), denoiser=Rough()), Normal(32))


def test_an_evaluation_is_written_and_printed(trained, capsys):
    loaded = load(trained)
    report = evaluate.evaluate(loaded, trained)
    assert json.loads((trained / "evaluation.json").read_text()) == json.loads(json.dumps(report))
    assert report["checkpoint"] == 20 and set(report["samplers"]) == {"ddim", "ode"}
    source = make_dataset(loaded.config).source("train")
    real = np.stack([source[i]["x"] for i in range(len(source))])
    with np.load(next((trained / "samples" / "ddim").glob("batch_0000000.npz"))) as batch:
        first = batch["x"]
    row = report["samplers"]["ddim"]
    fake = np.concatenate(
        [np.load(p)["x"] for p in sorted((trained / "samples" / "ddim").glob("batch_*"))]
    )[:20]
    np.testing.assert_array_equal(fake[: len(first)], first)
    assert row["nfe"] == 6 and row["seconds"] > 0
    assert row["frechet_train"] == pytest.approx(metrics.frechet_distance(fake, real), rel=1e-6)
    assert row["nearest_train_median"] == pytest.approx(
        np.median(metrics.nearest_distances(fake, real)), rel=1e-6
    )
    assert (
        row["one_nn_train"]["value"]
        == metrics.nearest_neighbour_accuracy(fake.astype(float), real[:20].astype(float)).value
    )
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 2 + 1 and {line.count("|") for line in lines} == {9}
    assert lines[2].startswith("| ddim | 6 |") and lines[-1].startswith("| real data |")
    assert (
        f"{row['one_nn_train']['value']:.3f} ± {row['one_nn_train']['std_error']:.3f}" in lines[2]
    )
    assert f"test set, 64 examples: {report['likelihood']['bits_per_dim']:.3f} ±" in printed


def test_metrics_of_ones_own_are_measured_and_printed(trained, capsys):
    loaded, sizes = load(trained), []

    def difference_of_means(samples, real):
        sizes.append((len(samples), len(real)))
        return samples.mean() - real.mean()

    report = evaluate.evaluate(loaded, trained, metrics={"mean": difference_of_means})
    sources = [make_dataset(loaded.config).source(split) for split in ("train", "test")]
    real, held_out = (np.stack([s[i]["x"] for i in range(len(s))]) for s in sources)
    n, m = len(real), len(held_out)
    assert sizes == [(m, n), (20, n), (20, m), (20, n), (20, m)]  # of two samplers
    expected = held_out.mean() - real.mean()
    floor = report["floor"]["metrics"]["mean"]["training"]
    mean = report["samplers"]["ddim"]["metrics"]["mean"]
    np.testing.assert_allclose(floor, expected, atol=1e-6)
    np.testing.assert_allclose(mean["training"] - mean["held-out"], expected, atol=1e-6)
    printed = capsys.readouterr().out
    assert f"mean, ddim: {mean['training']:.4g} against training data" in printed
    with pytest.raises(RunError, match=r"metric 'broken' failed on samples .*ZeroDivisionError"):
        evaluate.evaluate(loaded, trained, metrics={"broken": lambda samples, real: 1 / 0})
    with pytest.raises(ValueError, match="metrics are functions"):
        evaluate.evaluate(loaded, trained, metrics=[difference_of_means])


def test_without_samplers_only_the_likelihood_is_evaluated(trained, capsys):
    loaded = load(trained)
    loaded.run.config.unlock()
    loaded.run.config.eval.samplers = ()
    report = evaluate.evaluate(loaded, trained)
    assert not report["samplers"] and "floor" not in report and "|" not in capsys.readouterr().out


def test_latency_is_measured_where_it_is_asked_for(trained, capsys, monkeypatch):
    loaded = load(trained)
    loaded.run.config.unlock()
    loaded.run.config.eval.update({"samplers": (), "latency": True})
    monkeypatch.setattr(evaluate, "measure_likelihood", lambda *_, **__: {})
    monkeypatch.setattr(evaluate, "sentence", lambda *_: "")
    monkeypatch.setattr(latency, "NFE", (1, 3))
    monkeypatch.setattr(latency, "BATCHES", (2,))
    rows = evaluate.evaluate(loaded, trained)["latency"]
    assert [(row["nfe"], row["batch"]) for row in rows] == [(1, 2), (3, 2)] and all(
        row["seconds_per_image"] > 0 for row in rows
    )
    assert f"| 3 | {1e3 * rows[1]['seconds_per_image']:.2f} ms |" in capsys.readouterr().out


def test_copies_of_the_training_set_are_counted_and_real_data_scores_like_itself():
    rng = np.random.default_rng(0)
    real, held_out = rng.integers(0, 17, (60, 4, 4, 1)), rng.integers(0, 17, (20, 4, 4, 1))
    copied = np.concatenate([real[:5], rng.integers(0, 17, (25, 4, 4, 1))])
    row = evaluate.compare(copied, real, held_out)
    assert row["copies"] == 5
    other = evaluate.compare(held_out, real, held_out)
    assert (
        other["copies"] == 0
        and other["one_nn_held_out"]["value"] == 0
        and other["frechet_held_out"] == pytest.approx(0, abs=1e-6)
    )
    assert other["frechet_train"] > 0.1
    ground = evaluate.floor(real, held_out)
    assert ground["frechet_held_out"] == pytest.approx(other["frechet_train"], rel=1e-6)
    flat = real.reshape(60, -1).astype(float)
    assert ground["nearest_train_median"] == pytest.approx(
        np.median(metrics.nearest_distances(flat))
    )
    assert 0.2 < ground["one_nn_train"]["value"] < 0.8


@pytest.mark.parametrize(
    "error, said",
    [
        (0.25, "(probes ± 0.2500, refinement +0.1000"),
        (np.nan, "(one probe, whose error is unknown, ref"),
    ],
)
def test_one_probe_has_no_error_to_print(error, said):
    bits = {
        "bits_per_dim": 2.0,
        "std_error": 0.5,
        "probe_std_error": error,
        "refinement": 0.1,
        "prior_mismatch": 0.0,
    }
    assert said in sentence({"split": "test", "images": 2, "nfe": 50, "seconds": 1.0} | bits)


def test_a_split_that_is_too_small_to_compare_with_is_named():
    assert len(evaluate.real_images(Normal(2), "test")) == 2
    with pytest.raises(
        RunError,
        match="two or more images, but split 'test' has 1; name a larger one in config.eval",
    ):
        evaluate.real_images(Normal(1), "test")


@pytest.mark.parametrize(
    "size, number, message",
    [(3, 20, "four or more images, but split 'train' has 3"), (20, 1, "config.eval.number is 1")],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_computed(
    size, number, message, tiny_config, monkeypatch, tmp_path
):
    config = tiny_config()
    config.eval.train_split, config.eval.split = "train", "test"
    loaded = exact_run(config, number=number)
    monkeypatch.setattr(evaluate, "make_dataset", lambda config: Normal(size))
    monkeypatch.setattr(
        evaluate, "measure_likelihood", lambda *_, **__: pytest.fail("something was computed")
    )
    with pytest.raises(RunError, match=message):
        evaluate.evaluate(loaded, tmp_path)


@pytest.mark.parametrize("size", [4, 5])
def test_scores_of_the_smallest_splits_are_numbers(size):
    real, held_out = Normal(size).x
    for scores in (evaluate.floor(real, held_out), evaluate.compare(held_out[:2], real, held_out)):
        for value in jax.tree.leaves(scores):
            assert np.isfinite(value)


def test_load_gives_the_averaged_weights_and_what_it_takes_to_use_them(
    trained, state_of, monkeypatch
):
    monkeypatch.setattr(
        data.Toy, "__init__", lambda *args, **kwargs: pytest.fail("the data were opened")
    )
    loaded, (state, _) = load(trained), state_of(trained)
    x = jax.random.normal(jax.random.key(0), (5, 2))
    with_weights = lambda params: loaded.run.denoiser(params)(x, 0.3).x0  # noqa: E731
    got = loaded.denoiser(x, 0.3).x0
    np.testing.assert_array_equal(got, with_weights(jax.tree.map(jnp.asarray, state.ema)))
    assert np.abs(got - with_weights(jax.tree.map(jnp.asarray, state.params))).max() > 1e-4
    assert isinstance(loaded.denoiser, Denoiser) and loaded.sde == VP() and loaded.step == 20
    assert loaded.config.net.width == 8 and loaded.config.facts.num_classes == 8


class Squares(DataSet):
    """Images of 8 x 8 grey levels, each a bright square of a size that is its class."""

    shape, levels, num_classes, splits = (8, 8, 1), 256, 2, ("train", "test")

    def source(self, split):
        number = {"train": 60, "test": 40}[split]
        return Source(number, lambda i: (squares(i + 1000 * (split == "test"), i % 2), i % 2))


def squares(seed, label):
    image = np.random.default_rng(seed).integers(0, 50, (8, 8, 1), np.uint8)
    image[: 3 + 3 * label, :3] += 200
    return image


class Drawn:
    """A job of sampling that has given these raw samples."""

    guidance, nfe, seconds, compile_seconds = {}, 5, 1.0, 0.0

    def __init__(self, x):
        self.x = x


def corner(images):
    """Return the features and classes of an extractor that knows squares."""
    large = images[:, 4, 1, 0] > 100
    features = images[:, :4, :2, 0].reshape(len(images), -1).astype(np.float32)
    return ImageFeatures(features, np.stack([1.0 - large, large], axis=1) * 0.9 + 0.05)


def test_images_are_compared_in_features_and_with_every_training_image(
    tiny_config, tmp_path, monkeypatch, capsys
):
    config = tiny_config()
    config.data = {"name": "Squares"}
    config.eval.update({"number": 30, "samplers": ("ddim",)})
    facts = DataFacts((8, 8, 1), 256, 2, 0.5)
    config.train.conditional = True
    config.net = {"name": "UNet", "nf": 4, "ch_mult": (1,), "num_res_blocks": 1}
    loaded = Loaded(VP(), None, config, build(config, facts, abstract=True), 3)
    fake = np.stack([squares(5000 + i, (i + (i == 7)) % 2) for i in range(30)])
    fake[4] = Squares().source("train")[10]["x"]
    job = Drawn(fake)
    monkeypatch.setattr(evaluate, "draw_many", lambda *_: job)
    monkeypatch.setattr(evaluate, "make_dataset", lambda _: Squares())
    monkeypatch.setattr(evaluate, "measure_likelihood", lambda *_, **__: {})
    monkeypatch.setattr(evaluate, "sentence", lambda *_: "")
    monkeypatch.setattr(evaluate, "identity", lambda _: {})
    monkeypatch.setattr(evaluate, "check_can_draw", lambda _: None)
    extractor = Extractor("corner", {}, corner, classes_of="Squares")
    report = evaluate.evaluate(loaded, tmp_path, extractor=extractor)
    row = report["samplers"]["ddim"]
    assert row["memorised"]["copies"] == 1 and row["memorised"]["value"] == 1 / 30
    assert row["features"]["accuracy"]["value"] == 29 / 30  # but for the seventh
    assert row["features"]["images"] == report["floor"]["features"]["images"] == 30
    assert report["floor"]["features"]["accuracy"]["value"] == 1
    assert report["features"] == {"extractor": "corner", "preprocessing": {}}
    assert (tmp_path / "samples" / "ddim" / "nearest.png").read_bytes()[:4] == b"\x89PNG"
    with Image.open(tmp_path / "evaluation.png") as picture:
        assert picture.size[0] > 20 * 96
    printed = capsys.readouterr().out
    assert "in features of corner:" in printed and "| real data | 30 |" in printed
    other = extractor._replace(classes_of="Circles")
    report = evaluate.evaluate(loaded, tmp_path, extractor=other)
    assert "accuracy" not in report["samplers"]["ddim"]["features"]
    loaded.run.config.unlock().eval.number = 19
    with pytest.raises(RunError, match="eval.number gives 19 images, .* 20 or more"):
        evaluate.evaluate(loaded, tmp_path, extractor=extractor)
