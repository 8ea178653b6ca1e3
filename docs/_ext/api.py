"""Pages of the API reference: one for each module that a package exports names from, written before every build.

What is public is what the `__init__.py` of a package imports under its own name, below headings that are comments. The names of
`experiments`, whose modules are imported one by one, are listed here.
"""

import ast
import importlib
import inspect
import types
from pathlib import Path
from typing import Any, NamedTuple

PACKAGES = (
    "sde_lib",
    "sde_lib.inverse",
    "samplers",
    "samplers.inverse",
    "samplers.particles",
    "models",
    "experiments.data",
    "experiments.measures.images",
)
EXPERIMENTS = {
    "experiments.run.loading": ("load", "Loaded"),
    "experiments.run.build": ("Run", "DataFacts", "build"),
    "experiments.modes.train": ("train",),
    "experiments.run.callbacks": ("Snapshot", "StopTraining", "EarlyStopping"),
    "experiments.state": ("TrainState", "Metrics", "init_state", "make_train_step", "ema_update"),
    "experiments.run.optimizers": ("make_optimizer",),
    "experiments.modes.evaluate": ("evaluate",),
    "experiments.measures.metrics": (
        "frechet_distance",
        "nearest_neighbour_accuracy",
        "pooled_pixels",
    ),
    "experiments.run.restoration": ("restore", "Restored"),
    "experiments.measures.calibration": (
        "coverage",
        "interval_coverage",
        "ranks",
        "rank_histogram",
    ),
    "experiments.measures.two_samples": ("sliced_w2", "sliced_w2_over_floor", "c2st"),
    "experiments.measures.stein": ("score_ksd",),
    "experiments.errors": ("RunError",),
}


class Export(NamedTuple):
    """A public name."""

    path: str  # "sde_lib.VP"
    module: str  # that defines it, "sde_lib.vp"
    heading: str


def write(folder: Path) -> None:
    """Write all pages into `folder`; a page that has not changed is left alone, so that it is not built again."""
    folder.mkdir(exist_ok=True)
    pages = {}
    for package in PACKAGES:
        pages |= _pages(package, _exports(package))
    listed = [
        Export(path=f"{module}.{name}", module=module, heading="")
        for module, names in EXPERIMENTS.items()
        for name in names
    ]
    pages |= _pages("experiments", listed)
    for old in folder.glob("*.rst"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        if not (folder / name).exists() or (folder / name).read_text() != text:
            (folder / name).write_text(text)


def _exports(package: str) -> list[Export]:
    """Return the public names of a package in the order in which it imports them."""
    root = importlib.import_module(package)
    source = Path(root.__file__ or "").read_text()
    lines = source.splitlines()
    found = []
    heading = ""
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ImportFrom) or node.level != 1:
            continue
        above = lines[node.lineno - 2]
        if above.startswith("# "):
            heading = above.removeprefix("# ")
        for alias in node.names:
            if alias.asname != alias.name:
                continue
            value = getattr(root, alias.name)
            if isinstance(value, types.ModuleType):
                module = value.__name__
                paths = [f"{module}.{name}" for name in _functions(value)]
            else:
                module = getattr(value, "__module__", None) or f"{package}.{node.module}"
                paths = [f"{package}.{alias.name}"]
            found += [Export(path=path, module=module, heading=heading) for path in paths]
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


def _pages(package: str, exports: list[Export]) -> dict[str, str]:
    """Return the pages of a package by their file names: its own, and one a module."""
    modules: dict[str, list[str]] = {}
    headings: dict[str, list[str]] = {}
    for export in exports:
        modules.setdefault(export.module, []).append(export.path)
        headings.setdefault(export.heading, []).append(export.path)
    lines = [*_title(package), *_docstring_of(package), ".. py:currentmodule:: None", ""]
    for heading, paths in headings.items():
        lines += [f".. rubric:: {heading}", ""] if heading else []
        tables = [path for path in paths if not callable(_value(path))]
        lines += [".. autosummary::", "   :nosignatures:", ""]
        lines += [*(f"   {path}" for path in paths if path not in tables), ""]
        if tables:  # in a summary they would be described as dictionaries of Python are
            lines += ["Tables: " + ", ".join(f":py:data:`~{path}`" for path in tables) + ".", ""]
    lines += [".. toctree::", "   :hidden:", ""]
    lines += [*(f"   {module}" for module in modules), ""]
    pages = {f"{module}.rst": _module(module, paths) for module, paths in modules.items()}
    return pages | {f"{package}.rst": "\n".join(lines)}


def _module(module: str, paths: list[str]) -> str:
    owner = paths[0].rpartition(".")[0]
    lines = [*_title(module), *_docstring_of(module), f".. currentmodule:: {owner}", ""]
    for path in paths:
        value = _value(path)
        if inspect.isclass(value):
            kind = "autoexception" if issubclass(value, BaseException) else "autoclass"
            lines += [f".. {kind}:: {path}", "   :members:", "   :special-members: __call__"]
            lines += ["   :show-inheritance:", ""]
        elif callable(value):
            lines += [f".. autofunction:: {path}", ""]
        else:  # a table
            rows = ", ".join(f"``{name}``" for name in value)
            lines += [f".. py:data:: {path}", "", f"   Rows: {rows}.", ""]
    return "\n".join(lines)


def _value(path: str) -> Any:
    """Return what a path names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _docstring_of(module: str) -> list[str]:
    return [f".. automodule:: {module}", "   :no-members:", "   :no-index:", ""]


def _title(name: str) -> list[str]:
    return [name, "=" * len(name), ""]
