"""Features of real images in a file, or their moments alone, with what they were measured with.

A distance to other features, or to those of other images, or of images prepared in another way, is
a number without a meaning that looks like one. So a file says which network gave the features, how
the images were prepared and, where that is known, which images they are, and is refused where any
of it differs.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...data.joint_moments import FeatureMoments
from ...errors import RunError
from ...storage.identity import digest
from ...storage.jobs import save_arrays
from ...storage.reading import read_arrays

FIELDS = {"count", "mean", "covariance", "extractor", "preprocessing", "preprocessing_hash"}
FEATURES = "features"
IMAGES = "images"  # the hash of the images
OPTIONAL = {FEATURES, IMAGES}
REMEDY = "measure the real images anew and write them with save_reference"


class Reference(NamedTuple):
    """What is kept of the features of real images."""

    moments: FeatureMoments  # of all of them
    features: np.ndarray | None = None  # (n, d) float32, of all or some; None: they were not kept


def save_reference(
    path: Path,
    moments: FeatureMoments,
    extractor: str,
    preprocessing: Mapping[str, Any],
    features: np.ndarray | None = None,
    images: str = "",
) -> None:
    """Write the moments of real images, and features, to an .npz file, in one piece.

    Args:
        path: the file.
        moments: of the features.
        extractor: the name of the network that gave the features, with its weights' hash.
        preprocessing: how images become what the network sees, as plain JSON, such as
            {"shape": [28, 28, 1], "range": [-1, 1], "resize": None}.
        features: (n, d), of all of these images or of some; None: the moments alone.
        images: the hash of the images (`storage.identity.data_hash`); "": whoever takes the file
            has to know which images they are.

    Raises:
        ValueError: there are fewer than two features, or the preprocessing is no plain JSON.
    """
    text = _canonical(preprocessing)
    kept = {} if features is None else {FEATURES: np.asarray(features, np.float32)}
    if images:
        kept[IMAGES] = np.array(images)
    save_arrays(
        path,
        count=np.int64(moments.count),
        mean=moments.mean,
        covariance=moments.covariance,
        extractor=np.array(extractor),
        preprocessing=np.array(text),
        preprocessing_hash=np.array(digest(text.encode())),
        **kept,
    )


def load_reference(
    path: Path, extractor: str, preprocessing: Mapping[str, Any], images: str = ""
) -> Reference:
    """Return what is in a file that was measured with this network and this preprocessing.

    Args:
        path: a file of `save_reference`.
        extractor: the name of the network that gives the features to compare.
        preprocessing: how the images to compare are prepared.
        images: the hash of the images that it should be of; "": of any.

    Raises:
        RunError: the file cannot be read, is damaged, was measured in another way, or says that it
            is of other images.
    """
    if not path.exists():
        raise RunError(f"there is no {path}; {REMEDY}")
    saved = read_arrays(path)
    if saved is None or (problem := _problem(saved)):
        reason = "it is torn" if saved is None else problem
        raise RunError(f"{path} is damaged, or no reference of save_reference ({reason}); {REMEDY}")
    if str(saved["extractor"]) != extractor:
        raise RunError(
            f"{path} has features of {str(saved['extractor'])!r}, expected those of {extractor!r}; "
            f"take that network, or {REMEDY}"
        )
    text = _canonical(preprocessing)
    if str(saved["preprocessing_hash"]) != digest(text.encode()):
        raise RunError(
            f"{path} is of images prepared by {saved['preprocessing']}, expected {text}; prepare "
            f"the samples like them, or {REMEDY}"
        )
    if images and IMAGES in saved and str(saved[IMAGES]) != images:
        raise RunError(
            f"{path} has features of {int(saved['count'])} other images than those of this data "
            "set and of this split to train on; take the file of these images, or name a new one, "
            "which is written then"
        )
    count = int(saved["count"])
    scatter = saved["covariance"] * (count - 1)
    moments = FeatureMoments(count=count, mean=saved["mean"], scatter=scatter)
    return Reference(moments=moments, features=saved.get(FEATURES))


def _canonical(preprocessing: Mapping[str, Any]) -> str:
    """Return settings as text, the same for equal settings."""
    try:
        return json.dumps(dict(preprocessing), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the preprocessing must be plain JSON, got {preprocessing!r} ({error})"
        ) from error


def _problem(saved: dict[str, np.ndarray]) -> str | None:
    """Return what is wrong with the parts of a file, None if nothing is."""
    if saved.keys() - OPTIONAL != FIELDS:
        return f"it lacks a part or has a strange one: {sorted(saved)}"
    mean, covariance = saved["mean"], saved["covariance"]
    if mean.dtype != np.float64 or covariance.dtype != np.float64 or mean.ndim != 1:
        return "mean and covariance are no float64 arrays"
    if covariance.shape != (len(mean), len(mean)):
        return f"a mean of shape {mean.shape} has a covariance of shape {covariance.shape}"
    if saved["count"].shape != () or saved["count"].dtype.kind != "i" or saved["count"] < 2:
        return f"it is of {saved['count']} images"
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        return "some numbers are not finite"
    scale = np.abs(covariance).max(initial=0.0)
    if np.abs(covariance - covariance.T).max(initial=0.0) > 1e-9 * scale:
        return "the covariance is not symmetric"
    if digest(str(saved["preprocessing"]).encode()) != str(saved["preprocessing_hash"]):
        return "the hash of the preprocessing is that of another one"
    features = saved.get(FEATURES)
    if features is not None:
        if features.ndim != 2 or features.dtype != np.float32 or features.shape[1] != len(mean):
            return f"its features are {features.dtype} of shape {features.shape}"
        if not np.isfinite(features).all():
            return "some features are not finite"
    return None
