"""The compiled programs that JAX stores on disk, rid of those whose writing was cut off.

JAX writes an entry in place and never over one that exists: a torn one would be met, and warned
about, at every later start.
"""

import contextlib
import importlib
import importlib.util
import zlib
from pathlib import Path

_SUFFIX = "-cache"  # of JAX's entries
_STAMP = ".checked"  # its time is when the folder was last looked through

_ZSTD = b"\x28\xb5\x2f\xfd"  # how JAX's entries begin where zstandard is installed
_ZLIB = b"\x78"


def remove_torn(folder: Path) -> None:
    """Remove torn entries that were written since the last call."""
    with contextlib.suppress(OSError):  # no such folder yet, or one that is only read
        stamp = folder / _STAMP
        checked = stamp.stat().st_mtime if stamp.exists() else 0.0
        for entry in folder.glob(f"*{_SUFFIX}"):
            if entry.stat().st_mtime >= checked and _is_torn(entry.read_bytes()):
                entry.unlink()  # a process that is still writing it only loses the time it saves
        stamp.touch()


def _is_torn(entry: bytes) -> bool:
    """Tell whether an entry ends too early or is damaged; one of an unknown kind is left alone."""
    if entry.startswith(_ZLIB):
        return _fails(zlib.decompress, entry)
    if entry.startswith(_ZSTD) and importlib.util.find_spec("zstandard"):
        zstandard = importlib.import_module("zstandard")
        return _fails(zstandard.ZstdDecompressor().decompress, entry)
    return not entry


def _fails(decompress, entry: bytes) -> bool:
    try:
        decompress(entry)
    except Exception:  # each library has errors of its own
        return True
    return False
