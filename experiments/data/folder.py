"""A folder of images, at any depth, as one list of examples.

If every image lies in a sub-folder, and there are at least two of these, their names (in alphabetical order) are the classes.
"""

import re
from pathlib import Path
from typing import NamedTuple

from .base import Source
from .images import fitted_shape, image_facts, read_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm")


class Collection(NamedTuple):
    """Examples that are not split yet."""

    shape: tuple[int, ...]
    levels: int | None
    num_classes: int
    source: Source
    keys: list[str]  # one an example, by which it is assigned to a split


def open_folder(path: Path, image_size: int | None, channels: int | None) -> Collection:
    """Collect the images below ``path``; they are decoded when they are read.

    The headers of all files are looked at unless ``image_size`` and ``channels`` are both given.
    """
    hidden = re.compile(r"(^|/)\.")
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    files = [file for file in files if not hidden.search(file.relative_to(path).as_posix())]
    if not files:
        raise ValueError(
            f"no images in {path}; expected files ending in {' '.join(SUFFIXES)}, there or in sub-folders"
        )
    keys = [file.relative_to(path).as_posix() for file in files]
    height, width, channels = _common_shape(files, keys, image_size, channels)

    folders = [key.split("/")[0] for key in keys if "/" in key]
    classes = sorted(set(folders)) if len(folders) == len(keys) else []
    labels = {name: label for label, name in enumerate(classes)} if len(classes) > 1 else {}

    def read(index: int):
        x = read_image(files[index], keys[index], channels, size=image_size)
        return x, labels.get(keys[index].split("/")[0], 0)

    return Collection(
        (height, width, channels),
        256,
        len(labels),
        Source(len(files), read, keys.__getitem__),
        keys,
    )


def _common_shape(
    files: list[Path], keys: list[str], image_size: int | None, channels: int | None
) -> tuple[int, int, int]:
    if image_size is not None and channels is not None:
        return image_size, image_size, channels
    first, bands = image_facts(files[0], keys[0])
    for file, key in zip(files[1:], keys[1:], strict=True):
        size, more = image_facts(file, key)
        bands = max(bands, more)  # one colour image makes all of them colour images
        if image_size is None and size != first:
            raise ValueError(
                f"images differ in size (height x width): {keys[0]!r} is {first[0]} x {first[1]}, {key!r} is {size[0]} x {size[1]}; "
                "pass image_size=... to cut and resample all of them to squares"
            )
    return *fitted_shape(*first, None, image_size), channels or bands
