"""Damaged, hostile and unlucky files of every format: each is read right, or refused in one message
that names it.

A format is one entry of `CASES`: a small file of it, as plain data and how they are written. It is
then cut off at many places, its bytes are changed, and each of its values is replaced by many that
cannot stand there.
"""

import copy
import functools
import json
import struct
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax.serialization import msgpack_serialize

from experiments.convert import FORMATS, formats, rules
from experiments.convert.diffusers import network as unet2d
from experiments.convert.diffusers_weights import diffusers_rules
from experiments.convert.edm import edm_rules, settings_of
from experiments.convert.safetensors import write_safetensors
from experiments.convert.score_sde import jax_rules, pytorch_rules
from experiments.convert.settings import network
from experiments.errors import RunError
from tests.experiments.convert.foreign_files import write_old_pth, write_pth
from tests.experiments.convert.test_edm import SONG, build
from tests.experiments.convert.test_edm_snapshot import dump  # noqa: F401
from tests.experiments.convert.test_score_sde import numbered

WRONG = [None, [], {}, "x", -5, float("inf"), float("nan"), 1e30, True, [[]], {"a": None}]
CUTS, CHANGES, EACH = 20, 50, 4
UNET2D = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": [8],
    "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "norm_num_groups": 4,
    "add_attention": False, "attention_head_dim": None, "num_class_embeds": None, "norm_eps": 1e-5,
}  # fmt: skip
ALONE = {"channel_mult": [1], "attn_resolutions": [], "in_channels": 1, "sigma_data": 0.5}


class Written(NamedTuple):
    """A foreign file, its configuration, and which of the two is damaged."""

    path: Any
    spec: str | None
    damaged: Any


class Case(NamedTuple):
    """A small file of a format."""

    format: str
    holds: Any  # what it holds, as plain data
    write: Any  # (folder, holds) -> Written


@pytest.fixture(scope="module", autouse=True)
def networks_made_once():
    """Make each network once: what is tested is which one a file asks for, not how it is made."""
    made, make = {}, formats.abstract_network

    def abstract_network(config):
        key = config.net.to_json(), config.facts.to_json(), config.train.conditional
        if key not in made:
            made[key] = make(config)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "abstract_network", abstract_network)
        patch.setattr(formats, "template_of", functools.cache(formats.template_of))
        yield


def score_sde_config(networks):
    config = json.loads((networks / "ncsnpp_ve_cifar.config.json").read_text())
    model = {"nf": 8, "ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": []}
    config["model"] |= model | {"progressive": "none", "progressive_input": "none"}
    config["data"] |= {"image_size": 8, "num_channels": 1}
    return config


@pytest.fixture
def case(request, networks, dump, tmp_path):  # noqa: F811
    """Return the case of a name."""
    theirs = score_sde_config(networks)
    (tmp_path / "theirs.json").write_text(json.dumps(theirs))
    spec = str(tmp_path / "theirs.json")

    def net_of(settings, size=8):
        settings = {
            k: v for k, v in settings.items() if k not in ("shape", "num_classes", "sigma_data")
        }
        return build(settings | {"name": "UNet"})((size, size, 1), 0)

    def by(write, name, spec=spec):
        def written(folder, holds):
            write(folder / name, holds)
            return Written(folder / name, spec, folder / name)

        return written

    def configuration(write, name):
        def written(folder, holds):
            path, spec, _ = write(folder)
            (folder / name).write_text(json.dumps(holds))
            return Written(path, spec, folder / name)

        return written

    def write_npz(path, holds):
        np.savez(path, **{f"param/{k}": np.asarray(v) for k, v in holds.items()})

    def write_msgpack(path, holds):
        path.write_bytes(msgpack_serialize(holds))

    def write_header(path, holds):
        header = json.dumps(holds["header"]).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + holds["numbers"])

    @functools.cache
    def torch_state():
        net = net_of(network(theirs))
        weights = rules.write(pytorch_rules(net), numbered(net))
        trained = [w for k, w in weights.items() if k != "all_modules.0.W"]
        ema = {"decay": 0.999, "num_updates": 3, "shadow_params": trained}
        group = {"lr": np.float64(2e-4), "params": [0]}
        optimizer = {"state": {0: {"step": 3, "exp_avg": trained[0]}}, "param_groups": [group]}
        return {"optimizer": optimizer, "model": weights, "ema": ema, "step": 3}

    @functools.cache
    def jax_state():
        net = net_of(network(theirs))
        flat = rules.write(jax_rules(net, {}), numbered(net))
        tree: dict = {}
        for name, array in flat.items():
            *parents, last = name.split(".")
            functools.reduce(lambda node, key: node.setdefault(key, {}), parents, tree)[last] = (
                array
            )
        return {"optimizer": {"target": tree}, "params_ema": tree, "step": np.int32(3)}

    @functools.cache
    def unet2d_weights():
        net = net_of(unet2d(UNET2D))
        return rules.write(diffusers_rules(net, True), numbered(net))

    def safetensors_of(folder):
        write_safetensors(folder / "net.safetensors", unet2d_weights())
        return Written(folder / "net.safetensors", None, None)

    def header_and_numbers():
        data = safetensors_of(tmp_path).path.read_bytes()
        (tmp_path / "config.json").write_text(json.dumps(UNET2D))
        (length,) = struct.unpack("<Q", data[:8])
        return {"header": json.loads(data[8 : 8 + length]), "numbers": data[8 + length :]}

    def npz_of(folder):
        write_npz(folder / "net.npz", torch_state()["model"])
        return Written(folder / "net.npz", spec, None)

    @functools.cache
    def song_weights():
        net = net_of(settings_of("SongUNet", SONG | ALONE, {}))
        return rules.write(edm_rules(net), numbered(net))

    def write_snapshot(path, holds):
        path.write_bytes(dump(song_weights(), holds))

    cases = {
        "pytorch": lambda: Case("score_sde_pytorch", torch_state(), by(write_pth, "a.pth")),
        "pytorch, older": lambda: Case("score_sde_pytorch", torch_state(), by(write_old_pth, "a.pth")),
        "npz": lambda: Case("score_sde_pytorch", torch_state()["model"], by(write_npz, "a.npz")),
        "msgpack": lambda: Case("score_sde", jax_state(), by(write_msgpack, "checkpoint_3")),
        "safetensors": lambda: Case(
            "diffusers", header_and_numbers(), by(write_header, "a.safetensors", None)
        ),
        "bin": lambda: Case(
            "diffusers", header_and_numbers() and unet2d_weights(), by(write_pth, "a.bin", None)
        ),
        "edm": lambda: Case("edm", SONG | ALONE, by(write_snapshot, "net.pkl", None)),
        "config.json": lambda: Case("diffusers", UNET2D, configuration(safetensors_of, "config.json")),
        "score_sde's": lambda: Case("score_sde_pytorch", theirs, configuration(npz_of, "theirs.json")),
    }  # fmt: skip
    return cases[request.param]()


