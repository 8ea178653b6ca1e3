"""A run in one file: elsewhere it is bitwise the run; a damaged or hostile one is refused."""

import io
import json
import shutil
import sys
import zipfile

import jax
import numpy as np
import pytest

from experiments.convert import Converted, open_exported, write_run
from experiments.convert.__main__ import main as convert_main
from experiments.errors import RunError
from experiments.modes.dequantise import FOLDER, Dequantiser, restore_dequantiser
from experiments.modes.export import EXPORT, export
from experiments.modes.fit import with_fits
from experiments.modes.sample import draw
from experiments.modes.train import train
from experiments.run.guidance import guided
from experiments.run.loading import load, restore_run
from experiments.state import init_state
from experiments.storage.checkpoint import Checkpoints
from experiments.storage.exported import as_json, pack, read_exported, write_exported
from experiments.storage.jobs import NOTE

FIT = {
    "name": "FewSteps",
    "noise_levels": [2.0, 1.0, 0.0],
    "network_levels": [2.0, 1.0],
    "weights": [[1.0, 0.0], [0.5, 0.5]],
}


@pytest.fixture(scope="module")
def exported_once(trained_once, tmp_path_factory):
    """The file of the tiny run, elsewhere and under another name."""
    workdir = shutil.copytree(trained_once, tmp_path_factory.mktemp("exporting") / "run")
    evaluation = {"checkpoint": 20, "weights": load(workdir).weights, "samplers": {"a": {"nfe": 6}}}
    (workdir / "evaluation.json").write_text(json.dumps(evaluation))
    (workdir / "samples" / "ddim").mkdir(parents=True)
    (workdir / "samples" / "ddim" / "grid.png").write_bytes(b"a picture")
    export(load(workdir), workdir)
    return shutil.move(workdir / EXPORT, tmp_path_factory.mktemp("elsewhere") / "points.sde")


@pytest.fixture
def file(exported_once, tmp_path):
    return shutil.copy(exported_once, tmp_path / "points.sde")


def same(a, b):
    """Check that two trees of arrays are bitwise the same."""
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y, strict=True), a, b)


def changed(file, change):
    """Write a file again after a change of its parts; its hashes are those of the parts."""
    exported = read_exported(file)
    parts = dict(exported.parts)
    change(parts)
    write_exported(file, exported.step, exported.weights, parts)


def test_an_exported_run_is_bitwise_the_run_wherever_it_is_opened(trained_once, exported_once):
    loaded = load(trained_once)
    again = load(exported_once)
    same(again.denoiser.net.params, loaded.denoiser.net.params)
    x = jax.random.normal(jax.random.key(0), (16, 2))
    same(again.denoiser(x, 0.3), loaded.denoiser(x, 0.3))
    setting = loaded.config.samplers.ddim
    drawn = [draw(run.run, run.denoiser, setting, np.arange(8)).x for run in (loaded, again)]
    same(*drawn)
    assert again[4:6] == loaded[4:6] == (20, loaded.weights)  # step and weights
    assert again.config == loaded.config and again.sde == loaded.sde
    assert load(str(exported_once), step=20).step == 20
    with pytest.raises(RunError, match="holds the weights of step 20 and no others, not 10"):
        load(exported_once, step=10)


def test_a_file_holds_plain_parts_that_any_numpy_reads_and_no_optimiser(
    trained_once, exported_once
):
    with np.load(exported_once, allow_pickle=False) as arrays:
        weights = {name: arrays[name] for name in arrays.files if name.startswith("weights/")}
    leaves = jax.tree.leaves(load(trained_once).denoiser.net.params)
    assert sorted(a.tobytes() for a in weights.values()) == sorted(
        np.asarray(leaf).tobytes() for leaf in leaves
    )
    others = {name for name in read_exported(exported_once).parts} - {f"{n}.npy" for n in weights}
    assert others == {
        "card.md", "config.json", "evaluation.json", "metrics.jsonl", "samples/ddim/grid.png",
        "training.json",
    }  # fmt: skip
    card = read_exported(exported_once).parts["card.md"].decode()
    assert card.startswith("# Score-based model of Toy") and "(samples/ddim/grid.png)" in card


