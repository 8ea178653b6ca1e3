r"""Networks of EDM (Karras et al. 2022, github.com/NVlabs/edm).

The files are pickles of whole objects, of which only the state is read. Their `SongUNet` (DDPM++,
NCSN++) and `DhariwalUNet` (ADM) are our `UNet`. A label enters theirs through a matrix; here each
label's row is worked out once. Labels of augmentation are zero when sampling, so what they pass
through (`map_augment`) is left out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models import UNet

from ..errors import RunError
from .diffusers_weights import FLIPPED
from .expect import (
    BLOCKS,
    CHANNELS,
    DROPOUT,
    KERNEL,
    LEVELS,
    POSITIVE,
    SIZE,
    TEXT,
    Expected,
    check,
    several,
    whole,
)
from .plain import Remains
from .reading import checked_weights, reading, shown
from .rules import OIHW, SAME, TRANSPOSED, Layout, Rule, single
from .rules import Path as Place
from .torch_file import read_pickle

# Objects whose state is read; each is a plain container then.
REMAINS = frozenset(
    {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"),
        ("dnnlib.util", "EasyDict"),
        ("torch.nn.modules.container", "ModuleDict"),
    }
)


EXPECTED: dict[str, Expected] = {
    "img_resolution": SIZE, "in_channels": CHANNELS, "label_dim": whole(0, 100_000), "sigma_data": POSITIVE,
    "dropout": DROPOUT, "model_channels": CHANNELS, "channel_mult": several(whole(1, 1024), LEVELS, least=1),
    "num_blocks": BLOCKS, "attn_resolutions": several(SIZE, 64), "embedding_type": TEXT, "encoder_type": TEXT,
    "decoder_type": TEXT, "resample_filter": KERNEL,
}  # fmt: skip
EMBEDDINGS = {"positional": "positional", "fourier": "fourier_raw"}
ENCODERS = {"standard": "none", "skip": "input_skip", "residual": "residual"}
DECODERS = {"standard": "none", "skip": "output_skip"}
DEEPEST = 20  # modules inside of modules


class Net:
    """A module of theirs, as a pickle holds it.

    Args:
        content: what stands for the module, or for the pickled description of it.
    """

    def __init__(self, content: Any):
        meta = content
        if isinstance(content, Remains) and content.arguments:
            meta = content.arguments[0]
        self.state = _plain(_plain(meta).get("state", meta))
        self.kind = _plain(meta).get("class_name", "")
        self.settings = _plain(self.state.get("_init_kwargs", {}))

    def arrays(self, prefix: str = "", depth: int = 0) -> dict[str, np.ndarray]:
        """Return parameters and buffers, those of the modules inside too, names joined by dots."""
        if depth > DEEPEST:
            raise RunError(f"modules are nested more than {DEEPEST} deep; the file is damaged")
        own = {
            **_plain(self.state.get("_parameters", {})),
            **_plain(self.state.get("_buffers", {})),
        }
        arrays = {f"{prefix}{name}": array for name, array in own.items() if array is not None}
        for name, module in _plain(self.state.get("_modules", {})).items():
            if module is not None:
                arrays |= Net(module).arrays(f"{prefix}{name}.", depth + 1)
        return arrays

    def inner(self, name: str) -> "Net":
        """Return the module inside of this one that has a name; raise a RunError without one."""
        modules = _plain(self.state.get("_modules", {}))
        if name not in modules:
            raise RunError(f"the file holds no module {name!r} in its network")
        return Net(modules[name])


def read_edm(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the settings of our `UNet`, and the weights under their names.

    Among the settings are `shape`, `num_classes` and `sigma_data`.

    Raises:
        RunError: the file holds anything but plain containers, tensors and EDM's own objects, or
            another network.
    """
    content = _plain(read_pickle(path, REMAINS))
    with reading(path, "network snapshot of EDM"):
        if "ema" not in content:
            raise RunError("it holds no averaged network (ema); expected a network snapshot of EDM")
        outer = Net(content["ema"])
        if outer.kind != "EDMPrecond":
            raise RunError(f"it holds the network {shown(outer.kind)}, expected an EDMPrecond")
        net = outer.inner("model")
        settings = settings_of(net.kind, net.settings, outer.settings)
        return settings, checked_weights(net.arrays(), "the network")


def settings_of(kind: str, given: Mapping[str, Any], outer: Mapping[str, Any]) -> dict[str, Any]:
    """Return our settings for a SongUNet or DhariwalUNet made with `given` arguments.

    Raises:
        RunError: the network is another one.
    """
    needed = {name: EXPECTED[name] for name in ("img_resolution", "in_channels")}
    check(given, needed | {k: v for k, v in EXPECTED.items() if k in given})
    check(outer, {k: v for k, v in EXPECTED.items() if k in outer})
    size = given["img_resolution"]
    shared = {
        "name": "UNet",
        "shape": (size, size, given["in_channels"]),
        "num_classes": given.get("label_dim", 0),
        "sigma_data": float(outer.get("sigma_data", 0.5)),
        "dropout": given.get("dropout", 0.1),
    }
    if kind == "SongUNet":
        return shared | _song(given)
    if kind == "DhariwalUNet":
        return shared | _dhariwal(given)
    name = kind[:80] if isinstance(kind, str) else shown(kind)
    raise RunError(f"the file holds a {name}, expected a SongUNet or a DhariwalUNet")


