"""The text of `--help`: modes, configurations, and the settings that are changed most.

Nothing but the configuration files is read for it.
"""

import ast
import textwrap
from pathlib import Path

from ..modes import MODES

CONFIGS = Path(__file__).parents[1] / "configs"
NO_CONFIGS = ("__init__", "common")

USAGE = """python -m experiments.main --mode=MODE --workdir=FOLDER [--config=FILE.py:VARIANT] [--config.SECTION.NAME=VALUE ...]

    python -m experiments.main --config=experiments/configs/digits.py:vp --workdir=runs/digits --mode=train
    python -m experiments.main --workdir=runs/digits --mode=sample --config.sampling.sampler=ddim
    python -m experiments.main --workdir=runs/digits --mode=evaluate

A run directory keeps its configuration: without --config every mode starts from it, and --mode=train goes on.

--mode=train by default. What each does to a run directory:
"""

SETTINGS = {
    "seed": "of everything random in training",
    "train.steps": "how long to train",
    "train.batch_size": "examples a step",
    "optim.lr": "learning rate",
    "data.path": "the folder or file of configs/files.py",
    "net.name": "UNet, MLP, DiT, MPUNet, NCSN, or a class of your own as package.module:Class",
    "sampling.sampler": "an entry of config.samplers, such as best, ddim, pc, ode",
    "sampling.number": "how many samples",
    "sampling.label": "the class to draw, of a conditional or guided run; -1: all in turn",
    "sampling.condition": "a file of other conditions to draw samples under, .npy or .npz",
    "guidance.name": "ClassifierFree, ClassifierGuidance, Autoguidance or another of sde_lib.guidance; guidance.scale beside it",
    "samplers.ddim.steps": "steps of a sampler",
    "eval.split": "data that --mode=likelihood and others look at",
    "devices": "how many devices to use; 0: all",
}

OTHERS = """
    --profile=STEPS  trace that many training steps, for https://ui.perfetto.dev
    --dry_run        print the resolved configuration, the number of parameters and of operations per image, then stop
    --trust          let a run directory name classes outside this package, which are imported and so executed
    --help           print this text
    --coordinator=HOST:PORT --processes=N --process=I
                     train in N processes, of which this is number I; --processes=cluster where Slurm, Open MPI or
                     Kubernetes has started them

Every setting is printed by --dry_run. A number is given as --config.optim.lr=1e-3, a tuple as --config.net.ch_mult=1,2, a setting that
is true or false as --config.train.flip or --config.train.flip=false; the last of several values holds.
"""


def help_text() -> str:
    """Return what --help prints."""
    parts = [USAGE, _columns({name: mode.summary for name, mode in MODES.items()})]
    parts += ["\nConfigurations, in experiments/configs:\n", _configurations()]
    parts += ["\nSettings that are changed most, as --config.NAME=VALUE:\n", _columns(SETTINGS)]
    return "\n".join(parts) + "\n" + OTHERS


def _configurations() -> str:
    """Return a line on each configuration file, and what its docstring says of its variants."""
    lines = []
    for file in sorted(CONFIGS.glob("*.py")):
        if file.stem in NO_CONFIGS:
            continue
        text = ast.get_docstring(ast.parse(file.read_text())) or ""
        lines.append(f"    {file.name:<14} {text.splitlines()[0]}")
        paragraphs = " ".join(text.split())
        start = max(paragraphs.find("Variants: "), paragraphs.find("A variant is "))
        if start >= 0:
            sentence = paragraphs[start:].partition(". ")[0].rstrip(".")
            lines += textwrap.wrap(
                f"{sentence}.", 110, initial_indent=" " * 19, subsequent_indent=" " * 19
            )
    return "\n".join(lines)


def _columns(rows: dict[str, str]) -> str:
    width = max(len(name) for name in rows)
    return "\n".join(f"    {name:<{width}}  {text}" for name, text in rows.items())
