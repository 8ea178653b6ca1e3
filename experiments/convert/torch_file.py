"""Files of PyTorch, read without PyTorch and without running anything that is in them.

The pickles in them are read by `pickled`. `torch.save` writes a zip archive: ``data.pkl``, and the
numbers of storage k raw in ``data/k``. Inside ordinary pickles a storage is a string of bytes of
the older format: four short pickles, the object, the list of storages, then their numbers.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RunError
from .pickled import Restricted
from .plain import Kind, Maker
from .reading import Budget, reading, shown

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
FILE = "file of torch.save"


def read_torch(path: str | Path) -> Any:
    """Return what `torch.save` wrote to a file: plain containers of NumPy arrays.

    The arrays cannot be written to.

    Raises:
        RunError: the file is of another kind, is damaged, or asks for anything but tensors and
            plain containers.
    """
    path = Path(path)
    with reading(path, FILE):
        budget = Budget(path.stat().st_size)
        with open(path, "rb") as file:
            if file.read(2) != b"PK":
                file.seek(0)
                return load_old(io.BytesIO(file.read()), budget)
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive, budget)


def read_pickle(path: str | Path, remains: frozenset[tuple[str, str]]) -> Any:
    """Return what an ordinary pickle holds: plain containers of NumPy arrays, and `Remains`.

    Args:
        path: the file.
        remains: names of classes, by (module, name), whose objects become `Remains`.

    Raises:
        RunError: the file is no pickle, or asks for anything else.
    """

    def storage(*_: Any) -> None:
        raise RunError("the file refers to tensors that it does not hold")

    path = Path(path)
    with reading(path, "pickle"):
        data = path.read_bytes()
        return unpickler(data, storage, Budget(len(data)), remains).load()


def unpickler(
    data: Any,
    storage: Callable[[Kind, str, int], Any],
    budget: Budget,
    remains: frozenset[tuple[str, str]] = frozenset(),
) -> Restricted:
    """Return an unpickler that knows tensors."""
    return Restricted(data, storage, budget, TENSORS, remains)


def tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple) -> np.ndarray:
    """Return the array that views a storage with an offset and strides, all counted in elements."""
    last = offset - 1
    if all(size):
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or last >= len(storage):
        raise RunError(
            f"a tensor of shape {tuple(size)} reaches beyond its storage of {len(storage)} "
            "elements; the file is damaged"
        )
    steps = [s * storage.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)


def load_old(file: io.BytesIO, budget: Budget) -> Any:
    """Return what `torch.save` wrote before it wrote zip archives.

    The object is read twice, as its numbers stand behind it.
    """
    numbers: dict[str, np.ndarray] = {}
    declared: dict[str, tuple[np.dtype, int]] = {}

    def declare(kind: Kind, key: str, size: int) -> None:
        if declared.setdefault(key, (kind.dtype, size)) != (kind.dtype, size):
            raise RunError(f"storage {key[:40]} is described twice; the file is damaged")

    def filled(kind: Kind, key: str, size: int) -> np.ndarray:
        if key not in numbers:
            raise RunError(f"the file lacks the numbers of storage {key[:40]}")
        return numbers[key]

    magic, _, system = (unpickler(file, declare, budget).load() for _ in range(3))
    if magic != LEGACY_MAGIC or not isinstance(system, dict):
        raise RunError("this is no file of torch.save")
    order = "<" if system.get("little_endian", True) else ">"
    start = file.tell()
    unpickler(file, declare, budget).load()
    keys = unpickler(file, declare, budget).load()
    if not isinstance(keys, list):
        raise RunError(f"the list of storages is {shown(keys)}; the file is damaged")
    for key in keys:
        if not isinstance(key, str):
            raise RunError(f"the list of storages holds {shown(key)}; the file is damaged")
        (size,) = struct.unpack(f"{order}q", file.read(8))
        if key not in declared or size != declared[key][1]:
            raise RunError(
                f"the file has {size} elements for storage {key[:40]}, which it does not describe "
                "so; it is damaged"
            )
        dtype = declared[key][0]
        raw = file.read(size * dtype.itemsize)
        if len(raw) != size * dtype.itemsize:
            raise RunError(f"the numbers of storage {key[:40]} are cut off; the file is damaged")
        numbers[key] = np.frombuffer(raw, dtype.newbyteorder(order))
    file.seek(start)
    return unpickler(file, filled, budget).load()


def check_archive(archive: zipfile.ZipFile, budget: Budget) -> None:
    """Raise a RunError if the members of an archive would unpack to far more than it holds."""
    budget.spend(sum(info.file_size for info in archive.infolist()), "what the archive unpacks to")


def _read_archive(archive: zipfile.ZipFile, budget: Budget) -> Any:
    """Return what a zip archive of `torch.save` holds."""
    check_archive(archive, budget)
    pickles = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"]
    if len(pickles) != 1:
        raise RunError(
            f"the archive holds {len(pickles)} files data.pkl, where torch.save writes one"
        )
    prefix = pickles[0].removesuffix("data.pkl")
    order = "<"
    if f"{prefix}byteorder" in archive.namelist():
        order = {b"little": "<", b"big": ">"}[_member(archive, f"{prefix}byteorder")]
    numbers: dict[str, np.ndarray] = {}

    def storage(kind: Kind, key: str, size: int) -> np.ndarray:
        if key not in numbers:
            raw = _member(archive, f"{prefix}data/{key}")
            numbers[key] = np.frombuffer(raw, kind.dtype.newbyteorder(order))
        if len(numbers[key]) != size or numbers[key].itemsize != kind.dtype.itemsize:
            raise RunError(
                f"storage {key[:40]} has {len(numbers[key])} elements, expected {size}; the file "
                "is damaged"
            )
        return numbers[key]

    return unpickler(_member(archive, pickles[0]), storage, budget).load()


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a member of an archive, up to its declared size."""
    with archive.open(name) as file:
        return file.read(archive.getinfo(name).file_size)


