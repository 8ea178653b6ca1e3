"""Command line of the toolkit.

    python -m experiments.main --config=experiments/configs/digits.py:vp --workdir=runs/digits \\
        --mode=train
    python -m experiments.main --workdir=runs/digits --mode=sample --config.sampling.number=256
    python -m experiments.main --workdir=runs/digits --mode=evaluate

Every setting of a configuration can be overridden: --config.train.steps=10000. --dry_run prints the
resolved configuration and stops; --help lists modes, configurations and settings. Libraries are
imported when they are needed, so that a mistake is answered at once.
"""

# ruff: noqa: E402  (the first import has to act before the others, which take seconds)
from .run.signals import end_at_once

if __name__ == "__main__":
    end_at_once()

import contextlib
import os
import shlex
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from .command.help import help_text
from .command.parse import Command, command_line, parse
from .errors import RunError
from .modes import MODES, function_of
from .storage.workdir import run_directory

INTERRUPTED = 130  # the exit code of a program that SIGINT ended, by the shell's convention
LONGEST_NAME = 255  # bytes of a file name, on every common file system


def execute(command: Command) -> None:
    """Do what a command says."""
    if command.help:
        print(help_text())
        return
    workdir = _workdir(command)
    from .command.resolve import resolve
    from .command.switches import check_switches

    converted = workdir is not None and _is_converted(workdir)
    config, notes, other_data = resolve(command, converted=converted)
    if workdir is None and not command.dry_run:
        raise RunError("name a run directory with --workdir=runs/...")
    from .command.schema import check_settings

    check_settings(config)
    check_switches(config, command.overrides)
    _set_up()
    _join(command)
    if command.dry_run:
        dry_run(config)
    elif command.mode == "train":
        function_of("train")(
            config, workdir, command=command_line(command), profile=command.profile
        )
    else:
        for note in notes:
            print(note, file=sys.stderr)
        _work_with_a_run(command, config, workdir, other_data)


def dry_run(config: Any) -> None:
    """Print what a run of a configuration would use; make nothing."""
    import jax

    from .run.build import build, flops, make_dataset, measure_facts
    from .run.check import check_run

    facts = None if config.facts else measure_facts(config, make_dataset(config))
    run = build(config, facts, abstract=True)
    check_run(run)
    print(run.config)
    count = sum(p.size for p in jax.tree.leaves(run.split.params))
    text = f"{count:,} parameters"
    if operations := flops(run):
        text += f", {operations:.3g} floating-point operations per image in one evaluation"
    print(text)


def _work_with_a_run(command: Command, config: Any, workdir: Any, other_data: bool) -> None:
    """Open a run with the configuration of a command, check it, and do what the mode says."""
    from .command.schema import check_settings
    from .modes.fit import with_fits
    from .run.build import build, make_dataset
    from .run.check import check_data, check_denoises, check_run
    from .run.loading import restore_run
    from .run.messages import say

    run = build(config, abstract=True)
    if not MODES[command.mode].takes_classifiers:
        check_denoises(run, command.mode, workdir)
    if MODES[command.mode].needs_data:
        check_data(run, make_dataset(config), other=other_data)
    loaded = with_fits(restore_run(run, workdir), workdir)
    say(f"weights of step {loaded.step}: {loaded.average}")
    check_settings(loaded.config)
    check_run(loaded.run)
    function_of(command.mode)(loaded, workdir)


def _set_up() -> None:
    """Set up JAX, and silence what libraries log."""
    from absl import logging

    from .run.devices import set_up_jax

    set_up_jax()
    logging.set_verbosity(logging.FATAL)  # what libraries log as errors they raise as well


def _join(command: Command) -> None:
    """Join the other processes that a command names, if it names any."""
    from .processes import Group, join

    group = Group(command.coordinator, command.processes, command.process)
    if group != Group() and command.mode != "train":
        raise RunError(f"--mode={command.mode} works in one process; leave out --processes")
    join(group)


def _workdir(command: Command) -> Path | None:
    """Return the run directory that a command names, without making it.

    Raises:
        RunError: a name that no file system takes, or that of a file.
    """
    if command.workdir is None:
        return None
    if "://" in command.workdir:
        raise RunError(
            f"--workdir={command.workdir} is an address; run directories are folders of this "
            "machine: mount it and name the folder"
        )
    workdir = Path(command.workdir)
    for part in workdir.parts:
        if len(part.encode("utf-8", "surrogateescape")) > LONGEST_NAME:
            raise RunError(
                f"--workdir={command.workdir}: a name of {len(part)} characters is too long for a "
                f"folder; take at most {LONGEST_NAME}"
            )
    for place in (workdir, *workdir.parents):
        if place.exists() and not place.is_dir():
            raise RunError(
                f"--workdir={workdir}: {place} is a file; name a folder, which is made if it is "
                "missing (an exported run becomes one by python -m experiments.convert "
                f"--from={shlex.quote(str(place))} --workdir=runs/...)"
            )
    return run_directory(workdir)


def _is_converted(workdir: Path) -> bool:
    """Tell whether experiments.convert made a run directory, so that a user names its data."""
    return (workdir / "converted.json").exists()


def run(arguments: list[str]) -> int:
    """Run a command line and return the exit code.

    What a user can mend ends in one message, with the traceback kept beside the run.
    """
    command = None
    try:
        command = parse(arguments)
        execute(command)
        _forget_traceback(command)
    except (RunError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        _keep_traceback(command)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what is saved", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # nothing that a user is shown ends in a traceback
        place = _keep_traceback(command, always=True)
        text = " ".join(str(error).split())
        print(
            f"error: unexpected {type(error).__name__}: {text[:500]} (traceback in {place})",
            file=sys.stderr,
        )
        return 1
    return 0


def _forget_traceback(command: Command) -> None:
    """Remove the traceback of an earlier try beside the run, now that a command has succeeded."""
    if command.workdir and not command.dry_run and not command.help:
        with contextlib.suppress(OSError):
            (Path(command.workdir) / "error.txt").unlink(missing_ok=True)


def _keep_traceback(command: Command | None, *, always: bool = False) -> Path | None:
    """Write the traceback of the error that is being handled into the run directory.

    Without a run it is written, if `always`, to a temporary file. Return its path, or None.
    """
    workdir = Path(command.workdir) if command and command.workdir else None
    with contextlib.suppress(OSError, ValueError):  # the disk may be what is wrong
        if workdir is not None and workdir.is_dir():
            (workdir / "error.txt").write_text(traceback.format_exc())
            return workdir / "error.txt"
        if always:
            place = Path(tempfile.mkdtemp(prefix="score-sde-")) / "error.txt"
            place.write_text(traceback.format_exc())
            return place
    return None


def main() -> None:
    """Run the command line of this process."""
    code = run(sys.argv[1:])
    sys.stdout.flush()
    if code and any(argument.startswith("--process") for argument in sys.argv[1:]):
        os._exit(code)  # at once: an orderly end would wait for the other processes
    sys.exit(code)


if __name__ == "__main__":
    main()
