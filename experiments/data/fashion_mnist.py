"""Fashion-MNIST: 70,000 photographs of clothes in 10 classes, 28x28 grey pixels, MIT licence.

Source: Xiao, Rasul and Vollgraf 2017 (arXiv:1708.07747). Its four IDX files are read where another
package has put them. On first use they are written as a TFDS data set, and read back like any
other.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from .base import DataSet, Source, check_split
from .idx import read_idx_pair
from .prepared import Labelled, Recipe, open_prepared, torn, write_images
from .settings import check_path, printable
from .tfds import check_lengths, checked_reader, data_directory

RECIPE = Recipe(
    name="fashion_mnist_idx",  # fashion_mnist is that of the catalogue
    version="1.0.0",
    title="Fashion-MNIST",
    description=__doc__,
    shape=(28, 28, 1),
    num_classes=10,
)
CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
# The files of each official part: images, labels.
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# The hash of the bytes of all images and then of all labels of a part, so that these are the
# clothes, and not the digits of MNIST, whose files have the same names.
SHA256 = {
    "train": "16d82e2b505296aa2b78bd5ea0992634f30419a4c97def7c907d154a35ac6157",
    "test": "9f1ec356a747bfe4ebab3cfb722d3694c9ca737e2570f6f90cf31d7b6fd689d4",
}
# The part and the rows of each split, in the order of the files, which is random.
SPLITS = {
    "train": ("train", slice(0, 55_000)),
    "validation": ("train", slice(55_000, 60_000)),
    "test": ("test", slice(0, 10_000)),
}


class FashionMNIST(DataSet):
    """Clothes of shape (28, 28, 1) and their classes 0..9, `CLASSES`.

    Splits: the first 55,000 of the official training images to train, the other 5,000 to choose
    settings (validation), ``fit``, both of them together, for the final model, and the 10,000
    official test images (test).

    Args:
      path: the folder of the four IDX files, plain or gzipped, read only where the data set has not
          been written yet; default: where Debian's package dataset-fashion-mnist has them, else
          where TFDS downloads to.
      data_dir: where data sets are kept; default: the environment variable TFDS_DATA_DIR, else
          ~/tensorflow_datasets.

    Raises:
      FileNotFoundError: the files are nowhere; the message names the command that brings them.
      ValueError: a file is damaged or is another one, or what was written is damaged; the message
          says which, and what to do.
      OSError: the folder cannot be written.
    """

    shape = RECIPE.shape
    levels = 256
    num_classes = RECIPE.num_classes
    splits = ("train", "validation", "fit", "test")
    licence = "MIT"
    origin = "Xiao, Rasul and Vollgraf 2017, <https://arxiv.org/abs/1708.07747>"

    def __init__(self, *, path: str | None = None, data_dir: str | None = None):
        directory = data_directory(data_dir)
        folder = None if path is None else check_path("path", path)
        self._builder: Any = open_prepared(
            directory, RECIPE, lambda place: _write(place, folder, directory / "downloads")
        )

    def source(self, split: str) -> Source:
        check_split(split, self.splits)
        parts = ("train", "validation") if split == "fit" else (split,)
        try:
            for part in parts:
                _check_length(self._builder.info.splits, part)
            records = self._builder.as_data_source("+".join(parts))
        except Exception as error:  # there is no list of what damaged files make the reader raise
            raise self._torn(error) from error

        take = checked_reader(records, self._torn)

        def read(index: int) -> tuple[np.ndarray, int]:
            record = take(index)
            return record["image"], record["label"]

        return Source(len(records), read)

    def _torn(self, error: Exception) -> ValueError:
        return torn(Path(self._builder.data_dir), RECIPE, error)


def _check_length(infos: Any, split: str) -> None:
    """Raise a ValueError unless a split has its length, in its description and in its file."""
    rows = SPLITS[split][1]
    expected = rows.stop - rows.start
    if infos[split].num_examples != expected:
        raise ValueError(f"{split} has {infos[split].num_examples} examples, not {expected}")
    check_lengths(infos, split)


def find_files(folder: Path | None, downloads: Path) -> dict[str, tuple[Path, Path]]:
    """Return the files of each part: images, labels.

    ``folder`` is where they have to be, None: wherever other programs put them.

    Raises:
      FileNotFoundError: some are missing; the message says where they were looked for, and how to
          get them.
    """
    if folder is not None:
        return _files_in(folder, "")
    try:
        return _files_in(DEBIAN, "")
    except FileNotFoundError:
        pass
    try:
        # TFDS names a file fashion-mnist_NAMEHASH.gz, at some depth.
        return _files_in(downloads, "**/fashion-mnist_")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"Fashion-MNIST is neither in {DEBIAN} nor below {printable(downloads)}; on Debian and "
            "Ubuntu it comes with\n  apt-get install dataset-fashion-mnist\nElsewhere name the "
            "folder of its four IDX files in data.path"
        ) from None


def _files_in(folder: Path, prefix: str) -> dict[str, tuple[Path, Path]]:
    """Return the files of each part in a folder; a prefix begins the pattern of their names."""

    def find(name: str) -> Path:
        found = [*folder.glob(f"{prefix}{name}"), *sorted(folder.glob(f"{prefix}{name}*.gz"))]
        if not found:
            raise FileNotFoundError(
                f"no file {name} or {name}.gz in {printable(folder)}; data.path must name the "
                "folder of the four IDX files of Fashion-MNIST, "
                f"{', '.join(sum(FILES.values(), ()))}"
            )
        return found[0]

    return {part: (find(images), find(labels)) for part, (images, labels) in FILES.items()}


def _write(directory: Path, folder: Path | None, downloads: Path) -> None:
    """Write the clothes as a TFDS data set."""
    files = find_files(folder, downloads)
    parts = {part: _read_part(part, *pair) for part, pair in files.items()}
    splits = {
        split: Labelled(parts[part].image[rows], parts[part].label[rows])
        for split, (part, rows) in SPLITS.items()
    }
    write_images(directory, RECIPE, splits)


def _read_part(part: str, images: Path, labels: Path) -> Labelled:
    """Return an official part; raise a ValueError unless it is this one, pixel by pixel."""
    x, y = read_idx_pair(images, labels)
    digest = hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()
    if x.shape[1:] != RECIPE.shape[:2] or digest != SHA256[part]:
        raise ValueError(
            f"{printable(images)} and {printable(labels)} hold {len(x)} images of {x.shape[1:]} "
            f"that are not those of Fashion-MNIST (SHA-256 {digest[:12]}..., expected "
            f"{SHA256[part][:12]}...); get the files anew. Other images in IDX files, such as "
            "MNIST's digits, are read with config.data.name Files, data.path and data.labels"
        )
    return Labelled(x[..., None], y)
