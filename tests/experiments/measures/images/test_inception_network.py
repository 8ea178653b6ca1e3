"""InceptionV3 with random weights, layer by layer against PyTorch's own functions."""

import numpy as np
import pytest

from experiments.data.codec import codec_of
from experiments.errors import RunError
from experiments.measures.images import inception_network
from experiments.measures.images.extractor import open_extractor
from experiments.measures.images.inception_layers import CLASSES, FEATURES, LAYERS
from experiments.measures.images.inception_network import convert_inception, inception, resize


@pytest.fixture(scope="module")
def state():
    """A state dict of random weights that keep the size of what flows through."""
    rng = np.random.default_rng(0)
    arrays = {"fc.weight": rng.standard_normal((CLASSES, FEATURES)) / 45}
    for name, features_in, features_out, kernel in LAYERS:
        fan = features_in * kernel[0] * kernel[1]
        weight = rng.standard_normal((features_out, features_in, *kernel), np.float32)
        arrays[f"{name}.conv.weight"] = weight * np.sqrt(2 / fan)
        arrays[f"{name}.bn.weight"] = rng.uniform(0.8, 1.2, features_out)
        arrays[f"{name}.bn.bias"] = rng.normal(0, 0.1, features_out)
        arrays[f"{name}.bn.running_mean"] = rng.normal(0, 0.1, features_out)
        arrays[f"{name}.bn.running_var"] = rng.uniform(0.8, 1.2, features_out)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def by_torch(torch, state, images):
    """Apply the network as pytorch-fid describes it, with nothing folded."""
    F = torch.nn.functional
    arrays = {name: torch.from_numpy(array) for name, array in state.items()}

    def layer(x, name, stride=1, padding=0):
        x = F.conv2d(x, arrays[f"{name}.conv.weight"], stride=stride, padding=padding)
        norm = [f"{name}.bn.{part}" for part in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(x, *(arrays[part] for part in norm), eps=0.001))

    def mean_pool(x):
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)

    def row(x, name, paddings, last_stride=1):
        for number, padding in enumerate(paddings, 1):
            stride = last_stride if number == len(paddings) else 1
            x = layer(x, f"{name}_{number}", stride, padding)
        return x

    x = torch.from_numpy(by_loops(images).transpose(0, 3, 1, 2)).float()
    x = (x - 128) / 128
    x = layer(x, "Conv2d_1a_3x3", 2)
    x = layer(layer(x, "Conv2d_2a_3x3"), "Conv2d_2b_3x3", 1, 1)
    x = layer(F.max_pool2d(x, 3, 2), "Conv2d_3b_1x1")
    x = F.max_pool2d(layer(x, "Conv2d_4a_3x3"), 3, 2)
    for block in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        parts = [
            layer(x, f"{block}.branch1x1"),
            row(x, f"{block}.branch5x5", (0, 2)),
            row(x, f"{block}.branch3x3dbl", (0, 1, 1)),
            layer(mean_pool(x), f"{block}.branch_pool"),
        ]
        x = torch.cat(parts, 1)
    parts = [
        layer(x, "Mixed_6a.branch3x3", 2),
        row(x, "Mixed_6a.branch3x3dbl", (0, 1, 0), last_stride=2),
        F.max_pool2d(x, 3, 2),
    ]
    x = torch.cat(parts, 1)
    wide, high = (0, 3), (3, 0)
    for block in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        parts = [
            layer(x, f"{block}.branch1x1"),
            row(x, f"{block}.branch7x7", (0, wide, high)),
            row(x, f"{block}.branch7x7dbl", (0, high, wide, high, wide)),
            layer(mean_pool(x), f"{block}.branch_pool"),
        ]
        x = torch.cat(parts, 1)
    parts = [
        row(x, "Mixed_7a.branch3x3", (0, 0), last_stride=2),
        row(x, "Mixed_7a.branch7x7x3", (0, wide, high, 0), last_stride=2),
        F.max_pool2d(x, 3, 2),
    ]
    x = torch.cat(parts, 1)
    for block in ("Mixed_7b", "Mixed_7c"):
        pooled = mean_pool(x) if block == "Mixed_7b" else F.max_pool2d(x, 3, 1, 1)
        one = layer(x, f"{block}.branch3x3_1")
        two = row(x, f"{block}.branch3x3dbl", (0, 1))
        parts = [
            layer(x, f"{block}.branch1x1"),
            layer(one, f"{block}.branch3x3_2a", 1, (0, 1)),
            layer(one, f"{block}.branch3x3_2b", 1, (1, 0)),
            layer(two, f"{block}.branch3x3dbl_3a", 1, (0, 1)),
            layer(two, f"{block}.branch3x3dbl_3b", 1, (1, 0)),
            layer(pooled, f"{block}.branch_pool"),
        ]
        x = torch.cat(parts, 1)
    features = x.mean((2, 3))
    return features.numpy(), (features @ arrays["fc.weight"].T).numpy()


