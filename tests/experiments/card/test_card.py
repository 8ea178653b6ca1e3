"""The model card says what lies in the run directory, and nothing that is torn ends a mode."""

import json
import shutil

import jax
import numpy as np
import pytest

from experiments.card import page
from experiments.card.page import make_card, update_card
from experiments.card.tables import measured, number, scalars, table, with_error
from experiments.modes.train import train
from experiments.run.environment import processor
from experiments.run.loading import load
from experiments.storage.checkpoint_folder import folder_of, weights_hash
from experiments.storage.training_record import (
    TrainingClock,
    read_training,
    record_start,
    seconds_at,
)


def section(card, title):
    """Return the lines of one section."""
    (text,) = [part for part in card.split("\n## ") if part.startswith(f"{title}\n")]
    return text.splitlines()[2:]


def cells(card, title):
    """Return the rows of the tables of a section by their first cells."""
    rows = [line.strip("|").split(" | ") for line in section(card, title) if line.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def write(workdir, name, value):
    path = workdir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def identity(workdir):
    """Return what a result of the newest weights says of them."""
    return {"checkpoint": 20, "weights": weights_hash(folder_of(workdir, 20))}


def test_training_leaves_a_card_that_says_what_was_trained(trained_once):
    card = (trained_once / "card.md").read_text()
    assert card.startswith("# Score-based model of Toy (mixture)\n")
    assert "MLP on the process VP: points in 2 dimensions, trained for 20 steps." in card
    data = cells(card, "Data")
    assert data["licence"] == ["none needed"] and data["classes"] == ["8"]
    assert data["split `train`, trained on"] == ["640 examples"]
    assert data["split `validation`, held out while training"] == ["64 examples"]
    training = cells(card, "Network and training")
    params = load(trained_once).run.split.params
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
    assert training["parameters"] == [f"{count:,}"] and training["steps"] == ["20 of 20"]
    seconds = json.loads((trained_once / "metrics.jsonl").read_text().splitlines()[-1])
    assert training["wall time"][0].startswith(f"{seconds['train/seconds']:,.0f} s")
    assert training["0"][0].endswith("cpu devices") and f"jax {jax.__version__}" in training["0"][2]
    settings = cells(card, "Configuration")
    assert settings["`net.width`"] == ["`8`", ""]
    assert settings["`optim.lr`"] == ["`0.01`", "`0.0002`"]
    assert "`seed`" not in settings and "`denoiser.sigma_data`" not in settings
    assert not any(name.startswith("`facts") for name in settings)
    for title in ("Likelihood", "Samples compared with real data", "Memorisation"):
        assert "yet: `--mode=" in section(card, title)[0]
    assert "Restoration" not in card and str(trained_once) not in card


def test_a_card_depends_on_the_files_alone_and_comes_back(trained_once, trained):
    before = (trained_once / "card.md").read_bytes()
    (trained / "card.md").unlink()
    update_card(trained)
    assert (trained / "card.md").read_bytes() == before


def test_the_command_that_trained_is_shown(trained, tiny_config):
    config = tiny_config()
    config.train.steps = 22
    train(config, trained, command="python -m experiments.main --mode=train --config=mine.py")
    card = (trained / "card.md").read_text()
    assert "python -m experiments.main --mode=train --config=mine.py" in section(
        card, "How to make it again"
    )
    assert [start["step"] for start in read_training(trained)["starts"]] == [0, 20]
    assert cells(card, "Network and training")["steps"] == ["22 of 22"]


SCORES = {
    "guidance": {"name": "ClassifierFree", "scale": 2.0},
    "nfe": 20,
    "seconds": 12.34,
    "one_nn_train": {"value": 0.6123, "std_error": 0.0123},
    "kernel": {
        "features": {"value": 0.0123, "std_error": 0.004, "low": 0.0, "high": 0.02, "level": 0.95}
    },
    "frechet": {"at_n": 3.21987, "sizes": [1, 2]},
    "copies": 3,
    "nearest_train_median": 1.5,
    "undefined": None,
    "memorised": {"samples": 500, "copies": 1, "value": 0.02, "std_error": 0.0063},
    "features": {
        "images": 1000,
        "frechet_train": {"value": 4.5, "infinite": 4.125, "infinite_std_error": 0.25},
        "accuracy": {"value": 0.9, "std_error": 0.01},
    },
}


def test_every_number_of_an_evaluation_is_shown_with_its_error(trained):
    report = {
        **identity(trained),
        "samplers": {"ddim": SCORES, "pc": {"nfe": 1000}},
        "features": {"extractor": "feature_network abc"},
        "floor": {"one_nn_train": {"value": 0.5, "std_error": 0.02}, "copies": 0},
    }
    write(trained, "evaluation.json", report)
    card = make_card(trained)
    rows = cells(card, "Samples compared with real data")
    assert rows[""] == ["`ddim`", "`pc`", "real data"]
    assert rows["network evaluations a sample"] == ["20", "1,000", ""]
    assert rows["time for all samples, s"] == ["12.34", "", ""]
    accuracy = rows["1-NN accuracy, training data (0.5: the same)"]
    assert accuracy == ["0.612 ± 0.012", "", "0.500 ± 0.020"]
    assert rows["kernel, features"][0] == "0.0123 ± 0.0040 (0 to 0.02, 95%)"
    assert rows["frechet, at n"][0] == "3.22" and rows["undefined"][0] == "not known"
    assert not any("scale" in name or "sizes" in name or "copies" in name for name in rows)
    assert rows["in features: Frechet distance, training data"][0] == "4.5"
    assert rows["in features: the same of infinitely many samples"][0] == "4.12 ± 0.25"
    assert rows["in features: share of the class that was asked for"][0] == "0.900 ± 0.010"
    memory = cells(card, "Memorisation")
    copies = memory["share of samples that are copies, by their pixels"][0]
    assert copies == "0.0200 ± 0.0063" and memory["exact copies among these"][0] == "1"
    assert memory["exact copies of training examples"] == ["3", "", "0"]
    assert memory["median distance to the nearest training example, raw values"][0] == "1.5"
    assert "Measured of the weights of step 20. The features are those of `feature_" in card


def test_results_of_other_weights_say_so(trained):
    write(
        trained, "evaluation.json", {**identity(trained), "weights": "0", "samplers": {"a": SCORES}}
    )
    text = section(make_card(trained), "Samples compared with real data")[0]
    assert text == "Measured of the weights of step 20, which are **not the newest ones**."


LIKELIHOOD = {
    "split": "test",
    "images": 64,
    "bits_per_dim": 1.93812,
    "std_error": 0.0163,
    "probe_std_error": 0.0061,
    "refinement": -0.0004,
    "prior_mismatch": 0.0001,
    "bound": 1.957,
    "bound_std_error": 0.02,
    "nfe": 80,
    "seconds": 33.0,
}
CHECKS = [
    {"name": "slope of the noise", "good": True, "finding": "1.01 at 0.1"},
    {"name": "calibration", "good": False, "finding": "2.2 at 0.5"},
]
RESTORED = {
    "method": "jfps",
    "operator": {"name": "Pool"},
    "std": 0.05,
    "observations": 3,
    "samples": 8,
    "nfe": 100,
    "psnr": [20.0, 21.0, 22.0],
}


def test_likelihoods_health_fits_and_restorations_are_shown(trained):
    ours = identity(trained)
    write(trained, "likelihood/test/summary.json", ours | LIKELIHOOD)
    memory = {"samples": 2.0, "held_out": 3.0, "training": 2.5, "copies": 0.125}
    write(trained, "diagnose/report.json", ours | {"checks": CHECKS, "memorisation": memory})
    quality = {"start": 0.5, "distance": 0.0625, "seconds": 9.0}
    write(trained, "fits/fit5.json", {"made_for": ours, "quality": quality})
    write(trained, "restored/jfps/summary.json", ours | RESTORED)
    card = make_card(trained)
    bits = cells(card, "Likelihood")
    assert bits["split"] == ["`test`, 64 examples"]
    assert bits["by the flow, ± over examples"] == ["1.938 ± 0.016"]
    assert bits["of it from the estimated trace"] == ["± 0.0061"]
    assert bits["variational bound, ± over examples"] == ["1.957 ± 0.020"]
    assert bits["refinement of the solver"] == ["-0.0004"]
    health = [line for line in section(card, "Health of the score") if "calibration" in line]
    assert health == ["| **fails** | calibration | 2.2 at 0.5 |"]
    assert "12.5% of the samples are nearer" in section(card, "Memorisation")[0]
    assert cells(card, "Memorisation")["held-out data"] == ["3"]
    assert cells(card, "Solvers for few evaluations")["`fit5`"][:3] == ["0.5", "0.0625", "9"]
    assert cells(card, "Restoration")["`jfps`"][2] == "21.00 ± 0.58"  # 1 / sqrt(3)
    assert "- The health report found: calibration, 2.2 at 0.5." in section(card, "Limits")


def test_pictures_are_linked_those_of_the_configured_sampler_first(trained):
    (trained / "samples" / "train_0000010.png").parent.mkdir(exist_ok=True)
    for name in ("train_0000010.png", "train_0000020.png"):
        (trained / "samples" / name).write_bytes(b"")
    assert section(make_card(trained), "Samples")[0].endswith("(samples/train_0000020.png)")
    for name in ("a", "b", "c", "ddim"):
        (trained / "samples" / name).mkdir()
        (trained / "samples" / name / "grid.png").write_bytes(b"")
    summary = {"nfe": 6, "samples": 20, "seconds": 1.0, "guidance": {}}
    write(trained, "samples/ddim/summary.json", identity(trained) | summary)
    lines = section(make_card(trained), "Samples")
    assert lines[0] == "![samples by ddim](samples/ddim/grid.png)"
    assert lines[2].startswith("Samples by `ddim`, drawn at random: 6 network evaluations each, 20")
    shown = [line for line in lines if line.startswith("![")]
    assert len(shown) == 3 and lines[-1].endswith("[c](samples/c/grid.png)")
    for name in ("a.1", "v.2"):  # an earlier job of a, and a sampler with a point in its name
        (trained / "samples" / name).mkdir()
        (trained / "samples" / name / "grid.png").write_bytes(b"")
    last = section(make_card(trained), "Samples")[-1]
    assert last.endswith("[c](samples/c/grid.png), [v.2](samples/v.2/grid.png)")


TORN = {
    "training.json": "Data",
    "metrics.jsonl": None,
    "evaluation.json": "Samples compared with real data",
    "likelihood/test/summary.json": "Likelihood",
    "diagnose/report.json": "Health of the score",
    "fits/fit5.json": "Solvers for few evaluations",
    "restored/jfps/summary.json": "Restoration",
    "samples/ddim/summary.json": "Samples",
    "config.json": "Configuration",
    "checkpoints/20/arrays.json": "Network and training",
}


@pytest.mark.parametrize("content", ["", "[", "5", "{}", '{"samplers": 5, "starts": 5}', "\ud800"])
@pytest.mark.parametrize("name", TORN)
def test_a_torn_file_costs_its_section_and_nothing_else(trained, name, content):
    (trained / "samples" / "ddim").mkdir(parents=True, exist_ok=True)
    (trained / "samples" / "ddim" / "grid.png").write_bytes(b"")
    (trained / name).parent.mkdir(parents=True, exist_ok=True)
    (trained / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    (trained / "card.md").unlink()
    update_card(trained)
    card = (trained / "card.md").read_text()
    assert str(trained) not in card
    titles = [title for title, _ in page.SECTIONS if title]
    always = set(titles) - {"Solvers for few evaluations", "Restoration"}
    assert all(section(card, title) for title in always)
    broken = [title for title in titles if f"## {title}\n\n*This part cannot be read" in card]
    if name != "config.json":
        assert "Configuration" not in broken and "Intended use" not in broken
    if content in ("", "[", "5") and TORN[name]:
        assert TORN[name] in broken


def test_a_card_that_cannot_be_written_is_one_line_and_ends_nothing(
    trained, tiny_config, monkeypatch, capsys
):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page, "write_text", full)
    config = tiny_config()
    config.train.steps = 21
    train(config, trained)
    out = capsys.readouterr().out
    assert out.count("no model card (OSError: [Errno 28] No space left on device)") == 1
    assert load(trained).step == 21


def test_a_run_of_an_older_version_learns_the_size_of_its_data(trained, tiny_config):
    (trained / "training.json").unlink()
    update_card(trained)
    card = (trained / "card.md").read_text()
    assert cells(card, "Data")["licence"] == ["none needed"]
    assert cells(card, "Data")["split `train`, trained on"] == ["size not known"]
    train(tiny_config(), trained)
    card = (trained / "card.md").read_text()
    assert cells(card, "Data")["split `train`, trained on"] == ["640 examples"]
    assert "On which hardware it was trained is not known" in card


def test_seconds_go_on_where_a_run_goes_on(trained, tiny_config):
    lines = (trained / "metrics.jsonl").read_text().splitlines()
    values = [json.loads(line) for line in lines]
    seconds = [line["train/seconds"] for line in values]
    assert 0 < seconds[0] and seconds == sorted(seconds) and seconds_at(trained, 20) == seconds[-1]
    values[-1]["train/seconds"] = 5000.0
    (trained / "metrics.jsonl").write_text("".join(json.dumps(v) + "\n" for v in values))
    other = shutil.copytree(trained, trained.with_name("other"))
    config = tiny_config()
    config.train.steps = 22
    train(config, trained)
    assert 5000 < seconds_at(trained, 22) < 5600
    assert cells(make_card(trained), "Network and training")["wall time"][0].endswith(" s (1.4 h)")
    # of what is not known nothing is said, then or later
    (other / "metrics.jsonl").unlink()
    train(config, other)
    assert seconds_at(other, 22) is None
    assert cells(make_card(other), "Network and training")["wall time"] == ["not known"]


def test_seconds_are_those_of_the_checkpoint_and_of_no_other_line(tmp_path):
    assert seconds_at(tmp_path, 0) == 0 and seconds_at(tmp_path, 10) is None
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 10, "train/seconds": 3.5}\n{"step": 20, "train/seconds": 7.0}\n'
        '{"step": 30}\n{"step": 40, "train/sec'
    )
    assert [seconds_at(tmp_path, step) for step in (10, 20)] == [3.5, 7.0]
    assert [seconds_at(tmp_path, step) for step in (15, 25, 30, 40)] == [None] * 4
    assert TrainingClock(None).entry() == {}
    assert 100 <= TrainingClock(100.0).entry()["train/seconds"] < 160


