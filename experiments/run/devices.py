"""Where computation runs: on one mesh over the local devices.

The batch is split over them, and everything else is replicated.

XLA's CPU backend hardly uses a second core for small convolutions, so on CPU each core becomes a
device of its own. No code inside a compiled function knows how many there are.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .compile_cache import remove_torn

# Numbers of parameters in glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8


def set_up_jax() -> None:
    """Make every CPU core a JAX device and keep compiled programs on disk.

    Call it before anything runs in JAX.

    XLA_FLAGS, JAX_NUM_CPU_DEVICES and JAX_COMPILATION_CACHE_DIR have the last word.
    """
    folder = cache_folder()
    settings: Any = jax.config  # its type does not name them
    if folder and not settings.jax_compilation_cache_dir:
        remove_torn(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen and settings.jax_num_cpu_devices < 1:
        jax.config.update("jax_num_cpu_devices", _cores())
    if computes_on_cpu():
        keep_memory()


def _cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS and Windows


def cache_folder() -> Path | None:
    """Return the folder of compiled programs that later starts use again.

    The result is None for a user without a home, as in some containers.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # what pathlib raises where there is none
        return None
    return cache / "score-sde-toolkit"


def computes_on_cpu() -> bool:
    """Tell whether JAX will compute on the CPU.

    JAX is started, to find out, only where the plugin of an accelerator is installed.
    """
    chosen = jax.config.jax_platforms or ""  # pyright: ignore[reportAttributeAccessIssue]
    if chosen:
        return chosen.split(",")[0] == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    if not plugins and not any(
        importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu")
    ):
        return True
    return jax.default_backend() == "cpu"


def keep_memory() -> None:
    """Have glibc, where it is the C library, keep the memory that XLA's CPU backend frees.

    XLA's temporary buffers go back to the system after every step and come again page by page, a
    quarter of a small U-Net's step: take none by mmap, give none back, and have one arena for all
    threads, as the others hold no block above 64 MiB.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):  # musl, of Alpine Linux
        return
    for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_ARENA_MAX, 1)):
        library.mallopt(parameter, value)


def make_mesh(batch_size: int, devices: int = 0) -> Mesh:
    """Return a mesh of one axis, "batch", over `devices` devices.

    0 stands for all of them, on CPU for as many as divide the batch.

    Raises:
        ValueError: the devices cannot share the batch, or there are fewer than `devices`.
    """
    if not devices and jax.default_backend() == "cpu":
        return fitting_mesh(batch_size)
    devices = count_devices(devices)
    if batch_size % devices:
        raise ValueError(
            f"a batch of {batch_size} cannot be shared by {devices} devices; choose a multiple of "
            f"{devices}, or fewer devices"
        )
    return _mesh(devices)


def fitting_mesh(batch_size: int, devices: int = 0) -> Mesh:
    """Return a mesh over as many of `devices` devices (0: all) as divide the batch.

    It is for batches whose size no setting decides.
    """
    return _mesh(max(n for n in range(1, count_devices(devices) + 1) if batch_size % n == 0))


def count_devices(devices: int) -> int:
    """Return how many devices `config.devices` stands for; raise a ValueError if JAX has fewer."""
    available = jax.local_device_count()
    if devices > available:
        backend = jax.default_backend()
        raise ValueError(
            f"config.devices is {devices}, but JAX sees {available} ({backend}); set "
            "--config.devices=0 to use all there are"
        )
    return devices or available


def _mesh(devices: int) -> Mesh:
    return jax.make_mesh(
        (devices,), ("batch",), axis_types=(AxisType.Auto,), devices=jax.local_devices()[:devices]
    )


def describe(mesh: Mesh) -> str:
    """Say what a mesh computes on: "2 of 4 cpu devices", "1 gpu device (NVIDIA H100)"."""
    device = mesh.devices.flat[0]
    available = jax.local_device_count()
    count = f"{mesh.size} of {available}" if mesh.size < available else f"{mesh.size}"
    name = "" if device.device_kind == device.platform else f" ({device.device_kind})"
    return f"{count} {device.platform} device{'s' if available > 1 else ''}{name}"


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Return `tree` with a copy of every array on every device of the mesh.

    What is no array stays as it is.
    """
    whole = replicated(mesh)
    return jax.tree.map(lambda a: jax.device_put(a, whole) if isinstance(a, jax.Array) else a, tree)


def share(mesh: Mesh, batch: Any) -> Any:
    """Return `batch` with the leading axis of every array split over the devices of the mesh.

    An array whose length they do not divide is replicated.
    """
    split = NamedSharding(mesh, PartitionSpec("batch"))
    whole = replicated(mesh)
    return jax.tree.map(lambda a: jax.device_put(a, whole if len(a) % mesh.size else split), batch)
