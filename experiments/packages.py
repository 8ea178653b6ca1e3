"""The packages that stand beside this one: sde_lib, models and samplers.

A folder of that name elsewhere can hide them.
"""

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("sde_lib", "models", "samplers")
HERE = Path(__file__).resolve().parents[1]


def check_packages() -> None:
    """Raise an ImportError if Python would import something else as one of the packages.

    None of them is imported for it.
    """
    for name in PACKAGES:
        spec = find_spec(name)
        folder = _folder(spec)
        if spec is None:
            raise ImportError(
                f"experiments needs the package {name!r}, which stands beside it in {HERE}; "
                "install the project, or add that folder to PYTHONPATH"
            )
        if folder != HERE / name:
            raise ImportError(
                f"'import {name}' finds {folder}, not the package of this project in "
                f"{HERE / name}; rename that {name}, start Python from another folder, or put "
                f"{HERE} first in PYTHONPATH"
            )


def _folder(spec) -> Path | None:
    """Return the folder that a package would be imported from, or the file of a module."""
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin).resolve() if spec.origin else None
