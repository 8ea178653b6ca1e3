"""A small file cannot take much memory or time, and what it states wrongly is told by value and
expectation.
"""

import json
import pickle
import struct
import zipfile

import numpy as np
import pytest

from experiments.convert import convert
from experiments.convert.diffusers import network
from experiments.convert.export import export
from experiments.convert.formats import FORMATS
from experiments.convert.reading import FREE, GROWTH, Budget, shown
from experiments.convert.safetensors import read_safetensors, write_safetensors
from experiments.convert.torch_file import LEGACY_MAGIC, read_pickle, read_torch
from experiments.errors import RunError
from tests.experiments.convert.foreign_files import write_pth
from tests.experiments.convert.test_damage import UNET2D
from tests.experiments.convert.test_torch_file import storage_of, tensor_of, write_archive

HUGE = 5 * 10**9


def test_a_tensor_that_repeats_one_number_without_end_is_refused(tmp_path):
    size, stride = (HUGE,), (0,)
    program = tensor_of(storage_of(b"FloatStorage", b"0", 1), 0, size, stride)
    write_archive(tmp_path / "a.pth", program, **{"0": bytes(4)})
    with pytest.raises(
        RunError, match=r"a tensor of shape \(5000000000,\) would take 2e\+10 bytes"
    ):
        read_torch(tmp_path / "a.pth")
    few = tensor_of(storage_of(b"FloatStorage", b"0", 1), 0, (1000,), stride)
    write_archive(tmp_path / "few.pth", few, **{"0": np.float32(3).tobytes()})
    np.testing.assert_array_equal(read_torch(tmp_path / "few.pth"), np.full(1000, 3.0))
    many = b"(" + few[:-1] * 2000 + b"t."  # each of them small, together 8 MB
    write_archive(tmp_path / "many.pth", many, **{"0": bytes(4)})
    assert len(read_torch(tmp_path / "many.pth")) == 2000
    wide = tensor_of(storage_of(b"FloatStorage", b"0", 1), 0, (10**7,), stride)
    write_archive(tmp_path / "two.pth", b"(" + wide[:-1] * 2 + b"t.", **{"0": bytes(4)})
    with pytest.raises(RunError, match="would take 4e"):  # the second one
        read_torch(tmp_path / "two.pth")


def test_an_old_storage_is_as_long_as_its_numbers(tmp_path):
    parts = [pickle.dumps(part, 2) for part in (LEGACY_MAGIC, 1001, {"little_endian": True})]
    size = pickle.dumps(HUGE, 2)[2:-1]
    obj = tensor_of(storage_of(b"FloatStorage", b"k", 77), 0, (1,), (1,)).replace(b"KM", size)
    obj = b"\x80\x02" + obj
    keys, raw = pickle.dumps(["k"], 2), struct.pack("<q", HUGE) + bytes(4)
    (tmp_path / "a.pth").write_bytes(b"".join([*parts, obj, keys, raw]))
    with pytest.raises(RunError, match="numbers of storage k are cut off"):
        read_torch(tmp_path / "a.pth")


@pytest.mark.parametrize("suffix", ["pth", "npz"])
def test_an_archive_does_not_unpack_to_more_than_a_file_of_its_size(suffix, tmp_path, networks):
    path = tmp_path / f"a.{suffix}"
    member = "a/data.pkl" if suffix == "pth" else "param/a.npy"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(member, "w") as file:
            for _ in range(70):
                file.write(bytes(2**20))
    with pytest.raises(RunError, match=rf"a\.{suffix}: what the archive unpacks to would take"):
        FORMATS["score_sde_pytorch"](path, str(networks / "ddpm.config.json"))


def test_an_archive_that_cannot_be_opened_is_refused(tmp_path):
    write_archive(tmp_path / "a.pth", b"]." * 20)
    sound = (tmp_path / "a.pth").read_bytes()
    start = sound.index(b"PK\x01\x02")
    for place, value in ((8, 1), (10, 77)):  # encrypted; of an unknown method
        changed = bytearray(sound)
        changed[start + place] = value
        changed[{8: 6, 10: 8}[place]] = value
        (tmp_path / "b.pth").write_bytes(changed)
        with pytest.raises(RunError, match=r"b\.pth is no file of torch\.save"):
            read_torch(tmp_path / "b.pth")


def nested(opcode, times):
    """Return a pickle of a container in itself, so many times: 2 ** times parts in some bytes each."""
    return b"\x80\x02K\x01" + b"q\x00h\x00" + opcode + (b"q\x00h\x00" + opcode) * (times - 1)


def test_a_key_that_is_nested_in_itself_is_refused(tmp_path):
    for program in (
        b"}" + nested(b"\x86", 40)[2:] + b"K\x01s.",
        b"}(" + nested(b"\x86", 40)[2:] + b"K\x01u.",
        b"(" + nested(b"\x86", 40)[2:] + b"K\x01d.",
        b"c__builtin__\nset\n(](" + nested(b"\x86", 40)[2:] + b"etR.",
        b"\x8f(" + nested(b"\x86", 40)[2:] + b"\x90.",
        b"(" + nested(b"\x86", 40)[2:] + b"\x91.",
        b"ccollections\nOrderedDict\n(](" + nested(b"\x86", 40)[2:] + b"K\x01\x86etR.",
        b"}" + nested(b"\x85", 100_000)[2:].replace(b"h\x00", b"") + b"K\x01s.",
    ):
        (tmp_path / "a.pkl").write_bytes(b"\x80\x04" + program)
        with pytest.raises(RunError, match="has the key"):
            read_pickle(tmp_path / "a.pkl", frozenset())


