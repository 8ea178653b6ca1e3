"""A pickle from elsewhere cannot do anything but hold numbers."""

import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from experiments.convert.plain import Remains
from experiments.convert.torch_file import LEGACY_MAGIC, read_pickle, read_torch, tensor
from experiments.errors import RunError


class Attack:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def write_archive(path, pickled, **numbers):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, raw in numbers.items():
            archive.writestr(f"archive/data/{key}", raw)


def test_a_file_that_wants_to_run_something_is_refused_unrun(tmp_path):
    attack = pickle.dumps({"step": 3, "model": Attack(str(tmp_path / "planted"))})
    write_archive(tmp_path / "bad.pth", attack)
    (tmp_path / "bad.pkl").write_bytes(attack)
    with pytest.raises(
        RunError,
        match=r"asks for (posix|nt)\.mkdir, which is neither a tensor nor a plain container",
    ):
        read_torch(tmp_path / "bad.pth")
    with pytest.raises(RunError, match="refused unread"):
        read_torch(tmp_path / "bad.pkl")  # taken for the older format
    with pytest.raises(RunError, match="refused unread"):
        read_pickle(tmp_path / "bad.pkl", frozenset())
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins eval",
        "builtins getattr",
        "torch load",
        "torch.hub load",
        "numpy load",
        "collections Counter",
    ],
)
def test_nothing_beyond_tensors_and_containers_is_found(name, tmp_path):
    write_archive(tmp_path / "bad.pth", b"c" + name.replace(" ", "\n").encode() + b"\n.")
    with pytest.raises(RunError, match=f"asks for {name.replace(' ', '.')}"):
        read_torch(tmp_path / "bad.pth")


def storage_of(kind, key, size):
    return b"(X\x07\x00\x00\x00storagectorch\n%s\nX\x01\x00\x00\x00%sX\x03\x00\x00\x00cpuK%ctQ" % (
        kind,
        key,
        size,
    )


def tensor_of(storage, offset=0, size=(2, 3), stride=(3, 1)):
    parts = b"".join(pickle.dumps(part, 2)[2:-1] for part in (offset, size, stride))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + parts + b"I00\n}tR."


def test_numbers_come_back_through_offset_and_strides(tmp_path):
    raw = np.arange(7, dtype=np.float32)
    write_archive(
        tmp_path / "a.pth",
        tensor_of(storage_of(b"FloatStorage", b"0", 7), 1, (3, 2), (1, 3)),
        **{"0": raw.tobytes()},
    )
    np.testing.assert_array_equal(read_torch(tmp_path / "a.pth"), raw[1:].reshape(2, 3).T)


@pytest.mark.parametrize(
    "kind, dtype",
    [(b"HalfStorage", np.float16), (b"LongStorage", np.int64), (b"DoubleStorage", np.float64)],
)
def test_other_kinds_of_numbers(kind, dtype, tmp_path):
    raw = np.arange(6).astype(dtype)
    write_archive(tmp_path / "a.pth", tensor_of(storage_of(kind, b"0", 6)), **{"0": raw.tobytes()})
    got = read_torch(tmp_path / "a.pth")
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, raw.reshape(2, 3))


def test_bfloat16_numbers_keep_their_value(tmp_path):
    write_archive(
        tmp_path / "a.pth",
        tensor_of(storage_of(b"BFloat16Storage", b"0", 2), 0, (2,), (1,)),
        **{"0": b"\x80\x3f\x00\xc0"},
    )
    np.testing.assert_array_equal(read_torch(tmp_path / "a.pth").astype(np.float32), [1.0, -2.0])


def test_a_damaged_file_is_said_to_be_damaged(tmp_path):
    write_archive(
        tmp_path / "a.pth", tensor_of(storage_of(b"FloatStorage", b"0", 6)), **{"0": bytes(20)}
    )
    with pytest.raises(RunError, match="storage 0 has 5 elements, expected 6; the file is damaged"):
        read_torch(tmp_path / "a.pth")
    for offset, size, stride in [
        (3, (2, 3), (3, 1)),
        (0, (2, 3), (4, 1)),
        (-1, (2,), (1,)),
        (5, (3,), (-1,)),
    ]:
        with pytest.raises(RunError, match="reaches beyond its storage of 6 elements"):
            tensor(np.zeros(6, np.float32), offset, size, stride)
    assert tensor(np.zeros(0, np.float32), 0, (0, 3), (3, 1)).shape == (0, 3)
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(RunError):
        read_torch(tmp_path / "text.pth")


def old_format(raw, obj):
    file = io.BytesIO()
    for part in (LEGACY_MAGIC, 1001, {"little_endian": True}):
        pickle.dump(part, file, 2)
    file.write(b"\x80\x02" + obj)
    pickle.dump(["k"], file, 2)
    file.write(struct.pack("<q", raw.size) + raw.tobytes())
    return file.getvalue()


def test_the_older_format_alone_and_inside_an_ordinary_pickle(tmp_path):
    raw = np.arange(6, dtype=np.float32)
    storage = storage_of(b"FloatStorage", b"k", raw.size)
    (tmp_path / "old.pth").write_bytes(old_format(raw, tensor_of(storage)))
    np.testing.assert_array_equal(read_torch(tmp_path / "old.pth"), raw.reshape(2, 3))
    inner = pickle.dumps(old_format(raw, storage + b"."), 2)[2:-1]
    storage = b"ctorch.storage\n_load_from_bytes\n(" + inner + b"tR"
    (tmp_path / "net.pkl").write_bytes(b"\x80\x02" + tensor_of(storage))
    np.testing.assert_array_equal(read_pickle(tmp_path / "net.pkl", frozenset()), raw.reshape(2, 3))


def test_of_an_object_only_its_state_remains(tmp_path):
    (tmp_path / "net.pkl").write_bytes(b"\x80\x02cnets\nNet\n)\x81}X\x01\x00\x00\x00aK\x03sb.")
    with pytest.raises(RunError, match="asks for nets.Net"):
        read_pickle(tmp_path / "net.pkl", frozenset())
    remains = read_pickle(tmp_path / "net.pkl", frozenset({("nets", "Net")}))
    assert isinstance(remains, Remains) and remains.state == {"a": 3}
