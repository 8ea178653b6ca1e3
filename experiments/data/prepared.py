"""Data sets that are made of what other packages bring: written once, and read like any of TFDS.

They lie where the prepared data sets of the TFDS catalogue do, `name/version` below one folder, as
array_record files of raw pixels. Writing them needs no TensorFlow.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_info import DatasetIdentity
from tensorflow_datasets.core.read_only_builder import builder_from_files


class Recipe(NamedTuple):
    """What a data set on disk is called, and what its examples are."""

    name: str  # of its folder
    version: str
    title: str  # in messages: the complete data set of `title`
    description: str | None
    shape: tuple[int, int, int]  # (H, W, C) of an image, uint8
    num_classes: int


class Labelled(NamedTuple):
    """Images and their classes."""

    image: np.ndarray  # (N, H, W, C) uint8
    label: np.ndarray  # (N,) whole numbers


def open_prepared(
    directory: Path, recipe: Recipe, write: Callable[[Path], None]
) -> tfds.core.DatasetBuilder:
    """Open the data set of a recipe under ``directory``, writing it first if it is not there.

    ``write`` gets the folder to make. It writes aside, and the folder is renamed into place, so
    that a process that is killed, or another that starts at the same time, leaves either nothing or
    all of it.

    Raises:
      ValueError: what lies there is damaged.
      OSError: the folder cannot be written.
    """
    final = directory / recipe.name / recipe.version
    if not final.exists():
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            _clear_leftovers(directory, recipe)
            aside = Path(tempfile.mkdtemp(prefix=_unfinished(recipe), dir=directory))
        except OSError as error:
            raise OSError(
                f"cannot write to {directory} ({error}); choose another folder with data_dir or "
                "TFDS_DATA_DIR"
            ) from error
        try:
            write(aside / recipe.version)
            os.rename(aside / recipe.version, final)
        except OSError:
            if not final.exists():  # otherwise another process was faster, with the same data
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    try:
        return builder_from_files(recipe.name, data_dir=directory)
    except Exception as error:  # there is no list of what damaged files make the reader raise
        raise torn(final, recipe, error) from error


def write_images(directory: Path, recipe: Recipe, splits: Mapping[str, Labelled]) -> None:
    """Write the splits of a data set into a new folder, in the form of TFDS."""
    directory.mkdir()
    features = tfds.features.FeaturesDict(
        {
            # a Tensor, for an Image would be encoded by TensorFlow
            "image": tfds.features.Tensor(shape=recipe.shape, dtype=np.uint8),
            "label": tfds.features.ClassLabel(num_classes=recipe.num_classes),
        }
    )
    identity = DatasetIdentity(
        name=recipe.name,
        version=tfds.core.Version(recipe.version),
        data_dir=str(directory),
        module_name="",
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description=recipe.description,
        features=features,
        disable_shuffling=True,
    )
    largest = max(len(examples.label) for examples in splits.values())
    writer = tfds.core.SequentialWriter(
        info, max_examples_per_shard=largest, file_format="array_record"
    )
    writer.initialize_splits(list(splits))
    for split, examples in splits.items():
        records = [
            {"image": image, "label": int(label)}
            for image, label in zip(examples.image, examples.label, strict=True)
        ]
        writer.add_examples({split: records})
    writer.close_all()


def torn(place: Path, recipe: Recipe, error: Exception) -> ValueError:
    """Return the error about a data set that is damaged or not all there."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(
        f"{place} is not the complete data set of {recipe.title} ({reason}); delete it, and it is "
        f"written anew:\n  rm -r {place}"
    )


def _unfinished(recipe: Recipe) -> str:
    """Return how the names of folders begin in which a data set is being written."""
    return f"{recipe.name}.incomplete-"


def _clear_leftovers(directory: Path, recipe: Recipe) -> None:
    """Remove what processes that were killed while they wrote left in a folder.

    Writing takes some seconds, so that nobody writes what is an hour old.
    """
    for place in directory.glob(f"{_unfinished(recipe)}*"):
        if place.is_dir() and time.time() - place.stat().st_mtime > 3600:
            shutil.rmtree(place, ignore_errors=True)
