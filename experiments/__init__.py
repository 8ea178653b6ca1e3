"""The runnable part: data sets, configurations, training, sampling and evaluation. `experiments.load(workdir)` opens a run."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Import `load` when it is asked for: a configuration file should not have to import JAX."""
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .build import load

    return load
