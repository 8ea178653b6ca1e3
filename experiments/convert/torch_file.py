"""Files of PyTorch, read without PyTorch and without running anything that is in them.

A pickle is a program. This one may build tensors and plain containers; whatever else it asks for is refused by name. `torch.save` writes a
zip archive: ``data.pkl``, and the numbers of storage k raw in ``data/k``. Inside ordinary pickles a storage is a string of bytes of the
older format: four short pickles, the object, the list of storages, then their numbers.
"""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ..errors import RunError

DTYPES = {
    "FloatStorage": np.float32, "DoubleStorage": np.float64, "HalfStorage": np.float16, "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64, "IntStorage": np.int32, "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}  # fmt: skip
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class Kind(NamedTuple):
    """The element type of a storage."""

    dtype: Any


class Remains:
    """What stands for an object whose class is not ours to run: arguments, state and items, as plain containers."""

    arguments: tuple
    state: Any
    items: dict

    def __init__(self, *arguments: Any):
        self.arguments = arguments

    def __new__(cls, *_: Any) -> "Remains":  # pickles may skip __init__
        made = super().__new__(cls)
        made.arguments, made.state, made.items = (), None, {}
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:  # what was a dict there
        self.items[key] = value


def tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    """Return the array that views a storage with an offset and strides, all counted in elements."""
    last = (
        offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if all(size)
        else offset - 1
    )
    if offset < 0 or min(stride, default=0) < 0 or last >= len(storage):
        raise RunError(
            f"a tensor of shape {tuple(size)} reaches beyond its storage of {len(storage)} elements; the file is damaged"
        )
    steps = [s * storage.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(
        storage[offset:], tuple(size), steps, writeable=False
    ).copy()


class Restricted(pickle.Unpickler):
    """Unpickler that admits tensors, plain containers and `remains`, the names (module, class) whose objects are kept as `Remains`."""

    def __init__(
        self,
        file: Any,
        storage: Callable[[tuple], np.ndarray],
        remains: frozenset[tuple[str, str]] = frozenset(),
    ):
        super().__init__(file)
        self.storage, self.remains = storage, remains

    def find_class(self, module: str, name: str) -> Any:
        admitted: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): tensor,
            ("torch._utils", "_rebuild_tensor"): tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("torch.storage", "_load_from_bytes"): lambda data: load_old(io.BytesIO(data)),
            ("_codecs", "encode"): lambda text, *_: text.encode(
                "latin1"
            ),  # bytes, as protocol 2 writes them
            ("torch", "Size"): tuple,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) in admitted:
            return admitted[module, name]
        if module in ("torch", "torch.storage") and name in DTYPES:
            return Kind(DTYPES[name])
        if (module, name) in self.remains:
            return Remains
        raise RunError(
            f"the file asks for {module}.{name}, which is neither a tensor nor a plain container; it is refused unread"
        )

    def persistent_load(self, pid: Any) -> np.ndarray:
        if not isinstance(pid, tuple) or pid[0] != "storage" or not isinstance(pid[1], Kind):
            raise RunError(
                f"the file refers to {pid!r}, which is no storage of a tensor; it is refused"
            )
        return self.storage(pid[1:])


def read_torch(path: str | Path) -> Any:
    """Return what `torch.save` wrote to a file: plain containers of NumPy arrays.

    Raises:
        RunError: the file is of another kind, is damaged, or asks for anything but tensors and plain containers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive)
    except zipfile.BadZipFile as error:
        with open(path, "rb") as file:
            try:
                return load_old(file)
            except (pickle.UnpicklingError, EOFError, struct.error):
                raise RunError(f"{path} is no file of torch.save: {error}") from error


def read_pickle(path: str | Path, remains: frozenset[tuple[str, str]]) -> Any:
    """Return what an ordinary pickle holds: plain containers of NumPy arrays, and `Remains` of objects of the named classes.

    Raises:
        RunError: the file is no pickle, or asks for anything else.
    """

    def storage(_: tuple) -> np.ndarray:
        raise RunError(f"{path} refers to tensors that it does not hold")

    with open(path, "rb") as file:
        return _load(Restricted(file, storage, remains), path)


def load_old(file: Any) -> Any:
    """Return what `torch.save` wrote before it wrote zip archives."""
    later: dict[str, np.ndarray] = {}  # filled when the numbers come, behind the object

    def storage(pid: tuple) -> np.ndarray:
        kind, key, _, size, *_ = pid
        return later.setdefault(key, np.zeros(size, kind.dtype))

    header = [_load(Restricted(file, storage), "the file") for _ in range(3)]
    if header[0] != LEGACY_MAGIC:
        raise RunError("this is no file of torch.save")
    start = file.tell()
    _load(Restricted(file, storage), "the file")  # finds the storages
    for key in _load(Restricted(file, storage), "the file"):
        (size,) = struct.unpack("<q", file.read(8))
        if key not in later or size != len(later[key]):
            raise RunError(
                f"the file has {size} elements for storage {key}, which it does not describe so; it is damaged"
            )
        later[key][:] = np.frombuffer(file.read(size * later[key].itemsize), later[key].dtype)
    file.seek(start)
    return _load(Restricted(file, storage), "the file")


def _read_archive(archive: zipfile.ZipFile) -> Any:
    (pickled,) = [name for name in archive.namelist() if name.endswith("data.pkl")] or [None]
    if pickled is None:
        raise RunError("the archive holds no data.pkl; it was not written by torch.save")
    prefix = pickled.removesuffix("data.pkl")

    def storage(pid: tuple) -> np.ndarray:
        kind, key, _, size, *_ = pid
        numbers = np.frombuffer(
            archive.read(f"{prefix}data/{key}"), np.dtype(kind.dtype).newbyteorder("<")
        )
        if len(numbers) != size:
            raise RunError(
                f"storage {key} has {len(numbers)} elements, expected {size}; the file is damaged"
            )
        return numbers

    with archive.open(pickled) as file:
        return _load(Restricted(file, storage), "the archive")


def _load(unpickler: pickle.Unpickler, where: Any) -> Any:
    try:
        return unpickler.load()
    except RunError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise RunError(f"cannot read {where}: {error}") from error
