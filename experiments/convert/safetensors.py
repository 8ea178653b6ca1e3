"""Files of safetensors.

They hold eight bytes that say how long the header is, the header in JSON, then the numbers.
"""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ..storage.writing import write_bytes
from .reading import reading, shown

DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "BOOL": np.bool_,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
}  # fmt: skip
LONGEST_HEADER = 100_000_000  # bytes, the format's own limit


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name; they cannot be written to.

    Raises:
        RunError: the file is of another kind or damaged; it says what is wrong.
    """
    data = path.read_bytes()
    with reading(path, "intact safetensors file"):
        (length,) = struct.unpack("<Q", data[:8])
        if length > min(LONGEST_HEADER, len(data) - 8):
            raise ValueError(f"its header would be {length} bytes long; the file is damaged")
        header = json.loads(data[8 : 8 + length])
        if not isinstance(header, dict):
            raise ValueError(f"its header is {shown(header)}, expected arrays by name")
        header.pop("__metadata__", None)
        _check_places(header, len(data) - 8 - length)
        return {name: _array(entry, data, 8 + length) for name, entry in header.items()}


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name."""
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    numbers = []
    start = 0
    for name, array in sorted(arrays.items()):
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start, start + len(raw)],
        }
        numbers.append(raw)
        start += len(raw)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    write_bytes(path, b"".join([struct.pack("<Q", len(encoded)), encoded, *numbers]))


def _check_places(header: dict[str, Any], size: int) -> None:
    """Raise a ValueError unless the arrays lie one behind the other in `size` bytes.

    There may be nothing between them or left over.
    """
    places = [(*_place(name, entry, size), name) for name, entry in header.items()]
    reached = 0
    for start, end, name in sorted(places):
        if start != reached:
            raise ValueError(
                f"{shown(name)} lies at byte {start}, expected {reached}; the file is damaged"
            )
        reached = end
    if reached != size:
        raise ValueError(f"the arrays take {reached} bytes, the file has {size}; it is cut off")


def _place(name: str, entry: Any, size: int) -> tuple[int, int]:
    """Return where an array begins and ends; raise a ValueError if its entry cannot be right."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"{shown(name)} is described by {shown(entry)}; the file is damaged")
    dtype = entry["dtype"]
    shape = entry["shape"]
    place = entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(
            f"{shown(name)} is of type {shown(dtype)}, expected one of {', '.join(DTYPES)}"
        )
    if not _whole(shape) or not _whole(place) or len(place) != 2:
        raise ValueError(
            f"{shown(name)} of shape {shown(shape)} lies at {shown(place)}; the file is damaged"
        )
    start, end = place
    if end - start != math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize:
        raise ValueError(
            f"{shown(name)} of shape {shown(shape)} cannot lie at bytes {start} to {end} of {size}"
        )
    return start, end


def _whole(numbers: Any) -> bool:
    """Return whether this is a list of whole numbers from 0."""
    return isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers)


def _array(entry: dict, data: bytes, start: int) -> np.ndarray:
    """Return an array of a file, whose numbers begin at byte `start`."""
    shape = entry["shape"]
    numbers = np.frombuffer(
        data, DTYPES[entry["dtype"]], math.prod(shape), start + entry["data_offsets"][0]
    )
    return numbers.reshape(shape)
