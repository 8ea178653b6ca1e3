"""Where computation runs: one mesh over the local devices, the batch split over them and everything else replicated.

XLA's CPU backend hardly uses a second core for small convolutions, so on CPU each core becomes a device of its own. No code inside a
compiled function knows how many there are.
"""

import os
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def one_device_per_core() -> None:
    """Make every CPU core a JAX device, unless XLA_FLAGS or the configuration says how many; call it before anything runs in JAX."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", "") and jax.config.jax_num_cpu_devices < 1:  # pyright: ignore
        jax.config.update("jax_num_cpu_devices", cores)


def make_mesh(batch_size: int, devices: int = 0) -> Mesh:
    """Return a mesh of one axis, "batch", over `devices` devices (0: all; on CPU as many as divide the batch).

    Raises:
        ValueError: the devices cannot share the batch, or there are fewer than asked for.
    """
    available = jax.local_device_count()
    if devices > available:
        raise ValueError(f"config.devices = {devices}, but JAX sees {available} ({jax.default_backend()})")
    if not devices:
        devices = available
        if jax.default_backend() == "cpu":
            devices = max(n for n in range(1, available + 1) if batch_size % n == 0)
    if batch_size % devices:
        raise ValueError(f"a batch of {batch_size} cannot be shared by {devices} devices; choose a multiple of {devices}, or fewer devices")
    return jax.make_mesh((devices,), ("batch",), axis_types=(AxisType.Auto,), devices=jax.local_devices()[:devices])


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def share(mesh: Mesh, batch: Any) -> Any:
    """Put the leading axis of every array in `batch` across the mesh; a batch that does not divide is replicated."""
    split = NamedSharding(mesh, PartitionSpec("batch"))
    whole = replicated(mesh)
    return jax.tree.map(lambda a: jax.device_put(a, whole if len(a) % mesh.size else split), batch)
