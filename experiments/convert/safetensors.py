"""Files of safetensors: eight bytes that say how long the header is, the header in JSON, then the numbers."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from ..errors import RunError
from ..writing import write_bytes

DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
LONGEST_HEADER = 100_000_000  # bytes, the format's own limit


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name.

    Raises:
        RunError: the file is of another kind or damaged; it says what is wrong.
    """
    data = path.read_bytes()
    try:
        (length,) = struct.unpack("<Q", data[:8])
        if length > min(LONGEST_HEADER, len(data) - 8):
            raise ValueError(f"its header would be {length} bytes long")
        header = json.loads(data[8 : 8 + length])
        arrays = {
            name: _array(name, entry, data[8 + length :])
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise RunError(f"{path} is no intact safetensors file: {error}") from error
    return arrays


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name."""
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    numbers, start = [], 0
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


def _array(name: str, entry: dict, data: bytes) -> np.ndarray:
    dtype, (start, end) = np.dtype(DTYPES[entry["dtype"]]), entry["data_offsets"]
    size = dtype.itemsize * int(np.prod(entry["shape"], dtype=np.int64))
    if not 0 <= start <= end <= len(data) or end - start != size:
        raise ValueError(
            f"{name} of shape {entry['shape']} cannot lie at bytes {start} to {end} of {len(data)}"
        )
    return np.frombuffer(data[start:end], dtype).reshape(entry["shape"])
