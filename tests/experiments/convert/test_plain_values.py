"""What real checkpoints hold beside tensors is read as plain data, and nothing that a pickle names
is called.
"""

import argparse
import collections
import pathlib
import pickle
import types
import zipfile

import ml_collections
import numpy as np
import pytest

from experiments.convert.plain import NAMES, TABLE, Name
from experiments.convert.torch_file import TENSORS, read_pickle, read_torch
from experiments.errors import RunError

# what is pickled -> what is read
VALUES = [
    (np.float64(2e-4), np.float64(2e-4)),
    (np.int64(3), np.int64(3)),
    (np.bool_(True), np.bool_(True)),
    (np.float32(0.5), np.float32(0.5)),
    (np.dtype(">f4").type(3), np.float32(3)),
    (np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(2, 3)),
    (np.asfortranarray(np.arange(6).reshape(2, 3)), np.arange(6).reshape(2, 3)),
    (np.arange(3, dtype=">i4"), np.arange(3, dtype=">i4")),
    (np.array(["a", "bc"]), np.array(["a", "bc"])),
    (np.zeros((0, 3)), np.zeros((0, 3))),
    (np.dtype(">f8"), np.dtype(">f8")),
    (collections.OrderedDict(a=1), {"a": 1}),
    (collections.defaultdict(list, {1: [2]}), {1: [2]}),
    (collections.deque([1, 2], 3), [1, 2]),
    ({1, "a"}, {1, "a"}),
    (frozenset([1]), frozenset([1])),
    (2 - 3j, 2 - 3j),
    (b"a\xff", b"a\xff"),
    (b"", b""),
    (bytearray(b"a\xff"), bytearray(b"a\xff")),
    ({(1, "a"): None, b"k": True, 2.5: 10**30}, {(1, "a"): None, b"k": True, 2.5: 10**30}),
    (argparse.Namespace(a=1, b=[2]), {"a": 1, "b": [2]}),
    (types.SimpleNamespace(a=1), {"a": 1}),
    (ml_collections.ConfigDict({"a": {"b": (1,)}}), {"a": {"b": (1,)}}),
    (ml_collections.FrozenConfigDict({"a": 1}), None),
    (pathlib.PurePosixPath("a/b"), "a/b"),
    (float, Name("builtins.float")),
]


def same(got, want):
    np.testing.assert_array_equal(got, want)
    if isinstance(want, np.ndarray | np.generic):
        assert got.dtype.newbyteorder("=") == want.dtype.newbyteorder("=")
        assert got.shape == want.shape


@pytest.mark.parametrize("protocol", range(6))
def test_a_value_is_read_as_plain_data_in_every_protocol(protocol, tmp_path):
    for value, want in VALUES:
        data = pickle.dumps([value, value, "behind"], protocol)
        (tmp_path / "a.pkl").write_bytes(data)
        first, second, behind = read_pickle(tmp_path / "a.pkl", frozenset())
        assert behind == "behind"
        if want is not None:
            same(first, want)
            same(second, want)
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"lr": np.float64(2e-4)}, protocol))
    assert read_torch(tmp_path / "a.pth") == {"lr": 2e-4}


def global_of(module, name):
    return f"c{module}\n{name}\n".encode()


def archive_of(path, pickled, **members):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        for name, raw in members.items():
            archive.writestr(f"a/{name.replace('_', '/')}", raw)
    return path


def test_what_only_pytorch_has_is_read_as_plain_data(tmp_path):
    device = global_of("torch", "device") + b"(X\x04\x00\x00\x00cudaK\x01tR"
    size = global_of("torch", "Size") + b"((K\x02K\x03ttR"
    parts = device + size + global_of("torch", "float16") + global_of("torch", "strided")
    read = read_torch(archive_of(tmp_path / "a.pth", b"(" + parts + b"t."))
    assert read == ("cuda:1", (2, 3), np.dtype(np.float16), Name("torch.strided"))