def _song(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of our `UNet` that are those of a SongUNet alone."""
    embedding = _one_of(EMBEDDINGS, given, "embedding_type", "positional")
    encoder = _one_of(ENCODERS, given, "encoder_type", "standard")
    decoder = _one_of(DECODERS, given, "decoder_type", "standard")
    kernel = tuple(given.get("resample_filter", (1, 1)))
    return {
        "nf": given.get("model_channels", 128),
        "ch_mult": tuple(given.get("channel_mult", (1, 2, 2, 2))),
        "num_res_blocks": given.get("num_blocks", 4),
        "attn_resolutions": tuple(given.get("attn_resolutions", (16,))),
        "embedding": EMBEDDINGS[embedding],
        "pyramids": {"input": ENCODERS[encoder], "output": DECODERS[decoder]},
        "resampling": {"fir": kernel != (1, 1), "kernel": kernel},
    }


def _dhariwal(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of our `UNet` that are those of a DhariwalUNet alone."""
    return {
        "nf": given.get("model_channels", 192),
        "ch_mult": tuple(given.get("channel_mult", (1, 2, 3, 4))),
        "num_res_blocks": given.get("num_blocks", 3),
        "attn_resolutions": tuple(given.get("attn_resolutions", (32, 16, 8))),
        "embedding": "positional_open",
        "attention": {"head_features": 64, "up": "every"},
        "conditioning": {"label_into": "embedding", "scale_shift": True},
        "normalisation": {"eps": 1e-5},
        "resampling": {"shortcut": False},
        "residual": {"skip_rescale": False},
    }


def _one_of(choices: Mapping[str, str], given: Mapping[str, Any], name: str, usual: str) -> str:
    """Return the value of a setting; raise a RunError if it is none of the choices."""
    value = given.get(name, usual)
    if value not in choices:
        raise RunError(f"{name} is {shown(value)}, expected one of {', '.join(choices)}")
    return value


def with_labels(weights: Mapping[str, np.ndarray], net: UNet) -> dict[str, np.ndarray]:
    """Return the weights with "label rows" in place of the matrix that labels went through.

    There is a row for each label, and a last one for none.
    """
    left_out = ("map_augment.", "map_label.")
    others = {
        k: v
        for k, v in weights.items()
        if not k.startswith(left_out) and not k.endswith("resample_filter")
    }
    if net.conditioning is None or net.conditioning.label is None:
        return others
    count = net.num_classes
    matrix = _matrix(weights, "map_label.weight", count)
    if net.conditioning.label_into == "embedding":
        rows = np.concatenate([matrix, np.zeros((1, matrix.shape[1]))])
        return others | {"label rows": rows}
    first = _matrix(weights, "map_layer0.weight", matrix.shape[1])
    bias = weights.get("map_label.bias", np.zeros(0)).astype(np.float64)
    if bias.shape != matrix.shape[1:]:
        raise RunError(f"map_label.bias has shape {bias.shape}, expected {matrix.shape[1:]}")
    rows = np.concatenate([matrix * np.sqrt(count), np.zeros((1, matrix.shape[1]))]) + bias
    return others | {"label rows": rows @ first}


def _matrix(weights: Mapping[str, np.ndarray], name: str, rows: int) -> np.ndarray:
    """Return the matrix of a linear map in float64, as (in, out), where `in` has to be `rows`."""
    matrix = weights.get(name, np.zeros(0))
    if matrix.ndim != 2 or matrix.shape[1] != rows:
        raise RunError(f"{name} has shape {matrix.shape}, expected (outputs, {rows})")
    return matrix.T.astype(np.float64)


def edm_rules(net: UNet) -> list[Rule]:
    """Return the rules for the weights of a SongUNet or DhariwalUNet."""
    size = net.shape[0]
    song = net.style.resampled_shortcut
    rules: list[Rule] = []
    if net.conditioning is not None:
        if net.conditioning.frequencies is not None:
            rules.append(Rule(("conditioning", "frequencies"), ("map_noise.freqs",), SAME))
        if net.conditioning.label is not None:
            rules.append(Rule(("conditioning", "label", "embedding"), ("label rows",), SAME))
        rules += _pair("map_layer0", ("conditioning", "dense0"), TRANSPOSED if song else FLIPPED)
        rules += _pair("map_layer1", ("conditioning", "dense1"), TRANSPOSED)
    rules += _pair(f"enc.{size}x{size}_conv", ("conv_in",), OIHW)
    rules += _down_rules(net)
    rules += _up_rules(net)
    if net.conv_out is not None:
        names = ("out_norm", "out_conv")
        if song:
            names = (f"dec.{size}x{size}_aux_norm", f"dec.{size}x{size}_aux_conv")
        rules += _pair(names[0], ("norm_out",), SAME, "scale")
        rules += _pair(names[1], ("conv_out",), OIHW)
    return rules


def _down_rules(net: UNet) -> list[Rule]:
    """Return the rules for the levels on the way down."""
    size = net.shape[0]
    rules: list[Rule] = []
    for i, level in enumerate(net.down):
        here = f"enc.{size >> i}x{size >> i}"
        below = f"enc.{size >> (i + 1)}x{size >> (i + 1)}"
        for j, block in enumerate(level.blocks):
            rules += _block(f"{here}_block{j}", ("down", i, "blocks", j), block)
        if level.resample is not None:
            rules += _block(f"{below}_down", ("down", i, "resample"), level.resample)
        if level.merge is not None and hasattr(level.merge, "combine"):
            rules += _pair(f"{below}_aux_skip", ("down", i, "merge", "conv"), OIHW)
        elif level.merge is not None:
            rules += _pair(f"{below}_aux_residual", ("down", i, "merge", "down", "conv"), OIHW)
    return rules


def _up_rules(net: UNet) -> list[Rule]:
    """Return the rules for the middle and the levels on the way up."""
    rules: list[Rule] = []
    for i, level in enumerate(net.up):
        at = net.shape[0] >> (len(net.down) - 1 - i)
        here = f"dec.{at}x{at}"
        if i == 0:
            rules += _block(f"{here}_in0", ("middle0",), net.middle0)
            rules += _block(f"{here}_in1", ("middle1",), net.middle1)
        for j, block in enumerate(level.blocks):
            rules += _block(f"{here}_block{j}", ("up", i, "blocks", j), block)
        if level.resample is not None:
            rules += _block(f"dec.{2 * at}x{2 * at}_up", ("up", i, "resample"), level.resample)
        if level.merge is not None:
            rules += _pair(f"{here}_aux_norm", ("up", i, "merge", "norm"), SAME, "scale")
            rules += _pair(f"{here}_aux_conv", ("up", i, "merge", "conv"), OIHW)
    return rules


def _pair(
    prefix: str, path: Place, layout: Layout, kernel: str = "kernel", bias: Layout = SAME
) -> list[Rule]:
    """Return the rules for a weight, called `kernel` here, and its bias."""
    return [
        Rule((*path, kernel), (f"{prefix}.weight",), layout),
        Rule((*path, "bias"), (f"{prefix}.bias",), bias),
    ]


def _block(prefix: str, path: Place, block) -> list[Rule]:
    """Return the rules for a residual block with its attention."""
    rules = []
    for i in (0, 1):
        rules += _pair(f"{prefix}.norm{i}", (*path, f"norm{i}"), SAME, "scale")
        rules += _pair(f"{prefix}.conv{i}", (*path, f"conv{i}"), OIHW)
    rules += _pair(f"{prefix}.affine", (*path, "cond"), TRANSPOSED)
    if block.shortcut is not None:
        rules += _pair(f"{prefix}.skip", (*path, "shortcut"), OIHW)
    if block.attention is not None:
        own = (*path, "attention")
        heads = block.attention.heads
        of_1x1 = single(lambda a: a[:, :, 0, 0].T, lambda a: a.T[:, :, None, None])
        rules += _pair(f"{prefix}.norm2", (*own, "norm"), SAME, "scale")
        rules += _pair(
            f"{prefix}.qkv",
            (*own, "qkv"),
            _apart(heads, matrix=True),
            bias=_apart(heads, matrix=False),
        )
        rules += _pair(f"{prefix}.proj", (*own, "out"), of_1x1)
    return rules


def _apart(heads: int, matrix: bool) -> Layout:
    """Return the layout of queries, keys and values.

    They lie beside one another for each channel there, and one after the other here.
    """

    def read(a: np.ndarray) -> np.ndarray:
        a = a[:, :, 0, 0] if matrix else a
        ours = a.reshape(heads, -1, 3, *a.shape[1:])
        return np.moveaxis(ours, 2, 0).reshape(a.shape).T

    def write(a: np.ndarray) -> np.ndarray:
        a = a.T
        theirs = np.moveaxis(a.reshape(3, heads, -1, *a.shape[1:]), 0, 2).reshape(a.shape)
        return theirs[:, :, None, None] if matrix else theirs

    return single(read, write)


def _plain(value: Any) -> dict:
    """Return a container of theirs as a dict."""
    if isinstance(value, Remains):
        return {**value.items, **(value.state if isinstance(value.state, dict) else {})}
    return value if isinstance(value, dict) else {}
