"""The processes that tests meet without being named: those that `sde_lib` exports, and those that the documents show to users.

A new file of `sde_lib` and a new example in README.md or below docs/ are met by every test that asks for `sde`.
"""

import inspect
import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import sde_lib

ROOT = Path(__file__).parents[1]


def without_arguments(cls) -> bool:
    """Tell whether `cls` is a process that needs no argument; `Discrete`, which wraps one, has tests of its own."""
    return (
        issubclass(cls, sde_lib.SDE) and not inspect.isabstract(cls) and cls is not sde_lib.Discrete
    )


def documented() -> list[type[sde_lib.SDE]]:
    """Return the processes that README.md and the pages below docs/ define, as their readers would run them."""
    classes = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for block in re.findall(
            r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
        ):
            if re.search(r"^class \w+\((sde_lib\.)?SDE\)", block, re.MULTILINE):
                classes += defined_in(block)
    return classes


def defined_in(block: str) -> list[type[sde_lib.SDE]]:
    """Run the classes of a piece of Python and return its processes."""
    names = {name: getattr(sde_lib, name) for name in dir(sde_lib) if not name.startswith("_")}
    names |= {"sde_lib": sde_lib, "jax": jax, "jnp": jnp, "np": np, "eqx": eqx}
    before = set(names)
    scope: dict = names | {"__name__": "example"}
    exec(compile(block, "an example of the documents", "exec"), scope)
    new = [value for name, value in scope.items() if name not in before and inspect.isclass(value)]
    return [cls for cls in new if without_arguments(cls)]


EXPORTED = [c for _, c in inspect.getmembers(sde_lib, inspect.isclass) if without_arguments(c)]
DOCUMENTED = documented()