BINARY = ["pytorch", "pytorch, older", "npz", "msgpack", "safetensors", "bin", "edm"]
SETTINGS = ["config.json", "score_sde's"]


def attempt(format, written):
    """Read a file: return the result, or None where it was refused as it should be."""
    try:
        converted = FORMATS[format](written.path, written.spec)
    except RunError as error:
        assert str(written.damaged) in str(error)
        assert len(str(error)) < 3000
        return None
    assert isinstance(converted.step, int) and 0 <= converted.step < 2**31
    for leaf in jax.tree.leaves((converted.params, converted.ema)):
        assert leaf.dtype == np.float32 and np.isfinite(leaf).all()
    return converted


def places(tree, most, path=()):
    """Yield the places in nested containers: the first ones, at `most` so many, of each."""
    items = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in list(items)[:most]:
        yield (*path, key)
        yield from places(value, most, (*path, key))


def test_every_format_is_among_the_cases():
    """A new format brings a case of its own."""
    assert set(FORMATS) == {"score_sde_pytorch", "score_sde", "diffusers", "edm"}


@pytest.mark.parametrize("case", [*BINARY, *SETTINGS], indirect=True)
def test_a_sound_file_is_read_and_a_cut_or_changed_one_is_read_or_refused(case, tmp_path):
    written = case.write(tmp_path, case.holds)
    assert attempt(case.format, written) is not None
    sound = written.damaged.read_bytes()
    lengths = {*np.linspace(0, len(sound) - 1, CUTS).astype(int), 1, 2, 7, 8, 9, len(sound) - 2}
    for length in lengths:
        written.damaged.write_bytes(sound[:length])
        cut = attempt(case.format, written)
        # behind its numbers an archive only has their table of contents; nothing else can be missed
        assert cut is None or sound[length:].strip() in (b"", b".")
    rng = np.random.default_rng(0)
    for place in {
        *rng.integers(0, len(sound), CHANGES // 2),
        *rng.integers(0, min(len(sound), 400), CHANGES // 2),
    }:
        changed = bytearray(sound)
        changed[place] = rng.integers(256)
        written.damaged.write_bytes(changed)
        attempt(case.format, written)


@pytest.mark.parametrize(
    "case",
    ["pytorch", "pytorch, older", "msgpack", "safetensors", "edm", *SETTINGS],
    indirect=True,
)
def test_a_value_that_cannot_stand_there_is_refused_by_the_name_of_the_file(
    case, request, tmp_path
):
    for i, place in enumerate(
        places(
            case.holds, 99 if request.node.callspec.params["case"] in (*SETTINGS, "edm") else EACH
        )
    ):
        for wrong in (WRONG * 2)[4 * i % len(WRONG) :][:4]:  # all of them within three places
            holds = copy.deepcopy(case.holds)
            *parents, last = place
            functools.reduce(lambda node, key: node[key], parents, holds)[last] = wrong
            try:
                written = case.write(tmp_path, holds)
            except (TypeError, ValueError):  # not even the format can hold it
                continue
            attempt(case.format, written)


@pytest.mark.parametrize("case", SETTINGS, indirect=True)
@pytest.mark.parametrize(
    "text",
    [
        "null",
        "5",
        "[]",
        "[[[[",
        "[" * 100_000,
        '{"model": null}',
        "",
        "\xff",
        '{"a": ' + "9" * 5000 + "}",
    ],
)
def test_a_configuration_that_is_none_is_refused(case, text, tmp_path):
    written = case.write(tmp_path, case.holds)
    written.damaged.write_text(text, "latin1")
    with pytest.raises(RunError):
        FORMATS[case.format](written.path, written.spec)
    attempt(case.format, written)