def test_a_run_is_exported_to_the_same_bytes_and_never_over_what_is_not_ours(trained):
    export(load(trained), trained)
    before = (trained / EXPORT).read_bytes()
    export(load(trained), trained)
    assert (trained / EXPORT).read_bytes() == before
    (trained / EXPORT).write_bytes(b"precious")
    with pytest.raises(RunError, match="is no exported run, or it is damaged; move it away"):
        export(load(trained), trained)
    assert (trained / EXPORT).read_bytes() == b"precious"


def test_the_command_line_exports_and_a_file_is_named_as_no_folder(trained, in_process):
    result = in_process("--mode=export", f"--workdir={trained}")
    assert result.code == 0, result.err
    assert "step 20 of the run is in" in result.out and "experiments.load(" in result.out
    result = in_process("--mode=sample", f"--workdir={trained / EXPORT}")
    assert result.code == 1 and "python -m experiments.convert --from=" in result.err
    result = in_process("--mode=export", f"--workdir={trained}", "--config.seed=5")
    assert result.code == 1 and "has no effect on --mode=export" in result.err


def test_fitted_solvers_are_samplers_of_the_file(trained, tmp_path):
    (trained / "fits").mkdir()
    made_for = {"checkpoint": 20, "weights": "", "config": "", "sde": {"name": "VP"}}
    content = {"setting": FIT, "made_for": made_for, "quality": {}}
    (trained / "fits" / "mine.json").write_text(json.dumps(content))
    export(with_fits(load(trained), trained), trained)
    again = load(trained / EXPORT)
    assert json.loads(again.config.samplers.mine.to_json()) == FIT
    imported = tmp_path / "imported"
    open_exported(trained / EXPORT, imported)
    assert "mine" in with_fits(load(imported), imported).config.samplers


