"""The values that pickles may hold beside tensors, as plain data.

They are numbers, containers, and attributes of settings. A function of `TABLE` stands for one that
a pickle names. It takes the `Budget` of the file and the arguments of that function, checks them
and builds the value; it calls nothing that it is given.
"""

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ..errors import RunError
from .reading import Budget, shown

LONGEST_KEY = 100  # parts of a tuple that is a key
LONGEST_NUMBER = 4096  # bits of a number that is a key
# Element types of PyTorch, also under the names of its storages.
TYPES = {
    "float64": np.float64, "float32": np.float32, "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int64": np.int64, "int32": np.int32, "int16": np.int16, "int8": np.int8,
    "uint64": np.uint64, "uint32": np.uint32, "uint16": np.uint16, "uint8": np.uint8,
    "complex64": np.complex64, "complex128": np.complex128, "bool": np.bool_,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2,
}  # fmt: skip
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
}  # fmt: skip
PLAIN_TYPE = re.compile(r"[<>=|]?([biufcSU]\d+|[?])")


class Kind(NamedTuple):
    """The element type of a storage."""

    dtype: Any


class Maker(NamedTuple):
    """A function that a pickle may have called: (budget, *arguments) -> value."""

    name: str
    make: Callable


class Name(NamedTuple):
    """A class that a pickle names and does not use, such as the type of a setting."""

    name: str


class Remains:
    """What stands for an object whose class is not run: its arguments, its state and its items."""

    def __init__(self, arguments: tuple):
        self.arguments = arguments
        self.state: Any = None
        self.items: dict = {}


class Attributes(dict):
    """The attributes of an object that holds nothing else, by name."""


class Array(np.ndarray):
    """An array of NumPy, whose numbers come with its state."""


def check_key(key: Any) -> None:
    """Raise a RunError unless a key of a dictionary is plain and small.

    Hashing a key that is nested in itself would never end.
    """
    waiting = [key]
    for _ in range(LONGEST_KEY):
        if not waiting:
            return
        part = waiting.pop()
        if type(part) is tuple and len(part) <= LONGEST_KEY:
            waiting.extend(part)
        elif isinstance(part, int) and part.bit_length() > LONGEST_NUMBER:
            break
        elif not isinstance(part, str | int | float | complex | bytes | np.generic | None):
            break
    raise RunError(f"the file has the key {shown(key)}, expected a name, a number or a few of them")


def fill_array(array: Array, state: Any, budget: Budget) -> None:
    """Give an array of NumPy its shape and numbers.

    `state` is (version, shape, type, whether it is in Fortran's order, bytes).
    """
    _, shape, dtype, fortran, raw = state
    check_type(dtype)
    check_bytes(raw, shape, dtype)
    budget.spend(len(raw), "an array")
    complete: Any = (1, shape, dtype, bool(fortran), bytes(raw))
    np.ndarray.__setstate__(array, complete)


def set_byte_order(dtype: np.dtype, state: Any) -> None:
    """Give an element type its byte order."""
    if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
        raise RunError(f"the file gives the state {shown(state)} to a type of numbers")
    if any(part is not None for part in state[2:5]):
        raise RunError("the file holds arrays of records, which are not read")
    own: Any = dtype
    size = (dtype.itemsize, dtype.alignment) if dtype.kind in "SU" else (-1, -1)
    own.__setstate__((3, state[1], None, None, None, *size, 0))


def new_type(budget: Budget, text: Any, *_: Any) -> np.dtype:
    """Return an element type of its own, which may be given another byte order later."""
    if not isinstance(text, str) or not PLAIN_TYPE.fullmatch(text):
        raise RunError(f"the file has arrays of type {shown(text)}, which is none of numbers")
    dtype = np.dtype(text).newbyteorder("=")
    budget.spend(dtype.itemsize, "an element")
    return dtype


def check_type(dtype: Any) -> None:
    """Raise a RunError unless this is an element type of numbers or text."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or dtype.kind not in "biufcSU":
        raise RunError(f"the file has arrays of type {shown(dtype)}, which is none of numbers")


def check_bytes(raw: Any, shape: Any, dtype: np.dtype) -> None:
    """Raise a RunError unless `raw` are the bytes of an array of this shape and type."""
    good = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not good or not isinstance(raw, bytes | bytearray):
        raise RunError(f"the file has an array of shape {shown(shape)} without numbers")
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise RunError(f"an array of shape {shape} of {dtype} cannot lie in {len(raw)} bytes")


def new_array(budget: Budget, kind: Any, *_: Any) -> Array:
    """Return an array whose numbers come later, with its state."""
    return np.ndarray.__new__(Array, (0,), np.uint8)


def array_of(budget: Budget, raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """Return the array that lies in some bytes, in the order of C or Fortran."""
    check_type(dtype)
    check_bytes(raw, shape, dtype)
    budget.spend(len(raw), "an array")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if order == "F" else "C")


def scalar(budget: Budget, dtype: Any, raw: Any) -> np.generic:
    """Return the number that lies in some bytes."""
    check_type(dtype)
    check_bytes(raw, (), dtype)
    return np.frombuffer(raw, dtype)[0]


def items_of(budget: Budget, items: Any, hashed: bool) -> Any:
    """Return `items` if they are a container, whose items can be keys if they are to be `hashed`."""
    if not isinstance(items, list | tuple | set | frozenset | dict):
        raise RunError(f"the file makes a container of {shown(items)}; it is damaged")
    budget.spend(8 * len(items), "a container")
    if hashed:
        for item in items:
            check_key(item)
    return items


def new_list(budget: Budget, items: Any = (), *_: Any) -> list:
    """Return a list of items."""
    return list(items_of(budget, items, hashed=False))


def new_tuple(budget: Budget, items: Any = ()) -> tuple:
    """Return a tuple of items."""
    return tuple(items_of(budget, items, hashed=False))


def new_set(budget: Budget, items: Any = ()) -> set:
    """Return a set of items."""
    return set(items_of(budget, items, hashed=True))


def new_frozenset(budget: Budget, items: Any = ()) -> frozenset:
    """Return a frozen set of items."""
    return frozenset(items_of(budget, items, hashed=True))


def new_dict(budget: Budget, items: Any = ()) -> OrderedDict:
    """Return a dictionary of pairs, or of the items of another one."""
    pairs = items.items() if isinstance(items, dict) else items_of(budget, items, hashed=False)
    made = OrderedDict()
    for key, value in pairs:
        check_key(key)
        made[key] = value
    return made


def default_dict(budget: Budget, kind: Any = None, items: Any = ()) -> OrderedDict:
    """Return a dictionary without the function that makes its defaults."""
    return new_dict(budget, items)


def text_of(budget: Budget, text: Any, encoding: Any = "latin1", *_: Any) -> bytes:
    """Return bytes, which the older protocols write as text."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RunError(f"the file encodes {shown(text)} as {shown(encoding)}; it is damaged")
    budget.spend(len(text), "a text")
    return text.encode("latin1")


