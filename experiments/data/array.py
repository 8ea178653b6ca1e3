"""An .npy file as one list of examples, read in place (memory-mapped).

uint8 arrays (N, H, W, C) or (N, H, W) are images with 256 grey levels; float arrays (N, D) or (N, H, W, C) are continuous data.
"""

from pathlib import Path

import numpy as np

from .base import Source
from .folder import Collection


def open_array(path: Path, channels: int | None) -> Collection:
    """Open the array at ``path``; ValueError if it is none of the kinds above."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"cannot read {path} as a .npy array ({error})") from error
    levels, shape = _kind(path, array)
    if channels is not None and (len(shape) != 3 or shape[2] != channels):
        raise ValueError(
            f"{path} holds examples of shape {shape}, not images with {channels} channels; leave out channels"
        )

    def read(index: int):
        x = np.asarray(array[index]).reshape(shape)
        return (x if levels else x.astype(np.float32)), 0

    keys = [str(index) for index in range(len(array))]
    return Collection(shape, levels, 0, Source(len(array), read, "row {}".format), keys)


def _kind(path: Path, array: np.ndarray) -> tuple[int | None, tuple[int, ...]]:
    expected = "expected uint8 (N, H, W, C) or (N, H, W), or float (N, D) or (N, H, W, C)"
    found = f"{path} holds {array.dtype} of shape {array.shape}"
    image, continuous = array.dtype == np.uint8, np.issubdtype(array.dtype, np.floating)
    if not (image or continuous):
        raise ValueError(f"{found}; {expected}; convert it, for example with x.astype(np.uint8)")
    if array.ndim not in ((3, 4) if image else (2, 4)) or 0 in array.shape:
        raise ValueError(f"{found}; {expected}, none of them 0")
    if array.ndim == 4 and array.shape[3] > 4 and array.shape[1] in (1, 3):
        raise ValueError(
            f"{found}, which looks like (N, C, H, W); {expected}: np.moveaxis(x, 1, 3) puts the channels last"
        )
    shape = array.shape[1:] if array.ndim != 3 else (*array.shape[1:], 1)
    return (256 if image else None), shape