def test_the_names_before_numpy_2_are_the_same(tmp_path):
    data = pickle.dumps([np.float64(2e-4), np.arange(3)], 2)
    older = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert older != data
    lr, numbers = read_torch(archive_of(tmp_path / "a.pth", older))
    assert lr == 2e-4
    np.testing.assert_array_equal(numbers, np.arange(3))


def test_numbers_of_a_machine_of_the_other_byte_order(tmp_path):
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00(K\x02t(K\x01tI00\n}tR."
    for order, dtype in (("little", "<f4"), ("big", ">f4")):
        raw = np.array([1.5, -2], dtype).tobytes()
        path = archive_of(tmp_path / "a.pth", tensor, data_0=raw, byteorder=order)
        np.testing.assert_array_equal(read_torch(path), [1.5, -2])


def test_a_tensor_of_a_newer_type_is_its_bytes(tmp_path):
    storage = (
        b"(X\x07\x00\x00\x00storagectorch.storage\nUntypedStorage\n"
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
    )
    tensor = b"ctorch._utils\n_rebuild_tensor_v3\n(" + storage + b"K\x00(K\x02t(K\x01tI00\n}"
    path = archive_of(
        tmp_path / "a.pth",
        tensor + global_of("torch", "uint16") + b"tR.",
        data_0=np.array([3, 65535], "<u2").tobytes(),
    )
    np.testing.assert_array_equal(read_torch(path), np.array([3, 65535], np.uint16))


@pytest.mark.parametrize(
    "module, name",
    [("numpy", "load"), ("numpy", "fromfile"), ("builtins", "getattr"), ("functools", "partial"),
     ("numpy.core.multiarray", "fromfile"), ("torch", "load"), ("collections", "Counter"), ("os", "system")],
)  # fmt: skip
def test_any_other_name_is_refused_by_it(module, name, tmp_path):
    archive_of(tmp_path / "a.pth", b"(" + global_of(module, name) + b"K\x01t.")
    with pytest.raises(RunError, match=rf"a\.pth: the file asks for {module}\.{name}, which"):
        read_torch(tmp_path / "a.pth")


def test_nothing_admitted_is_more_than_a_name():
    """What a pickle can reach are the functions of two tables: none of them is a class or a
    function of another module.
    """
    for function in (*TABLE.values(), *TENSORS.values()):
        assert isinstance(function, types.FunctionType)
        assert function.__module__.startswith("experiments.convert.")
    assert not set(TABLE) & NAMES


@pytest.mark.parametrize(
    "program, message",
    [
        (b"K\x01(K\x02tR.", "calls 1, which is no function"),
        (global_of("builtins", "float") + b"(K\x02tR.", "calls <Name>"),
        (global_of("builtins", "set") + b"}b.", "has none"),
        (global_of("builtins", "bytearray") + b"(J\xff\xff\xff\x7ftR.", "encodes 2147483647"),
        (b"]K\x01b.", "gives a state to"),
        (b"\x82\x01.", "asks for extension 1"),
        (global_of("numpy", "dtype") + b"(X\x01\x00\x00\x00OtR.", "of type 'O'"),
        (global_of("numpy", "dtype") + b"(X\x0a\x00\x00\x00S999999999tR.", "far more than a file"),
        (global_of("torch", "float32") + b"(K\x03X\x01\x00\x00\x00?tb.", "gives the state"),
        (b"]" + b"K\x01" * 3 + b"s.", "damaged"),
    ],
)  # fmt: skip
def test_a_program_that_does_something_else_is_refused(program, message, tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02" + program)
    with pytest.raises(RunError, match=message):
        read_pickle(tmp_path / "a.pkl", frozenset())


def test_the_types_that_all_share_keep_their_byte_order(tmp_path):
    swapped = b"(K\x03X\x01\x00\x00\x00>NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02" + global_of("torch", "float32") + swapped + b".")
    assert read_pickle(tmp_path / "a.pkl", frozenset()) == np.dtype(">f4")
    assert np.dtype("float32").isnative
