"""Which arrays are lists of images or of vectors, decided by type and shape.

Errors about other arrays say what was probably meant.
"""

import numpy as np

EXPECTED = "expected uint8 (N, H, W, C) or (N, H, W), or float (N, D) or (N, H, W, C)"
MOST_COLOURS = 4  # channels that an image has; what has more is an array of features


def example_shape(
    place: str, x: np.ndarray, channels: int | None, any_type: bool = False
) -> tuple[int, ...]:
    """Return the shape of one example of an array (N, ...): (H, W, C) or (D,).

    Args:
      place: the file, for messages.
      x: the array.
      channels: what the last axis is known to be; None: not known.
      any_type: numbers of any type are continuous data.

    Raises:
      ValueError: another type or number of axes, channels first, or one image without an axis of
          examples; it says how to convert them.
    """
    holds = f"{place} holds {x.dtype} of shape {x.shape}"
    kind = x.dtype.kind
    image = not any_type and (x.dtype == np.uint8 or kind == "b")
    if not (image or kind == "f" or (any_type and kind in "iub")):
        raise ValueError(f"{holds}; {EXPECTED}; {_type_remedy(x)}")
    axes = (2, 3, 4) if any_type else (2, 4)
    if image:
        axes = (3, 4)
    if x.ndim not in axes or 0 in x.shape:
        raise ValueError(f"{holds}; {EXPECTED}, none of them 0{_axes_remedy(x)}")
    shape = (*x.shape[1:], 1) if x.ndim == 3 else x.shape[1:]
    if channels is not None and (len(shape) != 3 or shape[2] != channels):
        raise ValueError(
            f"{place} holds examples of shape {shape}, not images with {channels} channels; leave "
            "out channels"
        )
    if x.ndim == 4 and channels is None and _channels_first(shape):
        raise ValueError(
            f"{holds}, which looks like (N, C, H, W); {EXPECTED}: np.moveaxis(x, 1, 3) puts the "
            f"channels last; if they are last, say so with data.channels={shape[2]}"
        )
    if x.ndim == 3 and x.shape[2] <= MOST_COLOURS < min(x.shape[:2]):
        raise ValueError(
            f"{holds}, which looks like one image (H, W, C); {EXPECTED}: x[None] makes it a list "
            "of one image, x[..., None] gives narrow grey images their channel"
        )
    return shape


def _channels_first(shape: tuple[int, ...]) -> bool:
    """Tell whether the shape of an example looks like (C, H, W).

    Its first axis is the smallest then, and its last one is no number of colours.
    """
    first, second, last = shape
    return last > MOST_COLOURS and first < min(second, last)


def _type_remedy(x: np.ndarray) -> str:
    """Return how to convert an array of another type."""
    if x.dtype.kind in "iu" and x.size:
        low, high = int(x.min()), int(x.max())
        if 0 <= low and high <= 255 and x.ndim > 2:
            return f"its values are {low}..{high}: save x.astype(np.uint8)"
        return (
            f"its values are {low}..{high}: pass data.value_range=({low}, {high}), which maps "
            "these two to -1 and 1, or save floats with a standard deviation of about 1"
        )
    if x.dtype.kind == "c":
        return "save the real and the imaginary part as two coordinates or channels"
    if x.dtype.names:
        return f"save one array of numbers; x[{x.dtype.names[0]!r}] is one field"
    return "save numbers, for example with x.astype(np.float32)"


def _axes_remedy(x: np.ndarray) -> str:
    """Return how to give an array the axes that are expected."""
    if 0 in x.shape:
        return "; there are no examples in it"
    if x.ndim == 1:
        return "; x[:, None] makes points of one dimension"
    if x.ndim == 3:
        return "; x[..., None] makes images of one channel"
    if x.ndim == 2:
        return "; x[None] makes one grey image a list of images"
    return "; x.reshape(len(x), -1) makes vectors of examples of any shape"
