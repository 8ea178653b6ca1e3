"""Reading a command line: a mode, a run directory, a configuration, and changed settings.

    --mode=NAME --workdir=FOLDER --config=FILE.py:VARIANT --config.SECTION.NAME=VALUE --dry_run
    --trust --help --profile=STEPS --coordinator=HOST:PORT --processes=N --process=I

A value stands behind "=" or is the next argument. A switch takes no value, `true` or `false`;
`--no` before its name turns it off. Where an argument is given twice, the last one holds, so that a
script may append to the arguments of another.
"""

import difflib
import shlex
from typing import NamedTuple

from ..errors import RunError
from ..modes import MODES

SWITCHES = ("dry_run", "trust", "help")
VALUES = ("mode", "workdir", "config", "profile", "coordinator", "processes", "process")
TRUE = ("true", "t", "1", "yes")
FALSE = ("false", "f", "0", "no")
HELP = ("-h", "-?", "--helpfull", "--helpshort")


class Override(NamedTuple):
    """One setting that the command line gives."""

    path: str  # "train.steps"
    text: str | None  # as written; None: no value, which is allowed where true or false is wanted

    def __str__(self) -> str:
        return f"--config.{self.path}" + ("" if self.text is None else f"={self.text}")


class Command(NamedTuple):
    """A command line, read but not yet checked against a configuration."""

    mode: str = "train"
    workdir: str | None = None
    config: str | None = None  # file, with a variant behind a colon
    overrides: tuple[Override, ...] = ()
    profile: int = 0  # training steps to trace
    dry_run: bool = False
    trust: bool = False
    help: bool = False
    coordinator: str | None = None  # of several processes: HOST:PORT of the first
    processes: str | None = None  # how many, or "cluster"
    process: str | None = None  # the number of this one


def parse(arguments: list[str]) -> Command:
    """Read the arguments of a command line, the program's name left out.

    Raises:
        RunError: an argument that does not exist or lacks its value.
    """
    given: dict = {}
    overrides: list[Override] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument in HELP:
            given["help"] = True
            continue
        if not argument.startswith("-") or argument.strip("-") == "":
            raise RunError(
                f"unexpected argument {argument!r}; settings are given as "
                "--config.section.name=value"
            )
        name, equals, text = argument.lstrip("-").partition("=")
        value = text if equals else None
        if name.startswith(("config.", "noconfig.")):
            overrides.append(_override(name, value, waiting))
        elif name in VALUES:
            given[name] = _value(name, value, waiting)
        elif name.removeprefix("no") in SWITCHES:
            given[name.removeprefix("no")] = _switch(name, value)
        else:
            raise RunError(_unknown(name))
    mode = given.get("mode", "train")
    if mode not in MODES:
        close = difflib.get_close_matches(mode, list(MODES), 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise RunError(f"there is no --mode={mode}; {hint}choose one of {', '.join(MODES)}")
    if "profile" in given:
        given["profile"] = _steps(given["profile"], mode)
    return Command(**given, overrides=tuple(overrides))


def command_line(command: Command) -> str:
    """Return the command line that says a command, as a shell takes it."""
    named = {"mode": command.mode, "workdir": command.workdir, "config": command.config}
    arguments = [f"--{name}={value}" for name, value in named.items() if value is not None]
    arguments += [str(override) for override in command.overrides]
    arguments += [f"--profile={command.profile}"] if command.profile else []
    arguments += ["--trust"] if command.trust else []
    return " ".join(["python -m experiments.main", *map(shlex.quote, arguments)])


def _override(name: str, value: str | None, waiting: list[str]) -> Override:
    """Return the setting that an argument gives; its value may be the first of those waiting."""
    negated = name.startswith("no")
    path = name.removeprefix("no").removeprefix("config.")
    if negated and value is not None:
        raise RunError(f"--{name} takes no value, got {value!r}; write --config.{path}=false")
    if negated:
        return Override(path, "false")
    if value is None and waiting and not _is_flag(waiting[0]):
        value = waiting.pop(0)
    return Override(path, value)


def _value(name: str, value: str | None, waiting: list[str]) -> str:
    """Return the value of an argument; it may be the first of those waiting."""
    if value is None and waiting and not _is_flag(waiting[0]):
        value = waiting.pop(0)
    if not value:
        raise RunError(f"--{name} needs a value: --{name}=...")
    if "\0" in value:
        raise RunError(f"--{name}={value!r} holds a null character")
    return value


def _steps(text: str, mode: str) -> int:
    """Return the number of training steps to trace."""
    if mode != "train":
        raise RunError(f"--profile traces steps of --mode=train, got --mode={mode}; leave it out")
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise RunError(f"--profile needs a number of steps of at least 1, got {text!r}")
    return int(text)


def _switch(name: str, value: str | None) -> bool:
    """Return whether an argument turns its switch on."""
    on = not name.startswith("no")
    if value is None:
        return on
    if not on or value.lower() not in (*TRUE, *FALSE):
        raise RunError(f"--{name} is a switch and takes true, false or nothing, got {value!r}")
    return value.lower() in TRUE


def _is_flag(argument: str) -> bool:
    """Tell whether an argument is a name; a negative number is a value."""
    return argument.startswith("-") and not argument[1:2].isdigit() and argument[1:2] != "."


def _unknown(name: str) -> str:
    """Return the message about an argument that does not exist."""
    known = [*VALUES, *SWITCHES]
    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"there is no --{name}; did you mean --{close[0]}?"
    if "." in name:
        return f"there is no --{name}; settings are given as --config.section.name=value"
    others = ", ".join(f"--{k}" for k in known)
    return f"there is no --{name}; there are {others} and --config.section.name"
