"""DINOv2 with random weights, against formulas written once more in NumPy, and against PyTorch."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.special import erf

from experiments.convert.safetensors import write_safetensors
from experiments.data.codec import codec_of
from experiments.errors import RunError
from experiments.measures.images.dinov2 import class_tokens, resampled
from experiments.measures.images.dinov2_images import prepared
from experiments.measures.images.dinov2_weights import convert_dinov2, published_names
from experiments.measures.images.extractor import open_extractor
from tests.experiments.convert.foreign_files import write_old_pth, write_pth

WIDTH, DEPTH, SIDE = 128, 3, 5


def random_state(gated=False, hidden=256, seed=0):
    """A state dict of random weights with the published names; deviations show every part."""
    rng = np.random.default_rng(seed)

    def normal(*shape, scale=1.0, mean=0.0):
        return (mean + scale * rng.standard_normal(shape)).astype(np.float32)

    def dense(name, fan_in, fan_out):
        weight = normal(fan_out, fan_in, scale=2 / math.sqrt(fan_in))
        return {f"{name}.weight": weight, f"{name}.bias": normal(fan_out, scale=0.3)}

    def norm(name):
        scale = normal(WIDTH, scale=0.2, mean=1.0)
        return {f"{name}.weight": scale, f"{name}.bias": normal(WIDTH, scale=0.3)}

    state = {
        "cls_token": normal(1, 1, WIDTH),
        "pos_embed": normal(1, 1 + SIDE**2, WIDTH),
        "mask_token": normal(1, WIDTH),
        "patch_embed.proj.weight": normal(WIDTH, 3, 14, 14, scale=1 / 24),
        "patch_embed.proj.bias": normal(WIDTH, scale=0.3),
    }
    for index in range(DEPTH):
        block = f"blocks.{index}"
        state |= norm(f"{block}.norm1") | norm(f"{block}.norm2")
        state |= dense(f"{block}.attn.qkv", WIDTH, 3 * WIDTH)
        state |= dense(f"{block}.attn.proj", WIDTH, WIDTH)
        state[f"{block}.ls1.gamma"] = normal(WIDTH, scale=0.5)
        state[f"{block}.ls2.gamma"] = normal(WIDTH, scale=0.5)
        first, last = ("w12", "w3") if gated else ("fc1", "fc2")
        state |= dense(f"{block}.mlp.{first}", WIDTH, 2 * hidden if gated else hidden)
        state |= dense(f"{block}.mlp.{last}", hidden, WIDTH)
    return state | norm("norm")


def in_chunks(state):
    """The same with the names of blocks that were saved in chunks of two."""

    def renamed(name):
        if not name.startswith("blocks."):
            return name
        _, index, rest = name.split(".", 2)
        return f"blocks.{int(index) // 2}.{index}.{rest}"

    return {renamed(name): array for name, array in state.items()}


def of_transformers(state):
    """The same with the names of transformers, as it writes them to a file."""
    named = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.mask_token": state["mask_token"],
        "embeddings.position_embeddings": state["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
        "layernorm.weight": state["norm.weight"],
        "layernorm.bias": state["norm.bias"],
    }
    for index in range(DEPTH):
        old, new = f"blocks.{index}", f"encoder.layer.{index}"
        for part in ("weight", "bias"):
            joint = np.split(state[f"{old}.attn.qkv.{part}"], 3)
            for name, array in zip(("query", "key", "value"), joint, strict=True):
                named[f"{new}.attention.attention.{name}.{part}"] = array
            named[f"{new}.attention.output.dense.{part}"] = state[f"{old}.attn.proj.{part}"]
            for norm in ("norm1", "norm2"):
                named[f"{new}.{norm}.{part}"] = state[f"{old}.{norm}.{part}"]
            pairs = {"fc1": "fc1", "fc2": "fc2", "w12": "weights_in", "w3": "weights_out"}
            for name, other in pairs.items():
                if f"{old}.mlp.{name}.{part}" in state:
                    named[f"{new}.mlp.{other}.{part}"] = state[f"{old}.mlp.{name}.{part}"]
        for number in (1, 2):
            gamma = state[f"{old}.ls{number}.gamma"]
            named[f"{new}.layer_scale{number}.lambda1"] = gamma
    return named


def by_loops(state, image):
    """The class token of one image (height, width, 3), in float64, token by token."""
    state = {name: array.astype(np.float64) for name, array in state.items()}

    def dense(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name, x):
        mean = x.mean(-1, keepdims=True)
        deviation = np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return (x - mean) / deviation * state[f"{name}.weight"] + state[f"{name}.bias"]

    def attention(name, x):
        queries, keys, values = np.split(dense(f"{name}.qkv", x), 3, axis=1)
        result = np.zeros_like(x)
        for head in range(WIDTH // 64):
            own = slice(64 * head, 64 * (head + 1))
            for token in range(len(x)):
                scores = np.exp(keys[:, own] @ queries[token, own] / 8)  # 8 is the root of 64
                result[token, own] = scores @ values[:, own] / scores.sum()
        return dense(f"{name}.proj", result)

    def perceptron(name, x):
        if f"{name}.w12.weight" in state:
            gate, rest = np.split(dense(f"{name}.w12", x), 2, axis=1)
            return dense(f"{name}.w3", gate / (1 + np.exp(-gate)) * rest)
        hidden = dense(f"{name}.fc1", x)
        return dense(f"{name}.fc2", hidden * (1 + erf(hidden / np.sqrt(2))) / 2)

    rows, columns = image.shape[0] // 14, image.shape[1] // 14
    positions = state["pos_embed"][0]
    grid = positions_by_loops(positions[1:].reshape(SIDE, SIDE, WIDTH), rows, columns)
    tokens = [state["cls_token"][0, 0] + positions[0]]
    kernel = state["patch_embed.proj.weight"]
    for row in range(rows):
        for column in range(columns):
            patch = image[14 * row : 14 * (row + 1), 14 * column : 14 * (column + 1)]
            value = np.einsum("hwc,dchw->d", patch, kernel) + state["patch_embed.proj.bias"]
            tokens.append(value + grid[row, column])
    x = np.stack(tokens)
    for index in range(DEPTH):
        block = f"blocks.{index}"
        x = x + state[f"{block}.ls1.gamma"] * attention(f"{block}.attn", norm(f"{block}.norm1", x))
        x = x + state[f"{block}.ls2.gamma"] * perceptron(f"{block}.mlp", norm(f"{block}.norm2", x))
    return norm("norm", x)[0]


def positions_by_loops(grid, rows, columns):
    """Cubic interpolation (Keys 1981, a = -3/4) of rows and then of columns."""
    return along_rows(along_rows(grid, rows).swapaxes(0, 1), columns).swapaxes(0, 1)


def along_rows(grid, places):
    size = len(grid)
    if size == places:
        return grid
    result = np.zeros((places, *grid.shape[1:]))
    for i in range(places):
        centre = (i + 0.5) * size / (places + 0.1) - 0.5
        for j in range(-8, size + 8):
            result[i] += keys(centre - j) * grid[min(max(j, 0), size - 1)]
    return result


def keys(distance, a=-0.75):
    d = abs(distance)
    if d >= 2:
        return 0.0
    if d >= 1:
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return (a + 2) * d**3 - (a + 3) * d**2 + 1


def random_images(height, width, number=2):
    rng = np.random.default_rng(1)
    return rng.standard_normal((number, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("sides", [(SIDE, SIDE), (3, 3), (4, 7)])
def test_the_class_token_is_that_of_the_formulas(gated, sides):
    state = random_state(gated)
    images = random_images(14 * sides[0], 14 * sides[1])
    got = class_tokens(convert_dinov2(state), images)
    expected = np.stack([by_loops(state, image) for image in images])
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(got, expected, atol=3e-5 * np.abs(expected).max())
    assert np.abs(expected[0] - expected[1]).max() > 0.1


@pytest.mark.parametrize("gated", [False, True])
def test_all_names_of_the_same_weights_give_the_same_network(gated):
    state = random_state(gated)
    assert published_names(state).keys() == state.keys()
    for named in (in_chunks(state), of_transformers(state)):
        assert named.keys() != state.keys()
        renamed = published_names(named)
        assert renamed.keys() == state.keys()
        for name, array in state.items():
            np.testing.assert_array_equal(renamed[name], array)


def test_positions_are_resampled_as_pytorch_does():
    torch = pytest.importorskip("torch", reason="PyTorch is the reference")
    grid = np.random.default_rng(0).standard_normal((37, 37, 4)).astype(np.float32)
    given = torch.from_numpy(grid.transpose(2, 0, 1)[None])
    scales = (16.1 / 37, 41.1 / 37)
    expected = torch.nn.functional.interpolate(given, scale_factor=scales, mode="bicubic")
    got = resampled(jnp.asarray(grid), 16, 41)
    np.testing.assert_allclose(got, expected[0].numpy().transpose(1, 2, 0), atol=1e-5)


@pytest.mark.parametrize("gated", [False, True])
def test_it_is_the_network_of_transformers(gated, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is the reference")
    transformers = pytest.importorskip("transformers", reason="it has the network")
    hidden = 344 if gated else 512  # of the rule by which transformers sizes a gated perceptron
    settings = transformers.Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=WIDTH // 64, mlp_ratio=4,
        image_size=14 * SIDE, patch_size=14, use_swiglu_ffn=gated,
    )  # fmt: skip
    state = random_state(gated, hidden)
    settings.save_pretrained(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", of_transformers(state))
    model = transformers.Dinov2Model.from_pretrained(tmp_path).eval()
    images = random_images(14 * SIDE, 14 * SIDE)
    with torch.no_grad():
        output = model(pixel_values=torch.from_numpy(images.transpose(0, 3, 1, 2)))
    expected = output.last_hidden_state[:, 0].numpy()
    got = class_tokens(convert_dinov2(state), images)
    np.testing.assert_allclose(got, expected, atol=3e-5 * np.abs(expected).max())


def test_images_are_prepared_as_the_paper_does():
    images = np.random.default_rng(0).integers(1, 255, (2, 10, 14, 3)).astype(np.uint8)
    got = prepared(images + np.array([-0.4, 0.0, 0.4]))  # rounded to the nearest
    assert got.shape == (2, 224, 224, 3) and got.dtype == np.float32
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for image, own in zip(images, got, strict=True):
        resized = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC))
        for channel in range(3):
            expected = (resized[..., channel] / 255 - mean[channel]) / deviation[channel]
            np.testing.assert_allclose(own[..., channel], expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["pth", "old.pth", "safetensors", "bin"])
def test_the_setting_knows_the_file_of_any_publication(kind, tmp_path):
    state = random_state()
    path = tmp_path / f"weights.{kind}"
    write = {"safetensors": write_safetensors, "old.pth": write_old_pth}.get(kind, write_pth)
    write(path, of_transformers(state) if kind in ("safetensors", "bin") else in_chunks(state))
    grey = np.random.default_rng(0).integers(0, 17, (3, 8, 8, 1))
    codec = codec_of(17)
    extractor = open_extractor(str(path), (8, 8, 1), codec)
    assert extractor is not None and extractor.classes_of == ""
    assert extractor.name.startswith(f"dinov2 of {DEPTH} blocks of {WIDTH} channels, ")
    made = extractor.extract(grey)
    assert made.probabilities is None and made.features.shape == (3, WIDTH)
    shades = np.repeat(grey * (255 / 16), 3, axis=-1)
    expected = np.stack([by_loops(state, image) for image in prepared(shades)[:1]])
    np.testing.assert_allclose(made.features[:1], expected, atol=1e-4 * np.abs(expected).max())


def test_a_file_of_another_network_is_refused(tmp_path):
    codec = codec_of(256)
    path = tmp_path / "weights.pth"

    def refused(state, message, shape=(32, 32, 3)):
        write_pth(path, state)
        with pytest.raises(RunError, match=message) as error:
            open_extractor(str(path), shape, codec)
        assert str(path) in str(error.value)

    state = random_state()
    refused({"conv1.weight": state["norm.weight"]}, "neither Inception nor DINOv2.*'conv1.weight'")
    refused(state | {"register_tokens": state["cls_token"]}, "parts of another one: register_tok")
    refused(state | {"head.weight": state["norm.weight"]}, "parts of another one: head.weight")
    lacking = {name: array for name, array in state.items() if name != "blocks.1.ls2.gamma"}
    refused(lacking, r"blocks.1.ls2.gamma is absent, which DINOv2 has; take dinov2_vits14")
    sixteen = np.zeros((WIDTH, 3, 16, 16), np.float32)
    refused(
        state | {"patch_embed.proj.weight": sixteen},
        r"patch_embed.proj.weight has shape \(128, 3, 16, 16\), expected \(128, 3, 14, 14\)",
    )
    positions = state["pos_embed"][:, :-1]
    refused(state | {"pos_embed": positions}, r"shape \(1, 25, 128\), expected \(1, 17, 128\)")
    narrow = {"cls_token": np.zeros((1, 1, 60), np.float32)}
    refused(state | narrow, "60 channels, expected a multiple of 64")
    refused([state["norm.weight"]], "expected arrays by name")
    refused(state, r"1 or 3\), but the data have shape \(2,\)", shape=(2,))
    path.write_bytes(b"nothing")
    with pytest.raises(RunError, match="weights.pth"):
        open_extractor(str(path), (32, 32, 3), codec)


def test_sides_that_are_no_multiple_of_a_patch_are_refused():
    with pytest.raises(ValueError, match="multiples of 14, got .*; resize them"):
        class_tokens(convert_dinov2(random_state()), np.zeros((1, 28, 30, 3), np.float32))
