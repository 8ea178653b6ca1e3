"""A network snapshot of EDM from end to end: a pickle laid out as its persistence layer does,
converted, opened and sampled from.

Each of their objects is pickled as a call of a function on a dict that holds the source of its
module, the name of its class and its state; tensors inside are those of PyTorch. Here the pickle is
written opcode by opcode by stand-ins of the same names; nothing of theirs is run.
"""

import collections
import io
import json
import pickle
import struct
import sys
import types

import jax
import numpy as np
import pytest

import experiments
from experiments.convert import convert, rules
from experiments.convert.edm import edm_rules, settings_of
from experiments.convert.torch_file import LEGACY_MAGIC
from experiments.errors import RunError
from experiments.modes.sample import sample
from experiments.run.walks import make_walk
from tests.experiments.convert.test_edm import SONG, build
from tests.experiments.convert.test_score_sde import numbered
from tests.experiments.settings import with_settings

SOURCE = "raise SystemExit('the source inside a snapshot was run')"


def storage_bytes(array):
    """Return what torch.save gives for one storage alone, in the older format that pickles of
    tensors contain.
    """
    file = io.BytesIO()
    for part in (LEGACY_MAGIC, 1001, {"little_endian": True}):
        pickle.dump(part, file, 2)
    size = pickle.dumps(array.size, 2)[2:-1]
    file.write(
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x00kX\x03\x00\x00\x00cpu"
        + size
        + b"tQ."
    )
    pickle.dump(["k"], file, 2)
    return file.getvalue() + struct.pack("<q", array.size) + array.tobytes()


@pytest.fixture
def dump(monkeypatch):
    """Return the function (object) -> pickle, in which the stand-ins below bear the names of EDM's
    and PyTorch's functions.
    """

    def stand_in(module, name):
        def function(*_):
            raise AssertionError("only names are pickled")

        function.__module__, function.__qualname__, function.__name__ = module, name, name
        parts = module.split(".")
        for i in range(len(parts)):
            path = ".".join(parts[: i + 1])
            monkeypatch.setitem(sys.modules, path, sys.modules.get(path) or types.ModuleType(path))
        monkeypatch.setattr(sys.modules[module], name, function, raising=False)
        return function

    names = [
        ("torch_utils.persistence", "_reconstruct_persistent_obj"),
        ("torch._utils", "_rebuild_tensor_v2"),
    ]
    names += [("torch._utils", "_rebuild_parameter"), ("torch.storage", "_load_from_bytes")]
    rebuild, tensor, parameter, load = (stand_in(*name) for name in names)

    class Call:
        def __init__(self, *parts):
            self.parts = parts

        def __reduce__(self):
            return self.parts[0], self.parts[1:]

    def parameter_of(array):
        array = np.ascontiguousarray(array, np.float32)
        strides = tuple(s // 4 for s in array.strides)
        whole = Call(
            tensor,
            Call(load, storage_bytes(array)),
            0,
            array.shape,
            strides,
            False,
            collections.OrderedDict(),
        )
        return Call(parameter, whole, True, collections.OrderedDict())

    def module_of(kind, settings, arrays, buffers=()):
        """Return a module whose arrays are named with dots, as their modules inside modules are."""
        state = {
            "training": False,
            "_parameters": collections.OrderedDict(),
            "_buffers": collections.OrderedDict(),
        }
        inside = {}
        for name, array in arrays.items():
            first, _, rest = name.partition(".")
            if rest:
                inside.setdefault(first, {})[rest] = array
            else:
                state["_buffers" if name in buffers else "_parameters"][name] = parameter_of(array)
        state["_modules"] = collections.OrderedDict(
            (k, module_of("Module", {}, v, buffers)) for k, v in inside.items()
        )
        state["_init_args"], state["_init_kwargs"] = (), settings
        meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE,
            "class_name": kind,
            "state": state,
        }
        return Call(rebuild, meta)

    def snapshot(weights, settings, hidden=None):
        net = module_of("SongUNet", settings, weights, ("freqs", "resample_filter"))
        outer = module_of("EDMPrecond", {"sigma_data": 0.5, **settings}, {})
        outer.parts[1]["state"]["_modules"]["model"] = net
        return pickle.dumps(
            {"ema": outer, "loss_fn": hidden, "augment_pipe": None, "dataset_kwargs": {}}, 2
        )

    return snapshot


@pytest.fixture
def weights():
    """Return the arrays of a small SongUNet by name, and the parameters that they are here."""
    net = build(settings_of("SongUNet", SONG, {}))((8, 8, 3), 0)
    params = jax.tree.map(lambda p: p / 1e4, numbered(net))
    foreign = rules.write(edm_rules(net), params)
    # beside them: the filter of every block that resamples, and what augmentation labels pass
    # through
    foreign |= {
        "enc.4x4_down.conv0.resample_filter": np.full((1, 1, 2, 2), 0.25),
        "map_augment.weight": np.zeros((8, 9)),
    }
    return foreign, params


def test_a_snapshot_becomes_a_run_that_is_sampled_from(dump, weights, tmp_path):
    foreign, params = weights
    (tmp_path / "net.pkl").write_bytes(dump(foreign, SONG))
    convert(tmp_path / "net.pkl", "edm", tmp_path / "run")
    loaded = experiments.load(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, loaded.denoiser.net.params, params)
    walk, ts = make_walk(loaded.config.samplers.published, loaded.sde)
    # the published levels (arXiv:2206.00364, eq. 5); the evaluation at the last one is the 35th
    levels = (80 ** (1 / 7) + np.arange(18) / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(loaded.sde.sigma_max * ts, levels, rtol=1e-6)
    assert type(walk).__name__ == "Heun"
    assert loaded.config.denoiser.to_dict() == {
        "prediction": "edm",
        "inputs": "edm",
        "sigma_data": 0.5,
    }
    config = loaded.config.copy_and_resolve_references().unlock()
    config.samplers.published.steps = 2
    config.sampling.update({"number": 2, "batch_size": 2})
    sample(with_settings(loaded, config, ("samplers", "sampling")), tmp_path / "run")
    with np.load(tmp_path / "run" / "samples" / "published" / "samples.npz") as file:
        assert file["x"].shape == (2, 8, 8, 3)
    # 2 n + 1
    assert (
        json.loads((tmp_path / "run" / "samples" / "published" / "summary.json").read_text())["nfe"]
        == 5
    )


def test_a_snapshot_that_hides_something_else_is_refused(dump, weights, tmp_path):
    """Also where nothing looks for it, and before anything of it is used."""

    class Attack:
        def __reduce__(self):
            return print, ("run",)

    (tmp_path / "net.pkl").write_bytes(dump(weights[0], SONG, hidden=Attack()))
    with pytest.raises(RunError, match="asks for builtins.print|asks for __builtin__.print"):
        convert(tmp_path / "net.pkl", "edm", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_weight_that_a_snapshot_lacks_is_named(dump, weights, tmp_path):
    foreign = {k: v for k, v in weights[0].items() if k != "enc.8x8_conv.bias"}
    (tmp_path / "net.pkl").write_bytes(dump(foreign, SONG))
    with pytest.raises(RunError, match=r"lacks enc\.8x8_conv\.bias"):
        convert(tmp_path / "net.pkl", "edm", tmp_path / "run")
