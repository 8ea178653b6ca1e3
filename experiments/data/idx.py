"""IDX files, the format of MNIST and of the data sets that took its place, plain or gzipped.

A file is two zero bytes, one byte for the type of its values, one for the number of its axes, the
length of each axis as 4 bytes, and the values; all numbers are big-endian
(http://yann.lecun.com/exdb/mnist).
"""

import gzip
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np

from .settings import printable

# The third byte of a file.
TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MOST_AXES = 8  # a header of more is no header
REMEDY = "get the file anew"


def is_idx_name(path: Path) -> bool:
    """Tell whether a file is named as IDX files are, such as train-images-idx3-ubyte.gz."""
    return re.search(r"[-.]idx\d(-|\.|$)", path.name.lower()) is not None


def read_idx(path: Path) -> np.ndarray:
    """Return the array that an IDX file holds; whether it is gzipped is told by its first bytes.

    Raises:
      ValueError: the file is damaged, no IDX file, or shorter or longer than its header says; the
        message names it, and says what was found and what was expected.
    """
    name = printable(path)
    content = _unpacked(name, path.read_bytes())
    dtype, shape, start = _header(name, content)
    expected = math.prod(shape) * dtype.itemsize
    if len(content) - start != expected:
        raise ValueError(
            f"{name} holds {len(content) - start} bytes of values, but its header says {shape} "
            f"values of type {dtype.name}, which are {expected} bytes; {REMEDY}"
        )
    values = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)


def read_idx_pair(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, H, W) and labels (N,), both uint8, of two IDX files.

    Raises:
      ValueError: one of them cannot be read, holds something else, or they differ in number.
    """
    x = _of_bytes(images, axes=3, content="images")
    y = _of_bytes(labels, axes=1, content="labels")
    if len(x) != len(y):
        raise ValueError(
            f"{printable(images)} holds {len(x)} images, but {printable(labels)} {len(y)} labels; "
            "expected one label for each image: get both files anew"
        )
    return x, y


def _of_bytes(path: Path, axes: int, content: str) -> np.ndarray:
    """Return the array of a file that has to hold bytes along so many axes."""
    array = read_idx(path)
    if array.ndim != axes or array.dtype != np.uint8:
        raise ValueError(
            f"{printable(path)} holds {array.dtype.name} of shape {array.shape}, expected "
            f"{content}: uint8 with {axes} axes; name the files the right way round, or {REMEDY}"
        )
    return array


def _unpacked(name: str, content: bytes) -> bytes:
    """Return the content of a file, decompressed if it is gzipped."""
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"cannot unpack {name} (gzip: {reason}); {REMEDY}") from error


def _header(name: str, content: bytes) -> tuple[np.dtype, tuple[int, ...], int]:
    """Return the type and the shape of the values of an IDX file, and the byte they begin at."""
    magic = content[:4]
    axes = magic[3] if len(magic) == 4 else 0
    known = magic[:2] == b"\0\0" and len(magic) == 4 and magic[2] in TYPES
    if not known or not 1 <= axes <= MOST_AXES:
        types = " ".join(f"{number:02x}" for number in TYPES)
        raise ValueError(
            f"{name} begins with the bytes [{magic.hex(' ')}], expected 00 00, a type ({types}) "
            f"and a number of axes from 01 to {MOST_AXES:02x}: it is no IDX file, or damaged; {REMEDY}"
        )
    start = 4 + 4 * axes
    if len(content) < start:
        raise ValueError(
            f"{name} ends after {len(content)} bytes, inside of its header of {start}; {REMEDY}"
        )
    return np.dtype(TYPES[magic[2]]), struct.unpack(f">{axes}I", content[4:start]), start