def test_a_damaged_file_is_refused_or_what_it_was(file, exported_once):
    whole = file.read_bytes()
    expected = load(exported_once)
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(RunError, match=r"points\.sde is no exported run, or it is damaged"):
            load(file)
    refused = 0
    places = range(0, len(whole), max(1, len(whole) // 60))
    for at in places:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        try:
            again = read_exported(file)
        except RunError as error:
            assert "points.sde" in str(error)
            refused += 1
            continue
        assert again.parts == read_exported(exported_once).parts and again.step == expected.step
    assert refused > 0.8 * len(places)


def write_archive(file, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)


def manifest_of(**changes):
    facts = {"format": "run of score-sde-toolkit", "version": 1, "step": 1, "weights": "a"}
    return as_json({**facts, "parts": {}, **changes})


@pytest.mark.parametrize(
    "manifest, message",
    [
        (b"[]", "not of an exported run"),
        (b"{", "no exported run, or it is damaged"),
        (manifest_of(format="other"), "not of an exported run"),
        (manifest_of(version=2), "of version 2, this package reads version 1; take the package"),
        (manifest_of(step="x"), "its manifest has no step"),
        (manifest_of(parts={"config.json": "0"}), "is damaged: config.json changed since"),
        (manifest_of(), "config.json of .* is damaged"),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(tmp_path, manifest, message):
    write_archive(tmp_path / "x.zip", [("manifest.json", manifest)])
    with pytest.raises(RunError, match=message):
        load(tmp_path / "x.zip")


def test_an_archive_that_could_fill_the_memory_is_refused(file, tmp_path):
    parts = [("manifest.json", manifest_of()), ("a", b"0" * 10**6)]
    write_archive(tmp_path / "x.zip", parts, zipfile.ZIP_DEFLATED)
    with pytest.raises(RunError, match="was packed by another program"):
        load(tmp_path / "x.zip")
    with pytest.warns(UserWarning, match="Duplicate name"):
        write_archive(tmp_path / "x.zip", [("a", b"0"), ("a", b"1")])
    with pytest.raises(RunError, match="two parts of one name"):
        load(tmp_path / "x.zip")


def array_of(content):
    return np.load(io.BytesIO(content), allow_pickle=False)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=array.dtype == object)
    return buffer.getvalue()


def weight(parts):
    """Return the name of one part that holds weights."""
    return max(name for name in parts if name.startswith("weights/"))


def lose(parts):
    del parts[weight(parts)]


def add(parts):
    parts["weights/more.npy"] = npy(np.zeros(3, np.float32))


def widen(parts):
    config = json.loads(parts["config.json"])
    config["net"]["width"] = 16
    parts["config.json"] = as_json(config)


def poison(parts):
    array = array_of(parts[weight(parts)]).copy()
    array.flat[0] = np.nan
    parts[weight(parts)] = npy(array)


def double(parts):
    parts[weight(parts)] = npy(array_of(parts[weight(parts)]).astype(np.float64))


def pickle_it(parts):
    parts[weight(parts)] = npy(np.array([print], object))


def name_foreign_code(parts):
    config = json.loads(parts["config.json"])
    config["net"]["name"] = "antigravity:Net"
    parts["config.json"] = as_json(config)


def break_config(parts):
    config = json.loads(parts["config.json"])
    del config["sde"]
    parts["config.json"] = as_json(config)


def name_no_network(parts):
    config = json.loads(parts["config.json"])
    config["net"]["name"] = "Nothing"
    parts["config.json"] = as_json(config)


@pytest.mark.parametrize(
    "change, message",
    [
        (lose, r"does not fit the network of its configuration: weights/.* is missing"),
        (add, r"does not fit the network .*weights/more\.npy is not a part of it"),
        (widen, r"does not fit the network .* is float32\[.* there, float32\[.* here"),
        (poison, r"weights/.* hold 1 numbers that are not finite"),
        (double, r"is float64\[.* there, float32\[.* here"),
        (pickle_it, r"weights/.* is no array .*allow_pickle=False"),
        (name_foreign_code, r"names code that is not part of this package.*trust=True"),
        (break_config, r"config\.json of .* is damaged: config\.sde is missing"),
        (name_no_network, r"config\.json of .* cannot be used: .*'Nothing'"),
    ],
)
def test_a_file_that_is_whole_and_wrong_is_refused(file, tmp_path, change, message):
    changed(file, change)
    with pytest.raises(RunError, match=message):
        load(file)
    with pytest.raises(RunError, match="'Nothing'" if change is name_no_network else message):
        open_exported(file, tmp_path / "new")
    assert not (tmp_path / "new").exists() and "antigravity" not in sys.modules


def test_weights_that_are_not_finite_or_not_plain_are_not_exported():
    with pytest.raises(RunError, match="the weights a hold 2 numbers that are not finite"):
        pack({"a": np.array([np.nan, 1.0, np.inf], np.float32)})
    with pytest.raises(RunError, match="the weights a are of type bfloat16"):
        pack({"a": np.asarray(jax.numpy.ones(2, jax.numpy.bfloat16))})


def test_a_run_directory_made_of_a_file_is_one_for_every_mode(
    exported_once, trained_once, tmp_path, monkeypatch, capsys, tiny_config
):
    workdir = tmp_path / "again"
    flags = ["convert", f"--from={exported_once}", f"--workdir={workdir}"]
    monkeypatch.setattr(sys, "argv", flags)
    monkeypatch.setattr("experiments.convert.__main__.set_up_jax", lambda: None)
    convert_main()
    assert f"--workdir={workdir} --mode=sample" in capsys.readouterr().out
    again = load(workdir)
    same(again.denoiser.net.params, load(trained_once).denoiser.net.params)
    assert again.step == 20 and (workdir / "samples/ddim/grid.png").read_bytes() == b"a picture"
    card = (workdir / "card.md").read_text()
    assert "640 examples" in card and "Measured of the weights of step 20." in card
    assert "not the newest" not in card and "wall time | not known" not in card
    with pytest.raises(RunError, match="already holds a run"):
        open_exported(exported_once, workdir)
    config = tiny_config()
    config.train.steps = 22
    train(config, workdir)
    assert (
        load(workdir).step == 22 and "**not the newest ones**" in (workdir / "card.md").read_text()
    )


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json", "/evil", "samples/../evil.json", "samples/../../grid.png",
        "samples/.x/grid.png", "fits/a.json", "error.txt", "job.json", "samples/a/b/grid.png",
        "samples\\..\\grid.png", "evaluation.json/evil", "samples",
    ],
)  # fmt: skip
def test_a_part_that_is_no_result_is_not_written(file, tmp_path, name):
    changed(file, lambda parts: parts.update({name: b"evil"}))
    workdir = tmp_path / "deep" / "new"
    open_exported(file, workdir)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.read_bytes() == b"evil"]