def _tensor(
    budget: Budget, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any
) -> np.ndarray | None:
    """Return a tensor, or None where the numbers of its storage are not there yet."""
    if not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise RunError(f"a tensor has the shape {shown(size)}; the file is damaged")
    if any(type(number) is not int for number in (offset, *size, *stride)):
        raise RunError(f"a tensor has the shape {shown(size)}; the file is damaged")
    if len(rest) > 2 and rest[2]:  # of numbers that are yet to be conjugated or negated
        raise RunError(f"a tensor has the properties {shown(rest[2])}, which are not read")
    if storage is None:
        return None
    if not isinstance(storage, np.ndarray) or storage.ndim != 1:
        raise RunError(f"a tensor has the storage {shown(storage)}; the file is damaged")
    budget.spend(math.prod(size) * storage.itemsize, f"a tensor of shape {shown(size)}")
    return tensor(storage, offset, size, stride)


def _tensor_of_bytes(budget: Budget, storage: Any, *arguments: Any) -> np.ndarray | None:
    """Return a tensor whose storage is bytes of an element type that is given with it."""
    offset, size, stride, _, _, dtype, *rest = arguments
    if storage is not None:
        storage = storage.view(dtype.newbyteorder(storage.dtype.byteorder))
    return _tensor(budget, storage, offset, size, stride, None, None, *rest)


def _parameter(budget: Budget, data: Any, *_: Any) -> Any:
    """Return the tensor of a parameter."""
    return data


def _of_type(budget: Budget, rebuild: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """Return a tensor of a class of its own, without what else that class holds."""
    if not isinstance(rebuild, Maker) or rebuild.make not in (_tensor, _tensor_of_bytes):
        raise RunError(f"the file makes a tensor with {shown(rebuild)}; it is damaged")
    return rebuild.make(budget, *arguments)


def _from_bytes(budget: Budget, data: Any) -> Any:
    """Return the storage that bytes of the older format hold."""
    if not isinstance(data, bytes | bytearray):
        raise RunError(f"the file has a storage in {shown(data)}; it is damaged")
    budget.spend(len(data), "a storage")
    return load_old(io.BytesIO(data), budget)


TENSORS: dict[tuple[str, str], Callable] = {
    ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_bytes,
    ("torch.storage", "_load_from_bytes"): _from_bytes,
}
