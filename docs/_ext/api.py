"""Pages of the API reference: one for each module that a package exports names from, written before every build.

What is public is what the `__init__.py` of a package imports under its own name. The names of `experiments`, whose modules are
imported one by one, are listed here.
"""

import ast
import importlib
import inspect
import types
from pathlib import Path

PACKAGES = ("sde_lib", "samplers", "models", "experiments.data")
EXPERIMENTS = {
    "experiments.build": ("load", "Loaded", "Run", "Facts", "build"),
    "experiments.train": ("train",),
    "experiments.callbacks": ("Snapshot", "StopTraining", "EarlyStopping"),
    "experiments.state": ("TrainState", "Metrics", "init_state", "make_train_step", "ema_update"),
    "experiments.optimizers": ("make_optimizer",),
    "experiments.evaluate": ("evaluate",),
    "experiments.own_metrics": (),
    "experiments.metrics": ("frechet_distance", "nearest_neighbour_accuracy", "pooled_pixels"),
    "experiments.health": (),
    "experiments.errors": ("RunError",),
}


def write(folder: Path) -> None:
    """Write all pages into `folder`; a page that has not changed is left alone, so that it is not built again."""
    folder.mkdir(exist_ok=True)
    pages = {}
    for package in PACKAGES:
        pages |= _package(package, _public(package))
    pages |= _package("experiments", {m: list(names) for m, names in EXPERIMENTS.items()})
    for old in folder.glob("*.rst"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        if not (folder / name).exists() or (folder / name).read_text() != text:
            (folder / name).write_text(text)


def _public(package: str) -> dict[str, list[str]]:
    """Return the public names of a package by the module that defines each."""
    root = importlib.import_module(package)
    tree = ast.parse(Path(root.__file__ or "").read_text())
    found: dict[str, list[str]] = {}
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom) or node.level != 1:
            continue
        for alias in node.names:
            if alias.asname != alias.name:
                continue
            value = getattr(root, alias.name)
            if isinstance(value, types.ModuleType):
                found[value.__name__] = _functions(value)
            else:
                module = getattr(value, "__module__", None) or f"{package}.{node.module}"
                found.setdefault(module, []).append(alias.name)
    return found


def _functions(module: types.ModuleType) -> list[str]:
    """Return the public functions that a module defines."""
    return [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    ]


def _package(package: str, modules: dict[str, list[str]]) -> dict[str, str]:
    """Return the pages of a package by their file names."""
    pages = {}
    listed = []
    for module, names in modules.items():
        owner = (
            package if hasattr(importlib.import_module(package), (names or ["?"])[0]) else module
        )
        if package == "experiments":
            owner = module
        paths = [f"{owner}.{name}" for name in names]
        listed += paths
        pages[f"{module}.rst"] = _module(module, owner, paths)
    lines = [
        *_title(package),
        f".. automodule:: {package}",
        "   :no-members:",
        "   :no-index:",
        "",
        ".. autosummary::",
        "   :nosignatures:",
        "",
        *(f"   {path}" for path in listed),
        "",
        ".. toctree::",
        "   :hidden:",
        "",
        *(f"   {module}" for module in modules),
        "",
    ]
    pages[f"{package}.rst"] = "\n".join(lines)
    return pages


def _module(module: str, owner: str, paths: list[str]) -> str:
    lines = [
        *_title(module),
        f".. automodule:: {module}",
        "   :no-members:",
        "   :no-index:",
        "",
        f".. currentmodule:: {owner}",
        "",
    ]
    for path in paths:
        place, _, name = path.rpartition(".")
        value = getattr(importlib.import_module(place), name)
        if inspect.isclass(value):
            kind = "autoexception" if issubclass(value, BaseException) else "autoclass"
            lines += [f".. {kind}:: {path}", "   :members:", "   :special-members: __call__"]
            lines += ["   :show-inheritance:", ""]
        elif callable(value):
            lines += [f".. autofunction:: {path}", ""]
        else:
            lines += [f".. py:data:: {path}", "", f"   Rows: {_rows(value)}", ""]
    return "\n".join(lines)


def _rows(table) -> str:
    return ", ".join(f"``{name}``" for name in table)


def _title(name: str) -> list[str]:
    return [name, "=" * len(name), ""]
