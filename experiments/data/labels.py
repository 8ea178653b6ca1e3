"""Labels of examples, as classes 0..K-1."""

import numpy as np

REMEDY = "np.unique(y, return_inverse=True)[1] numbers them 0, 1, 2, ..."


def class_labels(y: np.ndarray, count: int, place: str) -> tuple[np.ndarray, int]:
    """Return the labels (count,) of examples as int32 in 0..K-1, and K.

    Whole numbers in any type have to be 0..K-1 with each class present. Texts are numbered in
    alphabetical order, as class folders are.

    Raises:
      ValueError: another shape or length, numbers that are not whole, are negative or leave gaps;
          it says how to mend them.
    """
    holds = f"{place} holds labels of type {y.dtype} and shape {y.shape}"
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and len(y) == count:
        raise ValueError(
            f"{holds}; expected one number an example: np.argmax(y, 1) makes them of one-hot rows"
        )
    if y.shape != (count,):
        raise ValueError(
            f"{holds}; expected one for each of the {count} examples, of shape ({count},)"
        )
    if y.dtype.kind in "US":
        names, numbers = np.unique(y, return_inverse=True)
        return numbers.astype(np.int32), len(names)
    if y.dtype.kind not in "iufb":
        raise ValueError(f"{holds}; expected whole numbers or texts")
    y = np.asarray(y)
    wrong = y < 0
    if y.dtype.kind == "f":
        wrong |= ~np.isfinite(y) | (y != np.floor(y))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"{holds}; label {y[row]} of row {row} is not one of 0, 1, 2, ...; {REMEDY}"
        )
    classes = np.unique(y)
    if float(classes[-1]) != len(classes) - 1:
        largest = int(min(float(classes[-1]), 2**31))
        expected = np.arange(min(len(classes), largest) + 1)
        missing = np.setdiff1d(expected, classes.astype(np.float64))[:5]
        raise ValueError(
            f"{holds}, {len(classes)} different ones of {classes[0]}..{classes[-1]}, but none is "
            f"{', '.join(map(str, missing))}; classes have to be 0..{len(classes) - 1}: {REMEDY}"
        )
    return y.astype(np.int32), len(classes)
