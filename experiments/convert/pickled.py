"""Pickles, read without running anything that is in them.

A pickle is a program: it names functions and has them called. Here it may name those of `TABLE` in
`plain`, which build numbers and containers, and nothing else; whatever else it names is refused.
The program is run by the unpickler of the standard library that is written in Python, every step of
which that calls, changes or hashes an object is replaced below.
"""

import functools
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import RunError
from .plain import (
    Array,
    Attributes,
    Kind,
    Maker,
    Remains,
    check_key,
    fill_array,
    find_plain,
    set_byte_order,
)
from .reading import Budget, shown

# Names that Python 2 wrote, or protocols that it could read.
RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}


# The unpickler that is written in Python, whose steps can be replaced.
UNPICKLER: Any = pickle._Unpickler


class Restricted(UNPICKLER):
    """Unpickler that admits numbers, tensors and plain containers.

    Args:
        data: the pickle.
        storage: the function (kind, key, size) -> storage of a tensor.
        budget: what it may make of the file that it is in.
        extra: further names that it may use, by (module, name).
        remains: names of classes whose objects become `Remains`.
    """

    dispatch = dict(UNPICKLER.dispatch)

    def __init__(
        self,
        data: bytes | io.BytesIO,
        storage: Callable[[Kind, str, int], Any],
        budget: Budget,
        extra: Mapping[tuple[str, str], Callable] | None = None,
        remains: frozenset[tuple[str, str]] = frozenset(),
    ):
        super().__init__(io.BytesIO(data) if isinstance(data, bytes) else data)
        self.storage = storage
        self.budget = budget
        self.extra = extra or {}
        self.remains = remains

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name; nothing is imported."""
        module = RENAMED.get(module, module)
        if (module, name) in self.remains:
            return Maker(f"{module}.{name}", lambda budget, *arguments: Remains(arguments))
        if (module, name) in self.extra:
            return Maker(f"{module}.{name}", self.extra[module, name])
        substitute = find_plain(module, name)
        if substitute is None:
            raise RunError(
                f"the file asks for {module}.{name}, which is neither a tensor nor a plain "
                "container; it is refused unread"
            )
        return substitute

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage of a tensor."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise RunError(f"the file refers to {shown(pid)}, which is no storage of a tensor")
        kind, key, _, size = pid[1:5]
        if not isinstance(kind, Kind) or not isinstance(key, str):
            raise RunError(f"the file refers to {shown(pid)}, which is no storage of a tensor")
        if type(size) is not int or size < 0:
            raise RunError(f"storage {shown(key)} has {shown(size)} elements; the file is damaged")
        if len(pid) == 6 and pid[5] is not None:
            raise RunError(f"storage {shown(key)} is a view of another one, which is not read")
        return self.storage(kind, key, size)

    def get_extension(self, code: int) -> Any:
        """Refuse a name that stands for a registered number."""
        raise RunError(f"the file asks for extension {code}, which nothing here has registered")

    def call(self, function: Any, arguments: Any) -> Any:
        """Return what one of the admitted functions makes of its arguments."""
        if not isinstance(function, Maker) or not isinstance(arguments, tuple):
            raise RunError(f"the file calls {shown(function)}, which is no function")
        return function.make(self.budget, *arguments)

    def load_reduce(self) -> None:
        """Call a function with its arguments; both are on the stack, as for all steps below."""
        arguments = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], arguments)

    def load_newobj_ex(self) -> None:
        """Make an object, which may not have arguments by keyword."""
        settings = self.stack.pop()
        if settings:
            raise RunError(f"the file makes an object with {shown(settings)}, which is not read")
        self.load_reduce()

    def _instantiate(self, klass: Any, arguments: Any) -> None:
        self.stack.append(self.call(klass, tuple(arguments)))

    def load_build(self) -> None:
        """Give an object its state."""
        state = self.stack.pop()
        give_state(self.stack[-1], state, self.budget)

    def load_setitem(self) -> None:
        """Set one item of a container."""
        value = self.stack.pop()
        key = self.stack.pop()
        self.set_items([key, value])

    def load_setitems(self) -> None:
        """Set several items of a container."""
        self.set_items(self.pop_mark())

    def load_dict(self) -> None:
        """Make a dictionary with its items."""
        items = self.pop_mark()
        self.stack.append({})
        self.set_items(items)

    def set_items(self, items: list) -> None:
        """Set the items of the container on top of the stack: keys and values in turn."""
        container = self.stack[-1]
        if isinstance(container, Remains):
            container = container.items
        if not isinstance(container, dict):
            raise RunError(f"the file sets items of {shown(container)}; it is damaged")
        for key, value in zip(items[::2], items[1::2], strict=True):
            check_key(key)
            container[key] = value

    def load_additems(self) -> None:
        """Add items to a set."""
        items = self.pop_mark()
        if not isinstance(self.stack[-1], set):
            raise RunError(f"the file adds items to {shown(self.stack[-1])}; it is damaged")
        for item in items:
            check_key(item)
            self.stack[-1].add(item)

    def load_frozenset(self) -> None:
        """Make a frozen set."""
        items = self.pop_mark()
        for item in items:
            check_key(item)
        self.stack.append(frozenset(items))

    dispatch |= {
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_reduce,
        pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
    }


@functools.singledispatch
def give_state(made: Any, state: Any, budget: Budget) -> None:
    """Give an object that was made the state that was pickled with it."""
    raise RunError(f"the file gives a state to {shown(made)}, which has none; it is damaged")


@give_state.register
def _(made: Remains, state: Any, budget: Budget) -> None:
    made.state = state


@give_state.register
def _(made: Attributes, state: Any, budget: Budget) -> None:
    if not isinstance(state, dict):
        raise RunError(f"the file gives the state {shown(state)} to attributes; it is damaged")
    made.update(state.get("_fields", state))  # `_fields`: those of a ConfigDict


@give_state.register
def _(made: OrderedDict, state: Any, budget: Budget) -> None:
    """Leave out the attributes of a dictionary: PyTorch's `_metadata`."""


@give_state.register
def _(made: Array, state: Any, budget: Budget) -> None:
    fill_array(made, state, budget)


@give_state.register
def _(made: np.dtype, state: Any, budget: Budget) -> None:
    set_byte_order(made, state)
