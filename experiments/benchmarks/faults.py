"""A drill: a run whose processes are killed at random moments ends as one that never was.

    python -m experiments.benchmarks.faults --kills=20

Four commands follow one another on toy data: training, sampling, likelihoods, and training further.
Each is first run without a fault, to see how long it takes. In a second run directory each is
started again and again, and killed (SIGKILL) at a moment drawn uniformly from most of its time,
until its share of the kills is used up; then it may end. All that both directories hold is compared bit by
bit: parameters, averages and moments, samples, likelihoods. A table says where each kill fell.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

SETTINGS = (
    "--config.data.size=2000",
    "--config.net.width=64",
    "--config.train.held_out_every=500",
    "--config.train.checkpoint_every=50",
    "--config.train.log_every=50",
    "--config.train.sample_every=0",
)
LATEST = 0.8  # of the time that a command takes, so that few end before they are killed
COMMANDS = {
    "train": ("--mode=train", "--config.train.steps=2000", *SETTINGS),
    "sample": (
        "--mode=sample",
        "--config.sampling.number=2000",
        "--config.sampling.batch_size=100",
    ),
    "likelihood": (
        "--mode=likelihood",
        "--config.eval.batch_size=50",
        "--config.eval.examples=500",
    ),
    "train on": ("--mode=train", "--config.train.steps=4000", *SETTINGS),
}


class Kill(NamedTuple):
    """A process that was killed."""

    command: str
    after: float  # seconds
    said: str  # its last line


def start(name: str, workdir: Path, said: Path) -> subprocess.Popen:
    """Start a command of the drill; what it says goes into a file."""
    flags = [f"--workdir={workdir}", *COMMANDS[name]]
    if "train" in name:
        flags.insert(0, "--config=experiments/configs/toy.py:mixture")
    command = [sys.executable, "-u", "-m", "experiments.main", *flags]
    with open(said, "w") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)


def undisturbed(name: str, workdir: Path, said: Path) -> float:
    """Run a command to its end; return its seconds."""
    began = time.monotonic()
    if start(name, workdir, said).wait():
        raise SystemExit(f"{name} failed:\n{said.read_text()}")
    return time.monotonic() - began


def killed(name: str, workdir: Path, said: Path, after: float) -> Kill | None:
    """Run a command and kill it after some seconds; return None if it ended before."""
    process = start(name, workdir, said)
    try:
        code = process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        lines = said.read_text().replace("\r", "\n").strip().splitlines()
        return Kill(name, after, lines[-1][:90] if lines else "")
    if code:
        raise SystemExit(f"{name} failed:\n{said.read_text()}")
    return None


def differences(one: Path, other: Path) -> list[str]:
    """Return the names of the arrays that are not the same to the bit in two run directories."""
    different = []
    first, second = arrays(one), arrays(other)
    for name in sorted(first.keys() | second.keys()):
        a, b = first.get(name), second.get(name)
        if a is None or b is None or a.tobytes() != b.tobytes():
            different.append(name)
    return different


def arrays(workdir: Path) -> dict[str, np.ndarray]:
    """Return the newest state of a run directory, its samples and its likelihoods, by name."""
    import jax

    from ..run.loading import load, template_on_one_device
    from ..storage.checkpoint import restore

    run = load(workdir).run
    state = restore(workdir, template_on_one_device(run.parameters(), run.tx)).state
    found = {
        f"state{jax.tree_util.keystr(path)}": np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state._replace(key=0))
    }
    for path in sorted(workdir.rglob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            names = [name for name in file.files if name != "seconds"]  # which no two runs share
            found |= {f"{path.relative_to(workdir)}/{name}": file[name] for name in names}
    return found


def main() -> None:
    """Run the drill, and print what became of it; the exit code is 1 if anything differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        whole, broken, said = (Path(place) / name for name in ("whole", "broken", "said.txt"))
        seconds = {name: undisturbed(name, whole, said) for name in COMMANDS}
        kills = []
        for number, name in enumerate(COMMANDS):
            share = (arguments.kills + number) // len(COMMANDS)
            while share and (
                kill := killed(name, broken, said, chance.uniform(0, LATEST * seconds[name]))
            ):
                kills.append(kill)
                share -= 1
            undisturbed(name, broken, said)
        different = differences(whole, broken)
        count = len(arrays(whole))
    print("| command | killed after, s | its last line |\n|---|---|---|")
    for kill in kills:
        print(f"| {kill.command} | {kill.after:.1f} | {kill.said} |")
    print(
        f"\n{len(kills)} kills; {count - len(different)} of {count} arrays are the same to the bit"
    )
    if different:
        raise SystemExit(f"these differ: {', '.join(different)}")


if __name__ == "__main__":
    main()