def test_what_lies_in_the_folder_is_not_written_over(file, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "evaluation.json").write_text("precious")
    with pytest.raises(RunError, match=r"already holds evaluation\.json"):
        open_exported(file, tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["evaluation.json"]


def test_a_classifier_is_exported_and_guides(trained_once, tmp_path, tiny_config, in_process):
    config = tiny_config()
    config.net = {"name": "VectorClassifier", "width": 8, "depth": 1}
    config.objective.name = "classifier"
    config.train.steps = 2
    workdir = tmp_path / "classifier"
    train(config, workdir)
    assert in_process("--mode=export", f"--workdir={workdir}").code == 0
    again = load(workdir / EXPORT)
    assert again.denoiser is None
    same(again.classifier.net.params, load(workdir).classifier.net.params)
    loaded = load(trained_once)
    guidance = {"name": "ClassifierGuidance", "classifier": str(workdir / EXPORT), "scale": 1.0}
    config = loaded.config.copy_and_resolve_references().unlock()
    config.guidance = guidance
    steered = guided(loaded._replace(run=loaded.run._replace(config=config)))
    assert steered.identity["classifier_weights"] == load(workdir).weights


def test_the_weights_of_noise_levels_come_back_for_training(tmp_path, tiny_config):
    config = tiny_config()
    config.objective.uncertainty = True
    config.train.steps = 2
    train(config, tmp_path / "run")
    export(load(tmp_path / "run"), tmp_path / "run")
    open_exported(tmp_path / "run" / EXPORT, tmp_path / "again")
    same(
        load(tmp_path / "again").denoiser.net.params,
        load(tmp_path / "run").denoiser.net.params,
    )


def test_a_dequantiser_travels_with_its_run(tmp_path, image_run):
    untrained = image_run()
    params = jax.tree.map(np.asarray, untrained.denoiser.net.params)
    workdir = tmp_path / "run"
    run = write_run(Converted(untrained.config, params, params, 3), workdir)
    loaded = restore_run(run, workdir)
    flow = Dequantiser(loaded, width=4, layers=2)
    state = init_state(jax.random.key(0), flow.split.params, flow.tx)
    with Checkpoints(workdir / FOLDER) as checkpoints:
        checkpoints.save(7, state, None)
    (workdir / FOLDER / NOTE).write_text(json.dumps({"width": 4, "layers": 2}))
    export(loaded, workdir)
    open_exported(workdir / EXPORT, tmp_path / "again")
    again = restore_dequantiser(load(tmp_path / "again"), tmp_path / "again")
    same(again.params, restore_dequantiser(loaded, workdir).params)
    assert again.dequantiser.settings == {"width": 4, "layers": 2}
