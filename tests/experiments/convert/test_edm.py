"""EDM's snapshots: written as its persistence layer pickles them, read back without its code, in
the networks that it names.

There is no published snapshot to compare with where this was written: names and layouts follow the
paper's code as described; what is tested against an independent computation is the layout of
attention and of labels.
"""

import pickle

import numpy as np
import pytest
from flax import nnx

import models
from experiments.convert import FORMATS, rules
from experiments.convert.edm import _apart, edm_rules, settings_of, with_labels
from experiments.errors import RunError


def build(settings):
    settings = {
        k: v for k, v in settings.items() if k not in ("name", "shape", "num_classes", "sigma_data")
    }
    return lambda shape, classes: nnx.eval_shape(
        lambda: models.UNet(shape, num_classes=classes, **settings, rngs=nnx.Rngs(0))
    )


def test_queries_keys_and_values_of_two_heads_are_taken_apart():
    """There: reshape(heads, channels of a head, 3, pixels).unbind(2) of what the matrix gives."""
    rng, heads, features = np.random.default_rng(0), 2, 6
    theirs, x = rng.normal(size=(3 * features, features, 1, 1)), rng.normal(size=(features, 5))
    q, k, v = np.moveaxis((theirs[:, :, 0, 0] @ x).reshape(heads, features // heads, 3, 5), 2, 0)
    layout = _apart(heads, True)
    ours = np.split(layout.read([theirs]).T @ x, 3)
    for got, want in zip(ours, (q, k, v), strict=True):
        np.testing.assert_allclose(got.reshape(heads, -1, 5), want)
    np.testing.assert_array_equal(layout.write(layout.read([theirs]))[0], theirs)


SONG = {
    "img_resolution": 8,
    "in_channels": 3,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
}
NCSNPP = {"embedding_type": "fourier", "encoder_type": "residual", "resample_filter": [1, 3, 3, 1]}


@pytest.mark.parametrize(
    "kind, extra",
    [
        ("SongUNet", {"label_dim": 3}),
        ("SongUNet", NCSNPP),
        ("DhariwalUNet", {"model_channels": 64}),
    ],
)
def test_every_parameter_has_a_name_and_a_label_its_row(kind, extra):
    settings = settings_of(kind, SONG | extra, {})
    classes = settings["num_classes"]
    net = build(settings)((8, 8, 3), classes)
    template, names = models.split(net).params, edm_rules(net)
    rng = np.random.default_rng(0)
    weights = {}
    for rule in names:
        shape = rules.flatten(template)[rule.ours].shape
        weights |= dict(
            zip(
                rule.theirs,
                rule.layout.write(rng.normal(size=shape).astype(np.float32)),
                strict=True,
            )
        )
    del rule
    if classes:
        del weights["label rows"]
        weights |= {
            "map_label.weight": rng.normal(size=(8, 3)),
            "map_label.bias": rng.normal(size=8),
            "map_augment.weight": np.zeros((8, 9)),
        }
    params = rules.read(names, with_labels(weights, net), template)
    if classes:
        sinusoids, label = rng.normal(size=8), np.array([0.0, 1.0, 0.0])
        there = weights["map_layer0.weight"] @ (
            sinusoids
            + weights["map_label.weight"] @ (label * np.sqrt(3))
            + weights["map_label.bias"]
        )
        rows = params["conditioning"]["label"]["embedding"]
        kernel = params["conditioning"]["dense0"]["kernel"]
        np.testing.assert_allclose(sinusoids @ kernel + rows[1], there, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            rows[3], weights["map_layer0.weight"] @ weights["map_label.bias"], rtol=1e-5, atol=1e-5
        )


def test_the_networks_have_the_published_sizes():
    """Karras et al. 2022 (arXiv:2206.00364): 55.7 million parameters for CIFAR-10, 295.9 million
    for ImageNet-64.
    """
    large = settings_of(
        "DhariwalUNet", {"img_resolution": 64, "in_channels": 3, "label_dim": 1000}, {}
    )
    small = settings_of(
        "SongUNet", {"img_resolution": 32, "in_channels": 3, "channel_mult": [2, 2, 2]}, {}
    )
    for settings, shape, classes, published in (
        (small, (32, 32, 3), 0, 55.7e6),
        (large, (64, 64, 3), 1000, 295.9e6),
    ):
        params = rules.flatten(models.split(build(settings)(shape, classes)).params)
        assert sum(p.size for p in params.values()) == pytest.approx(published, rel=2e-3)


def test_a_snapshot_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"net": 3}))
    with pytest.raises(RunError, match="holds no averaged network"):
        FORMATS["edm"](tmp_path / "a.pkl", None)
    with pytest.raises(RunError, match="holds a VPUNet, expected a SongUNet or a DhariwalUNet"):
        settings_of("VPUNet", SONG, {})
