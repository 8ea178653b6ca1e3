"""Which files below a folder are images."""

import os
import warnings
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from .header import FORMATS
from .settings import printable

SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".bmp", ".gif",
    ".tif", ".tiff", ".pgm", ".ppm", ".pbm", ".pnm", ".qoi",
)  # fmt: skip
ARRAYS = (".npy", ".npz")
LITTER = ("thumbs.db", "desktop.ini")  # what file managers leave behind


class Listing(NamedTuple):
    """The files below a folder, by their paths relative to it, with slashes."""

    images: list[str]
    others: list[str]  # neither images nor hidden


def list_images(folder: Path) -> Listing:
    """List the images at any depth, through symbolic links too.

    A file is an image by its suffix (`SUFFIXES`) or, if it has none, by its first bytes. Names that
    begin with a dot are left out.

    Raises:
      OSError: a folder that cannot be read.
    """
    images: list[str] = []
    others: list[str] = []

    def visit(place: Path, key: str, above: frozenset[tuple[int, int]]) -> None:
        with os.scandir(place) as scanned:
            entries = list(scanned)
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in LITTER:
                continue
            name = f"{key}{entry.name}"
            if entry.is_dir():
                status = entry.stat()
                itself = (status.st_dev, status.st_ino)
                if itself in above:
                    others.append(f"{name} (a link to a folder that it lies in)")
                else:
                    visit(Path(entry.path), f"{name}/", above | {itself})
            elif _is_image(entry):
                images.append(name)
            else:
                others.append(name)

    status = folder.stat()
    visit(folder, "", frozenset({(status.st_dev, status.st_ino)}))
    return Listing(sorted(images, key=_parts), sorted(others, key=_parts))


def warn_of_others(folder: Path, others: list[str]) -> None:
    """Name, in one warning, the files that are left out."""
    if others:
        warnings.warn(
            f"{printable(folder)}: {len(others)} files are no images and left out: {some(others)}",
            stacklevel=2,
        )


def some(names: list[str], shown: int = 10) -> str:
    """Return the names, or the first `shown` of many, as they can be printed."""
    listed = ", ".join(printable(name) for name in names[:shown])
    return listed if len(names) <= shown else f"{listed} and {len(names) - shown} more"


def _parts(key: str) -> list[str]:
    """Return the names of a path, by which files are sorted."""
    return key.split("/")


def _is_image(entry: os.DirEntry) -> bool:
    """Tell whether an entry of a folder is an image, by its suffix or its first bytes."""
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in SUFFIXES:
        # A link to nothing is an image that cannot be read.
        return entry.is_file() or entry.is_symlink()
    if suffix or not entry.is_file():  # never open what is no file: a pipe would wait for ever
        return False
    try:
        with Image.open(entry.path, formats=FORMATS):
            return True
    except Exception:  # whatever Pillow says of a file that is none of its own
        return False