def test_a_value_that_is_nested_in_itself_is_told_in_short(tmp_path):
    (tmp_path / "a.pkl").write_bytes(nested(b"\x86", 60) + b".")
    value = read_pickle(tmp_path / "a.pkl", frozenset())
    assert len(shown(value)) < 200
    for program in (b"Q.", b"K\x01b.", b"(K\x01tR."):
        (tmp_path / "b.pkl").write_bytes(nested(b"\x86", 60) + program)
        with pytest.raises(RunError) as caught:
            read_pickle(tmp_path / "b.pkl", frozenset())
        assert len(str(caught.value)) < 1000


def test_copies_of_one_value_count_as_what_they_take(tmp_path):
    text = b"X" + struct.pack("<I", 2**20) + b"a" * 2**20
    program = b"\x80\x02" + text + b"q\x000("
    program += b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR" * 200 + b"t."
    (tmp_path / "a.pkl").write_bytes(program)
    with pytest.raises(RunError, match="a text would take"):
        read_pickle(tmp_path / "a.pkl", frozenset())


def test_a_budget_is_spent():
    budget = Budget(100)
    budget.spend(GROWTH * 100 + FREE, "all of it")
    with pytest.raises(RunError, match="one more would take 1 bytes"):
        budget.spend(1, "one more")


def test_arrays_of_safetensors_are_views_of_one_reading(tmp_path):
    """Whatever their number, the file is read once and nothing is copied."""
    arrays = {f"{i:03}": np.full((2, i), i, np.float32) for i in range(100)}
    write_safetensors(tmp_path / "a.safetensors", arrays)
    read = read_safetensors(tmp_path / "a.safetensors")

    def buffer(array):
        while isinstance(array.base, np.ndarray):
            array = array.base
        return array.base

    assert len({id(buffer(array)) for array in read.values()}) == 1
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"norm_eps": "x"}, "norm_eps is 'x', expected a number above 0"),
        ({"sample_size": -4}, "sample_size is -4, expected a whole number from 1"),
        ({"layers_per_block": 10**6}, "layers_per_block is 1000000, expected a whole number from 1 to 1000"),
        ({"layers_per_block": 900}, "asks for 900 blocks at each of 1 levels, but there are only"),
        ({"dropout": 1}, "dropout is 1, expected a number from 0 to below 1"),
        ({"_class_name": "UNet2DConditionModel"}, "_class_name is 'UNet2DConditionModel', expected UNet2DModel"),
        ({"down_block_types": []}, r"down_block_types is \[\], expected a list of 1 to 16"),
        ({"block_out_channels": [8, 8]}, "1 down_block_types, 1 up_block_types and 2 block_out_channels"),
    ],
)  # fmt: skip
def test_a_setting_is_told_by_its_value_and_what_was_expected(change, message, tmp_path):
    write_safetensors(tmp_path / "a.safetensors", {"a": np.zeros(1, np.float32)})
    (tmp_path / "config.json").write_text(json.dumps(UNET2D | change))
    with pytest.raises(RunError, match=rf"config\.json.*{message}"):
        FORMATS["diffusers"](tmp_path / "a.safetensors", None)


def test_old_names_and_unknown_settings_of_a_unet2dmodel_are_read():
    old = {
        "down_block_types": ["UNetResDownBlock2D"],
        "up_block_types": ["UNetResUpBlock2D"],
        "_diffusers_version": "0.0.4",
        "of_another_version": {"a": 1},
    }
    assert network(UNET2D | old) == network(UNET2D)


@pytest.mark.parametrize("step", [-5, float("inf"), float("nan"), 1e30, 2.5, "3", None, True, [3]])
def test_a_step_is_a_whole_number(step, networks, tmp_path):
    weights = {"module.a": np.zeros(1, np.float32)}
    ema = {"shadow_params": [np.zeros(1, np.float32)]}
    write_pth(tmp_path / "a.pth", {"model": weights, "ema": ema, "step": step})
    with pytest.raises(RunError, match=r"a\.pth: the training step is .*, expected a whole number"):
        FORMATS["score_sde_pytorch"](tmp_path / "a.pth", str(networks / "ddpm.config.json"))


def test_weights_that_are_not_finite_are_named(networks, tmp_path):
    with np.load(networks / "ddpm.npz") as file:
        weights = {name: file[name] for name in file.files if name.startswith("param/")}
    for value in (np.nan, np.inf):
        weights["param/all_modules.2.bias"] = np.full_like(
            weights["param/all_modules.2.bias"], value
        )
        np.savez(tmp_path / "a.npz", **weights)
        with pytest.raises(RunError, match=r"numbers in all_modules\.2\.bias that are not finite"):
            FORMATS["score_sde_pytorch"](tmp_path / "a.npz", str(networks / "ddpm.config.json"))


@pytest.mark.parametrize("name", ["config.json", "converted.json", "checkpoints"])
def test_nothing_is_written_over(name, networks, tmp_path):
    (tmp_path / name).write_text("mine")
    source, config = networks / "ddpm.npz", str(networks / "ddpm.config.json")
    with pytest.raises(RunError, match=f"already holds {name}, which would be written over"):
        convert(source, "score_sde_pytorch", tmp_path, config)
    with pytest.raises(RunError, match="is a file; name a folder"):
        convert(source, "score_sde_pytorch", tmp_path / name, config)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["config.json", "diffusion_pytorch_model.safetensors"])
def test_an_export_writes_nothing_over_either(name, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunError, match=f"already holds {name}"):
        export(tmp_path / "run", tmp_path)
    assert (tmp_path / name).read_text() == "mine"