def test_a_start_that_led_to_nothing_is_forgotten(tmp_path):
    data = {"licence": "MIT"}
    for step in (0, 20, 40):
        record_start(tmp_path, data, {"step": step, "try": 1})
    record_start(tmp_path, data, {"step": 20, "try": 2})
    assert read_training(tmp_path)["starts"] == [{"step": 0, "try": 1}, {"step": 20, "try": 2}]
    (tmp_path / "training.json").write_text("[")
    record_start(tmp_path, data, {"step": 60})
    assert read_training(tmp_path) == {"data": data, "starts": [{"step": 60}]}


def test_numbers_are_written_as_a_reader_takes_them():
    texts = {1300: "1,300", 0.23456: "0.2346", 12345.6: "12,346", None: "not known", True: "yes"}
    assert {value: number(value) for value in texts} == texts
    assert with_error(1.93812, 0.0163) == "1.938 ± 0.016"
    assert with_error(123.456, 12.0) == "123 ± 12" and with_error(2.0, 0.0) == "2"
    assert with_error(2.5, float("nan")) == "2.5" and with_error(None, 1.0) == "not known"
    assert measured({"value": 0.5, "low": 0.25, "high": 0.75}) == "0.5 (0.25 to 0.75)"
    nested = {"a": {"value": 1.0, "std_error": 0.1, "spread": 2.0}, "b": {"c": 3, "d": "x"}}
    assert scalars(nested) == {("a",): "1.00 ± 0.10", ("a", "spread"): "2", ("b", "c"): "3"}
    pairs = {"a": 1.0, "a_std_error": 0.1, "b_std_error": 0.5, "c": None, "c_std_error": None}
    assert scalars(pairs) == {("a",): "1.00 ± 0.10", ("b_std_error",): "0.5", ("c",): "not known"}
    assert table(("x",), [("a|b\nc",)]) == ["| x |", "|---|", "| a\\|b c |"]


def test_the_processor_is_named_where_the_system_says_it(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: A B: C\nmodel name : D\n")
    assert processor(tmp_path / "cpuinfo") == "A B: C"
    assert isinstance(processor(tmp_path / "nothing"), str)


def test_a_folder_that_is_no_run_gets_no_card(tmp_path):
    update_card(tmp_path)
    assert not list(tmp_path.iterdir())
