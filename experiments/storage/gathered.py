"""The samples of a job gathered for other programs: one .npz file, or a folder of PNG images.

Both are written in a stream, so that any number of samples takes the memory of one part.
"""

import io
import itertools
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..errors import RunError
from .parts import Parts
from .writing import clear_leftovers, writing

if TYPE_CHECKING:
    from ..run.build import DataFacts

FORMATS = ("npz", "png", "parts")  # "parts": nothing is gathered
CHANNELS = (1, 3, 4)  # of a PNG image: grey, colour, colour with transparency

_OURS = re.compile(r"\d{7,}\.png")


def check_format(name: str, facts: "DataFacts") -> None:
    """Raise an error if samples cannot be gathered in a format.

    Raises:
        ValueError: there is no such format.
        RunError: the data are no images that PNG files can hold.
    """
    if name not in FORMATS:
        raise ValueError(f"config.sampling.format is {name!r}, expected {', '.join(FORMATS)}")
    if name != "png":
        return
    images = len(facts.shape) == 3 and facts.shape[-1] in CHANNELS
    if not images or facts.levels is None or facts.levels > 256:
        levels = "continuous values" if facts.levels is None else f"{facts.levels} grey levels"
        raise RunError(
            f"config.sampling.format is 'png', which holds images of 1, 3 or 4 channels and at "
            f"most 256 grey levels; the data have shape {facts.shape} and {levels}; choose npz"
        )


def save_stream(path: Path, number: int, arrays: Mapping[str, Iterable[np.ndarray]]) -> None:
    """Write arrays as .npz, a block of each at a time.

    Args:
        path: the file.
        number: how many rows each array has.
        arrays: by name, blocks (rows, ...) of one shape and type, of `number` rows together.
    """
    with writing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, blocks in arrays.items():
            # Its date is fixed, so that the same arrays make the same file.
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as member:
                blocks = iter(blocks)
                first = np.asarray(next(blocks))
                header = {
                    "descr": np.lib.format.dtype_to_descr(first.dtype),
                    "fortran_order": False,
                    "shape": (number, *first.shape[1:]),
                }
                np.lib.format.write_array_header_1_0(member, header)
                for block in itertools.chain([first], blocks):
                    member.write(np.ascontiguousarray(block).tobytes())


def save_pngs(folder: Path, parts: Parts, levels: int) -> Iterable[int]:
    """Write each image as `0000017.png`, by its number, into a folder of nothing else.

    That is how programs that compute Frechet distances read images. Levels other than 256 are
    spread over 0..255. Images of a larger number, from before, are removed.

    Yields:
        How many images are written, after each part.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder, age=0)
    _remove_from(folder, parts.number)
    for index, x in zip(parts.ranges(), parts, strict=True):
        brightness = np.rint(x * (255 / (levels - 1))).astype(np.uint8)
        for number, image in zip(index, brightness, strict=True):
            _save_png(folder / f"{number:07d}.png", image)
        yield int(index[-1]) + 1


def _save_png(path: Path, image: np.ndarray) -> None:
    """Write a uint8 image (H, W, C) of 1, 3 or 4 channels."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    with writing(path, durable=False) as file:
        file.write(buffer.getvalue())


def _remove_from(folder: Path, number: int) -> None:
    """Remove the images of the numbers from `number` on."""
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and int(path.stem) >= number:
            path.unlink()
