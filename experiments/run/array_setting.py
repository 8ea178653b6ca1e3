"""A setting that names a file with one array."""

from pathlib import Path

import numpy as np

from ..errors import RunError


def read_array(setting: str, path: Path, names: tuple[str, ...]) -> np.ndarray:
    """Return the array that a setting names.

    Args:
        setting: as it was given, for messages: "config.sampling.condition=cond.npy".
        path: an .npy file, or an .npz file.
        names: the array's name in an .npz file, the first that is there; a file with a single array
            may give it any name.

    Raises:
        RunError: no such file, or one that holds something else.
    """
    if not path.is_file():
        raise RunError(f"{setting}: there is no such file; save one with np.save(path, array)")
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            held = content.files
            known = [name for name in names if name in held]
            if not known and len(held) != 1:
                raise ValueError(f"it holds the arrays {', '.join(held) or '(none)'}")
            return content[known[0] if known else held[0]]
    except Exception as error:  # there is no list of what NumPy raises over damaged files
        raise RunError(
            f"{setting} cannot be read ({error}); save one array as .npy, or "
            f"np.savez(path, {names[0]}=...)"
        ) from error
