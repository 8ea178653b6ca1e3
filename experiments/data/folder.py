"""A folder of images, at any depth, as one list of examples.

If every image lies in a sub-folder, and there are at least two of these, their names (in
alphabetical order) are the classes.
"""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from .base import BadExamples, Source
from .header import Header, image_header
from .image_files import ARRAYS, SUFFIXES, list_images, some, warn_of_others
from .images import fitted_shape, read_image
from .settings import printable

REMEDY = "remove or replace it, or leave out what cannot be read with data.skip_unreadable=True"
SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
THREADS = 8  # enough to wait for a disk of the network


class Collection(NamedTuple):
    """Examples that are not split yet."""

    shape: tuple[int, ...]
    levels: int | None
    num_classes: int
    source: Source
    keys: list[str]  # one an example, by which it is assigned to a split
    cond_shape: tuple[int, ...] | None = None  # of a condition; None: there are none


def open_folder(
    path: Path, image_size: int | None, channels: int | None, levels: int, skip_unreadable: bool
) -> Collection:
    """Collect the images below ``path``; they are decoded when they are read.

    The headers of all files are read. With ``skip_unreadable`` all images are decoded once, and
    those that cannot be are left out.

    Raises:
      BadExamples: files that are no readable 8-bit images; all of them are named.
      ValueError: no images, or images that differ in size; it says what to do.
    """
    listing = list_images(path)
    if not listing.images:
        raise ValueError(_nothing_found(path, listing.others))
    labels = _classes(listing.images)
    warn_of_others(path, listing.others)
    _warn_of_empty_classes(path, labels)
    keys, headers = _readable(path, listing.images, skip_unreadable)
    height, width = _common_size(keys, headers, image_size)
    bands = channels or max(header.channels for header in headers)
    names = [printable(key) for key in keys]

    def read(index: int):
        x = read_image(path / keys[index], names[index], bands, size=image_size, remedy=REMEDY)
        return x, labels.get(keys[index].split("/")[0], 0)

    return Collection(
        shape=(height, width, bands),
        levels=levels,
        num_classes=len(labels),
        source=Source(len(keys), read, names.__getitem__),
        keys=keys,
    )


def _classes(keys: list[str]) -> dict[str, int]:
    """Return the class of each sub-folder, or nothing if they are no classes."""
    folders = [key.split("/")[0] for key in keys if "/" in key]
    names = sorted(set(folders))
    if len(folders) < len(keys) or len(names) < 2:
        return {}
    if {name.lower() for name in names} <= SPLIT_NAMES:
        raise ValueError(
            f"the sub-folders {', '.join(names)} look like splits, and would be taken for classes; "
            f"name one of them in data.path (a part of it is held out with data.validation)"
        )
    return {name: label for label, name in enumerate(names)}


def _warn_of_empty_classes(path: Path, labels: dict[str, int]) -> None:
    """Warn of sub-folders beside the classes that hold no images."""
    folders = [entry.name for entry in path.iterdir() if entry.is_dir()]
    empty = sorted(f for f in folders if f not in labels and not f.startswith("."))
    if labels and empty:
        warnings.warn(
            f"{printable(path)}: sub-folders without images are no classes: {some(empty)}",
            stacklevel=2,
        )


def _readable(path: Path, keys: list[str], skip_unreadable: bool) -> tuple[list[str], list[Header]]:
    """Return the files that can be read, and their headers."""

    def look(key: str) -> Header | ValueError:
        try:
            header = image_header(path / key, printable(key), REMEDY)
            if skip_unreadable:
                read_image(path / key, printable(key), header.channels)
        except ValueError as error:
            return error
        return header

    with ThreadPoolExecutor(THREADS) as threads:
        results = list(threads.map(look, keys))
    headers: dict[str, Header] = {}
    problems: dict[str, str] = {}
    for key, result in zip(keys, results, strict=True):
        if isinstance(result, Header):
            headers[key] = result
        else:
            problems[key] = str(result)
    if problems and (not skip_unreadable or not headers):
        raise BadExamples(list(problems.values()))
    if problems:
        warnings.warn(
            f"{printable(path)}: {len(problems)} of {len(keys)} images cannot be read and are left "
            f"out: {some(list(problems))}",
            stacklevel=2,
        )
    return list(headers), list(headers.values())


def _common_size(keys: list[str], headers: list[Header], image_size: int | None) -> tuple[int, int]:
    """Return height and width of the examples; raise a ValueError if they differ in size."""
    first = headers[0]
    for key, header in zip(keys, headers, strict=True):
        if image_size is None and (header.height, header.width) != (first.height, first.width):
            raise ValueError(
                f"images differ in size (height x width): {printable(keys[0])!r} is {first.height} "
                f"x {first.width}, {printable(key)!r} is {header.height} x {header.width}; pass "
                "image_size=... to cut and resample all of them to squares"
            )
    if image_size is not None:
        small = [
            k for k, h in zip(keys, headers, strict=True) if min(h.height, h.width) < image_size
        ]
        if small:
            warnings.warn(
                f"{len(small)} images are smaller than image_size={image_size} and are enlarged, "
                f"which blurs them: {some(small)}",
                stacklevel=2,
            )
    return fitted_shape(first.height, first.width, None, image_size)


def _nothing_found(path: Path, others: list[str]) -> str:
    """Return the message about a folder without images, whose other files are `others`."""
    place = printable(path)
    if arrays := [name for name in others if name.lower().endswith(ARRAYS)]:
        return f"no images in {place}, but arrays: {some(arrays)}; name one of them in data.path"
    content = f"it holds {some(others)}" if others else "it is empty"
    return (
        f"no images in {place}; expected files ending in {' '.join(SUFFIXES)}, there or in "
        f"sub-folders; {content}"
    )
