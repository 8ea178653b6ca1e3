"""The weights of DINOv2 by the names of its two publications: as PyTorch's and as transformers'.

The published file `dinov2_vitl14_pretrain.pth` calls the first block ``blocks.0``, or
``blocks.0.0`` where the blocks were saved in chunks; transformers' `model.safetensors` calls it
``encoder.layer.0`` and keeps queries, keys and values apart. The sizes of the network are those of
its arrays.
"""

import math
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...errors import RunError
from .dinov2 import HEAD, PATCH, Block, Dense, DINOv2Weights, Norm

TRANSFORMERS = (  # a part of a name there, and in the published file
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.register_tokens$", "register_tokens"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
    (r"^layernorm\.", "norm."),
)
CHUNK = re.compile(r"^blocks\.\d+\.(\d+)\.")
BLOCK = re.compile(r"^blocks\.(\d+)\.")
UNUSED = {"mask_token"}  # of the training
REMEDY = (
    "take dinov2_vits14_pretrain.pth or its larger brothers (without registers), or "
    "model.safetensors of transformers"
)


def is_dinov2(state: Mapping[str, np.ndarray]) -> bool:
    """Return whether a state dict looks like one of DINOv2."""
    return "cls_token" in state or "embeddings.cls_token" in state


def convert_dinov2(state: Mapping[str, np.ndarray]) -> DINOv2Weights:
    """Return the weights of a state dict with the names of either publication.

    Raises:
        RunError: an array is absent, has another shape, or belongs to another network.
    """
    arrays = _Arrays(published_names(state))
    width = arrays.last_size("cls_token")
    if width < 1 or width % HEAD:
        raise RunError(f"cls_token has {width} channels, expected a multiple of {HEAD}; {REMEDY}")
    class_token = arrays.take("cls_token", (1, 1, width))
    places = arrays.size("pos_embed") // width
    side = math.isqrt(max(places - 1, 0))
    positions = arrays.take("pos_embed", (1, 1 + side**2, width))[0]
    kernel = arrays.take("patch_embed.proj.weight", (width, 3, PATCH, PATCH))
    bias = arrays.take("patch_embed.proj.bias", (width,))
    kernel = kernel.transpose(2, 3, 1, 0).reshape(-1, width)
    depth = 1 + max((int(match[1]) for match in map(BLOCK.match, arrays.names) if match), default=0)
    blocks = [_block(arrays, f"blocks.{index}", width) for index in range(depth)]
    norm = arrays.norm("norm", width)
    arrays.check_all_taken()
    return DINOv2Weights(
        class_token=class_token[0, 0],
        class_position=positions[0],
        positions=positions[1:].reshape(side, side, width),
        patches=Dense(kernel=kernel, bias=bias),
        blocks=jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks),
        norm=norm,
    )


def published_names(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays by the names of the published file, without chunks."""
    renamed = {}
    for name, array in state.items():
        if "embeddings.cls_token" in state:
            for pattern, published in TRANSFORMERS:
                name = re.sub(pattern, published, name)
        renamed[CHUNK.sub(r"blocks.\1.", name)] = array
    for name in [name for name in renamed if ".attn.query." in name]:
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(part in renamed for part in parts):
            joint = np.concatenate([np.asarray(renamed.pop(part)) for part in parts])
            renamed[name.replace(".query.", ".qkv.")] = joint
    return renamed


def _block(arrays: "_Arrays", name: str, width: int) -> Block:
    """Return the weights of a block, whose perceptron is gated if it has the names of that."""
    gated = f"{name}.mlp.w12.weight" in arrays.names
    first, last = ("w12", "w3") if gated else ("fc1", "fc2")
    hidden = arrays.last_size(f"{name}.mlp.{last}.weight")
    return Block(
        norm1=arrays.norm(f"{name}.norm1", width),
        attention_in=arrays.dense(f"{name}.attn.qkv", width, 3 * width),
        attention_out=arrays.dense(f"{name}.attn.proj", width, width),
        scale1=arrays.take(f"{name}.ls1.gamma", (width,)),
        norm2=arrays.norm(f"{name}.norm2", width),
        mlp_in=arrays.dense(f"{name}.mlp.{first}", width, 2 * hidden if gated else hidden),
        mlp_out=arrays.dense(f"{name}.mlp.{last}", hidden, width),
        scale2=arrays.take(f"{name}.ls2.gamma", (width,)),
    )


class _Arrays:
    """The arrays of a state dict, each to be taken once."""

    def __init__(self, state: Mapping[str, np.ndarray]):
        self._state = state
        self._taken = set(UNUSED)
        self.names = set(state)

    def take(self, name: str, shape: tuple[int, ...]) -> Array:
        """Return an array in float32; raise a RunError if it has another shape."""
        array = self._named(name)
        if array.shape != shape:
            raise RunError(f"{name} has shape {array.shape}, expected {shape}; {REMEDY}")
        self._taken.add(name)
        return jnp.asarray(np.asarray(array, np.float32))

    def norm(self, name: str, width: int) -> Norm:
        """Return a layer norm."""
        return Norm(
            scale=self.take(f"{name}.weight", (width,)), bias=self.take(f"{name}.bias", (width,))
        )

    def dense(self, name: str, features_in: int, features_out: int) -> Dense:
        """Return an affine map, whose kernel PyTorch keeps transposed."""
        kernel = self.take(f"{name}.weight", (features_out, features_in))
        return Dense(kernel=kernel.T, bias=self.take(f"{name}.bias", (features_out,)))

    def size(self, name: str) -> int:
        """Return the number of values of an array."""
        return self._named(name).size

    def last_size(self, name: str) -> int:
        """Return the size of the last axis of an array."""
        return (1, *self._named(name).shape)[-1]

    def check_all_taken(self) -> None:
        """Raise a RunError if an array was not taken: it belongs to another network."""
        left = sorted(self.names - self._taken)
        if left:
            raise RunError(f"the network has parts of another one: {', '.join(left[:5])}; {REMEDY}")

    def _named(self, name: str) -> np.ndarray:
        """Return an array; raise a RunError if it is absent."""
        if name not in self._state:
            raise RunError(f"{name} is absent, which DINOv2 has; {REMEDY}")
        return self._state[name]