def by_loops(images):
    """Resize as TensorFlow 1 did, row by row and then column by column."""
    return rows_by_loops(rows_by_loops(images.astype(float)).swapaxes(1, 2)).swapaxes(1, 2)


def rows_by_loops(images):
    size = images.shape[1]
    result = np.zeros((len(images), 299, *images.shape[2:]))
    for i in range(299):
        place = i * size / 299
        first = int(place)
        last = min(first + 1, size - 1)
        result[:, i] = images[:, first] + (place - first) * (images[:, last] - images[:, first])
    return result


def test_features_and_logits_are_those_of_pytorch(state):
    torch = pytest.importorskip("torch", reason="PyTorch is the reference")
    images = np.random.default_rng(1).integers(0, 256, (1, 40, 36, 3)).astype(np.uint8)
    features, logits = by_torch(torch, state, images)
    result = inception(convert_inception(state), images)
    scale = np.abs(features).max()
    np.testing.assert_allclose(result.features, features, atol=1e-4 * scale)
    np.testing.assert_allclose(result.logits, logits, atol=1e-4 * np.abs(logits).max())


def test_images_are_resized_as_tensorflow_1_did():
    images = np.random.default_rng(0).integers(0, 256, (1, 7, 320, 3)).astype(np.uint8)
    np.testing.assert_allclose(resize(images.astype(np.float32)), by_loops(images), atol=1e-3)
    same = np.random.default_rng(0).uniform(0, 255, (1, 299, 299, 3)).astype(np.float32)
    np.testing.assert_allclose(resize(same), same, atol=1e-4)


def test_average_pools_do_not_count_the_padding():
    x = np.random.default_rng(0).standard_normal((1, 4, 5, 2)).astype(np.float32)
    pooled = inception_network._average_pool(x)
    np.testing.assert_allclose(pooled[0, 0, 0], x[0, :2, :2].mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(pooled[0, 2, 4], x[0, 1:4, 3:].mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(pooled[0, 1, 2], x[0, :3, 1:4].mean((0, 1)), rtol=1e-5)


def test_another_network_is_refused(state, tmp_path):
    name = "Mixed_7c.branch_pool.bn.running_var"
    with pytest.raises(RunError, match=f"{name} is absent"):
        convert_inception({key: array for key, array in state.items() if key != name})
    with pytest.raises(RunError, match=r"fc.weight has shape \(1000, 2048\), expected \(1008"):
        convert_inception(state | {"fc.weight": state["fc.weight"][:1000]})
    (tmp_path / "weights.pth").write_bytes(b"nothing")
    with pytest.raises(RunError, match="weights.pth"):
        open_extractor(str(tmp_path / "weights.pth"), (32, 32, 3), codec_of(256))
    with pytest.raises(ValueError, match="repeat a grey channel"):
        inception(convert_inception(state), np.zeros((1, 8, 8, 1), np.uint8))