def new_bytes(budget: Budget, value: Any = b"", encoding: Any = "latin1") -> bytes:
    """Return bytes, given as such or as text."""
    return bytes(value) if isinstance(value, bytes) else text_of(budget, value, encoding)


def new_bytearray(budget: Budget, value: Any = b"", encoding: Any = "latin1") -> bytearray:
    """Return bytes that can be changed, given as bytes or as text."""
    raw = new_bytes(budget, value, encoding)
    budget.spend(len(raw), "a text")
    return bytearray(raw)


def new_complex(budget: Budget, real: float, imaginary: float) -> complex:
    """Return a complex number."""
    return complex(float(real), float(imaginary))


def reconstructed(budget: Budget, kind: Any, *_: Any) -> Any:
    """Return an object of a class, made as the oldest protocols make it."""
    if not isinstance(kind, Maker):
        raise RunError(f"the file makes an object of {shown(kind)}, which is no class")
    return kind.make(budget)


def attributes(budget: Budget, *_: Any) -> Attributes:
    """Return an object of attributes, which come later, with its state."""
    return Attributes()


def path_of(budget: Budget, *parts: Any) -> str:
    """Return a path as text."""
    text = "/".join(str(part) for part in parts if isinstance(part, str))
    budget.spend(len(text), "a path")
    return text


def device(budget: Budget, *parts: Any) -> str:
    """Return the name of a device of PyTorch, such as "cuda:0"."""
    return ":".join(str(part) for part in parts if isinstance(part, str | int))


TABLE: dict[tuple[str, str], Callable] = {
    ("_codecs", "encode"): text_of,
    ("argparse", "Namespace"): attributes,
    ("builtins", "bytearray"): new_bytearray,
    ("builtins", "bytes"): new_bytes,
    ("builtins", "complex"): new_complex,
    ("builtins", "dict"): new_dict,
    ("builtins", "frozenset"): new_frozenset,
    ("builtins", "list"): new_list,
    ("builtins", "set"): new_set,
    ("builtins", "tuple"): new_tuple,
    ("collections", "OrderedDict"): new_dict,
    ("collections", "defaultdict"): default_dict,
    ("collections", "deque"): new_list,
    ("copyreg", "_reconstructor"): reconstructed,
    ("ml_collections.config_dict.config_dict", "ConfigDict"): attributes,
    ("ml_collections.config_dict.config_dict", "FrozenConfigDict"): attributes,
    ("numpy", "dtype"): new_type,
    ("torch", "Size"): new_tuple,
    ("torch", "device"): device,
    ("types", "SimpleNamespace"): attributes,
}
for _core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
    TABLE[f"{_core}.multiarray", "scalar"] = scalar
    TABLE[f"{_core}.multiarray", "_reconstruct"] = new_array
    TABLE[f"{_core}.numeric", "_frombuffer"] = array_of
for _module in ("pathlib", "pathlib._local"):
    for _name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"):
        TABLE[_module, _name] = path_of
NAMES = {
    *(("builtins", name) for name in ("bool", "float", "int", "object", "str")),
    *(("numpy", name) for name in ("ndarray", "bool_", "float16", "float32", "float64")),
    *(("numpy", name) for name in ("int32", "int64", "uint8")),
    *(("torch", name) for name in ("Tensor", "strided", "preserve_format", "contiguous_format")),
    ("torch.nn.parameter", "Parameter"),
    ("torch.nn.parameter", "Buffer"),
}


def find_plain(module: str, name: str) -> Any:
    """Return what stands for a name of a pickle, or None if it is none of those admitted."""
    if (module, name) in TABLE:
        return Maker(f"{module}.{name}", TABLE[module, name])
    if (module, name) in NAMES:
        return Name(f"{module}.{name}")
    if module in ("torch", "torch.storage") and name in STORAGES:
        return Kind(np.dtype(TYPES[STORAGES[name]]))
    if module == "torch" and name in TYPES:
        return np.dtype(TYPES[name]).newbyteorder("=")  # not the one that all share
    return None
