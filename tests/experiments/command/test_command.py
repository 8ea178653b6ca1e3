"""What a user reads who mistypes: one message with the value, what was expected and the remedy,
exit code 1, and no traceback.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
TOY, FILES = (f"--config={ROOT}/experiments/configs/{name}.py" for name in ("toy", "files"))


def refused(result, *parts):
    assert result.code == 1 and "Traceback" not in result.err, result.err
    message = result.err[result.err.index("rror: ") :]
    assert not [part for part in parts if part not in message], f"{parts} should be in: {message}"


@pytest.mark.parametrize(
    "flags, parts",
    [
        ([], ["need --config, such as --config=experiments/configs/digits.py:vp"]),
        (["--mode=train", TOY], ["name a run directory with --workdir="]),
        (["--mode=sample"], ["name a run directory with --workdir="]),
        (["--mode=sample", "--workdir=nowhere"], ["nowhere is no run directory", "--mode=train"]),
        (["--mode=fly", TOY], ["there is no --mode=fly", "train, sample, restore, evaluate"]),
        (["--workdir=x", f"--config={ROOT}/nothing.py"], ["nothing.py", "No such file"]),
        (
            ["--workdir=x", f"--config={ROOT}/nothing.py", "--config.seed=1"],
            ["nothing.py", "No such file"],
        ),
        (
            [f"{TOY}:spiral"],
            ["unknown variant 'spiral'", "checkerboard, swiss_roll, mixture, moons"],
        ),
        ([TOY, "--config.trian.steps=1"], ["trian", "did you mean train?"]),
        ([TOY, "--config.train.steps=many"], ["--config.train.steps=many", "int"]),
        (
            [TOY, "--dry_run", "--config.train.stepz=1"],
            ["config.train has no setting 'stepz'; did you mean steps?"],
        ),
        ([TOY, "--dry_run", "--config.stepz=1"], ["config has no setting 'stepz'; did you mean"]),
        (
            [TOY, "--dry_run", "--config.net.depht=1"],
            ["MLP has no setting depht; it takes width, depth"],
        ),
        (
            [TOY, "--dry_run", "--config.sde.beta_maxx=1"],
            ["VP has no setting beta_maxx; it takes", "beta_max"],
        ),
        ([FILES, "--dry_run"], ["Files needs a value for path"]),
        (
            [FILES, "--dry_run", "--config.data.path=nowhere"],
            ["no folder or file nowhere", "folder of images or an .npy file"],
        ),
    ],
    ids=lambda value: " ".join(value).replace(str(ROOT), "") if isinstance(value, list) else None,
)
def test_a_command_that_makes_no_sense_ends_in_one_message(in_process, flags, parts):
    refused(in_process(*flags), *parts)


def test_a_file_in_place_of_the_run_directory_is_refused(command, tiny_flags, tmp_path):
    (tmp_path / "file").write_text("precious")
    refused(
        command(*tiny_flags, f"--workdir={tmp_path}/file"),
        f"--workdir={tmp_path}/file",
        f"{tmp_path}/file is a file; name a folder",
    )
    refused(command(*tiny_flags, f"--workdir={tmp_path}/file/run"), "is a file")
    assert (tmp_path / "file").read_text() == "precious"


def test_a_traceback_is_kept_beside_a_run_until_a_later_command_succeeds(
    in_process, tiny_flags, tmp_path
):
    workdir = tmp_path / "run"
    wrong = [*tiny_flags, "--config.devices=4096", f"--workdir={workdir}"]
    refused(in_process(*wrong), "config.devices is 4096", "--config.devices=0")
    assert not workdir.exists()
    workdir.mkdir()
    refused(in_process(*wrong), "config.devices is 4096")
    assert "Traceback" in (workdir / "error.txt").read_text()
    result = in_process(*tiny_flags, "--config.train.steps=1", f"--workdir={workdir}")
    assert result.code == 0 and "next: python -m experiments.main" in result.out, result.err
    assert not (workdir / "error.txt").exists(), "the run succeeds now"


def test_an_array_that_cannot_be_read_is_refused(command, tmp_path):
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00garbage")
    refused(
        command(FILES, f"--config.data.path={tmp_path}/x.npy", "--dry_run"),
        f"cannot read {tmp_path}/x.npy as a .npy array",
    )


def test_settings_of_the_command_line_reach_the_objects(command):
    """Also those that the configuration does not spell out."""
    result = command(
        TOY,
        "--dry_run",
        "--config.sde.beta_max=15.5",
        "--config.data.size=50",
        "--config.net.width=8",
        "--config.net.depth=1",
    )
    assert result.code == 0 and "beta_max: 15.5" in result.out and "size: 50" in result.out, (
        result.err
    )
    # the embedding apart, 2 x 8 + 8 in, 2 x 8 of a norm, two denses of 8 x 8 + 8, one of 8 x 16 +
    # 16, 2 x 8 of a norm and 8 x 2 + 2 out
    assert (
        int(re.search(r"([\d,]+) parameters", result.out)[1].replace(",", ""))
        > 24 + 16 + 144 + 144 + 16 + 18
    )


def test_a_dry_run_of_the_full_size_configuration_needs_no_data(command):
    less = ["--config.net.nf=8", "--config.net.num_res_blocks=1", "--config.net.ch_mult=(1,2)"]
    result = command(f"--config={ROOT}/experiments/configs/cifar10.py:ve", *less, "--dry_run")
    assert result.code == 0 and "dataset: cifar10" in result.out and "parameters" in result.out, (
        result.err
    )


def test_sampling_and_evaluation_of_a_copied_run_need_nothing_but_the_folder(
    command, trained, tmp_path
):
    moved = shutil.move(trained, tmp_path / "elsewhere")
    result = command("--mode=sample", f"--workdir={moved}")
    assert result.code == 0 and "20 samples by ddim: 6 network evaluations each" in result.out, (
        result.err
    )
    result = command("--mode=evaluate", f"--workdir={moved}")
    assert result.code == 0 and "bits/dim" in result.out and "| ddim | 6 |" in result.out, (
        result.err
    )
    assert json.loads((moved / "evaluation.json").read_text())["checkpoint"] == 20


def test_settings_of_the_command_line_reach_sampling_but_not_the_network(
    command, trained, tiny_flags
):
    more = [
        "--config.sampling.number=3",
        "--config.sampling.sampler=pc",
        "--config.samplers.pc.steps=2",
    ]
    result = command(*tiny_flags, *more, "--mode=sample", f"--workdir={trained}")
    assert result.code == 0 and "3 samples by pc: 5 network evaluations each" in result.out, (
        result.err
    )
    assert np.load(trained / "samples" / "pc" / "samples.npz")["x"].shape == (3, 2)
    refused(
        command(
            *tiny_flags, "--config.sampling.sampler=cp", "--mode=sample", f"--workdir={trained}"
        ),
        "unknown sampler 'cp'",
        "ddim, ode, pc",
    )


def test_the_module_is_the_command(tmp_path):
    """The one process here that starts afresh."""
    flags = [TOY, "--config.net.width=8", "--dry_run"]
    run = subprocess.run(
        [sys.executable, "-m", "experiments.main", *flags], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0 and "parameters" in run.stdout, run.stderr
    run = subprocess.run(
        [sys.executable, "-m", "experiments.main", "stray"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (
        run.returncode == 1
        and "unexpected argument 'stray'; settings are given as --config.section.name=value"
        in run.stderr + run.stdout
    )
