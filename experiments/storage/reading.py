"""Reading the files of a run directory: whole, or one message that names the file and the remedy."""

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

from ..errors import RunError


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """Return the JSON object in `path`.

    Raises:
        RunError: it cannot be read, or is something else; the message ends with `remedy`.
    """
    try:
        value = json.loads(path.read_bytes(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:  # torn, not UTF-8, or NaN in it
        raise RunError(f"{path} is damaged ({error}); {remedy}") from error
    except OSError as error:
        raise RunError(f"cannot read {path} ({error}); {remedy}") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} is damaged: it should hold an object, got {value!r:.60}; {remedy}")
    return value


def read_arrays(path: Path, names: set[str] | None = None) -> dict[str, Any] | None:
    """Return the arrays `names` of an .npz file, or None if it is torn or lacks one.

    Without names they are all that it holds.

    The file's checksums vouch for every bit.
    """
    import numpy as np  # only here: a configuration is read before any library of numbers

    try:
        content = io.BytesIO(path.read_bytes())  # which, unlike a file, needs no closing
        with np.load(content, allow_pickle=False) as saved:
            return {name: saved[name] for name in names or saved.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    except NotImplementedError:  # a flipped bit has changed the way of compression
        return None


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")
