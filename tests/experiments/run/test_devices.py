"""What is set up before JAX starts, on machines other than this one, and what a run says of its
devices.
"""

import ctypes
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.run import devices
from experiments.run.devices import describe, fitting_mesh, make_mesh, set_up_jax
from experiments.run.placement import replicate, share


@pytest.fixture
def updates(monkeypatch):
    """The settings of JAX that are made, none of which takes effect."""
    made = {}
    monkeypatch.setattr(jax.config, "update", made.__setitem__)
    return made


@pytest.fixture
def allocator(monkeypatch):
    """The settings of the allocator that are made, none of which takes effect."""
    made = {}
    glibc = SimpleNamespace(gnu_get_libc_version=None, mallopt=made.__setitem__)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: glibc)
    return made


def on(monkeypatch, platform):
    monkeypatch.setattr(devices, "computes_on_cpu", lambda: platform == "cpu")


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_memory_is_kept_where_xla_computes_on_a_cpu_and_glibc_frees_it(
    system, platform, updates, allocator, monkeypatch
):
    on(monkeypatch, platform)
    monkeypatch.setattr(sys, "platform", system)
    set_up_jax()
    expected = {-1: -1, -4: 0, -8: 1}  # of malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX
    assert allocator == (expected if (system, platform) == ("linux", "cpu") else {})


@pytest.mark.parametrize("system", ["linux", "win32"])
def test_another_c_library_is_no_reason_to_stop(system, updates, monkeypatch):
    """Windows has no library without a name, and musl no mallopt."""

    def library(name):
        if system == "win32":
            raise TypeError("bad argument type for built-in operation")
        return SimpleNamespace()

    on(monkeypatch, "cpu")
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", library)
    set_up_jax()


def test_every_core_is_a_device_unless_a_user_says_otherwise(updates, allocator, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 5}, raising=False)
    given = jax.config.jax_num_cpu_devices  # of tests/conftest.py: it has the last word
    set_up_jax()
    assert given == 4 and "jax_num_cpu_devices" not in updates
    config = SimpleNamespace(
        jax_num_cpu_devices=-1,
        jax_compilation_cache_dir=None,
        jax_platforms="cpu",
        update=updates.__setitem__,
    )
    monkeypatch.setattr(devices, "jax", SimpleNamespace(config=config))
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    set_up_jax()
    assert updates["jax_num_cpu_devices"] == 3
    assert Path(updates["jax_compilation_cache_dir"]) == Path("/somewhere/score-sde-toolkit")
    updates.clear()
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    monkeypatch.delattr(os, "sched_getaffinity")
    set_up_jax()
    assert "jax_num_cpu_devices" not in updates


def test_a_user_without_a_home_keeps_no_programs(monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert devices.cache_folder() is None


@pytest.mark.parametrize(
    "chosen, plugins, backend, expected",
    [
        ("cpu", ["cuda"], "gpu", True),
        ("cuda,cpu", ["cuda"], "cpu", False),
        (None, [], None, True),  # nothing to ask, and JAX is not started
        (None, ["cuda"], "gpu", False),
        (None, ["cuda"], "cpu", True),  # a plugin, but no GPU
    ],
)
def test_where_jax_will_compute_is_known(chosen, plugins, backend, expected, monkeypatch):
    config = SimpleNamespace(jax_platforms=chosen)
    fake = SimpleNamespace(config=config, default_backend=lambda: backend)
    monkeypatch.setattr(devices, "jax", fake)
    monkeypatch.setattr(devices.importlib.metadata, "entry_points", lambda group: plugins)
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    assert devices.computes_on_cpu() is expected


def test_a_mesh_has_as_many_devices_as_share_the_batch_and_is_described():
    assert [fitting_mesh(size).size for size in (1, 2, 3, 6, 8)] == [1, 2, 3, 3, 4]
    assert fitting_mesh(8, 3).size == 2 and make_mesh(6).size == 3 and make_mesh(6, 2).size == 2
    assert describe(fitting_mesh(8)) == "4 cpu devices"
    assert describe(fitting_mesh(6, 2)) == "2 of 4 cpu devices"
    with pytest.raises(ValueError, match="batch of 6 cannot be shared by 4 devices"):
        make_mesh(6, 4)
    with pytest.raises(ValueError, match="config.devices is 5, but JAX sees 4"):
        make_mesh(5, 5)


def test_a_batch_lies_across_the_devices_and_everything_else_on_each():
    mesh = fitting_mesh(8)
    batch = share(mesh, {"x": np.arange(16.0).reshape(8, 2), "odd": np.arange(3)})
    places = [(shard.index[0].start, len(shard.data)) for shard in batch["x"].addressable_shards]
    assert places == [(0, 2), (2, 2), (4, 2), (6, 2)]
    whole = replicate(mesh, {"w": jnp.arange(8), "name": "edm"})
    assert whole["name"] == "edm"
    for array in (batch["odd"], whole["w"]):
        assert len(array.sharding.device_set) == 4 and array.is_fully_replicated
