"""What a training ran on: the hardware and the versions of the packages, as plain JSON."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from .devices import describe

PROJECT = "score-sde-toolkit"
# What decides the numbers that a run arrives at.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "equinox", "diffrax", "numpy", "orbax-checkpoint")


def environment(mesh: Mesh) -> dict[str, Any]:
    """Return the devices of a mesh, the processor, and the versions of Python and the packages."""
    return {
        "devices": describe(mesh),
        "processor": processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **versions()},
    }


def versions() -> dict[str, str]:
    """Return the version of each package that is installed, this project's first."""
    found = {}
    for name in (PROJECT, *PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # a checkout that was not installed
            continue
    return found


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return what the processor calls itself; "" where the system does not say."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:  # not on Linux
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
