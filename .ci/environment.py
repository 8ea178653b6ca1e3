"""Make or update `.venv`, the environment that every target of the Makefile runs in.

    python3 .ci/environment.py [EXTRA ...]     # make test and make demo call this

Packages come from `constraints.txt`. The work is skipped where `.venv` is newer than `pyproject.toml` and `constraints.txt`
and holds the extras asked for. Only one process works on `.venv` at a time; a second one waits. An environment that this script
began and could not finish is made anew; any other one is only brought up to date.
"""

import contextlib
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
UNFINISHED = VENV / ".unfinished"
SOURCES = (ROOT / "pyproject.toml", ROOT / "constraints.txt")
OLDEST = (3, 11)


def python() -> str:
    """Return the interpreter of the environment."""
    return str(VENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python"))


def stamp(extras: list[str]) -> Path:
    """Return the file whose age tells when these extras were installed."""
    return VENV / "-".join([".installed", *extras])


def is_current(extras: list[str]) -> bool:
    """Tell whether nothing is to be done."""
    newest = max(source.stat().st_mtime for source in SOURCES)
    if not Path(python()).exists():
        return False
    return stamp(extras).exists() and stamp(extras).stat().st_mtime >= newest


@contextlib.contextmanager
def alone():
    """Wait until no other process works on the environment, and keep others out."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(SOURCES[0]) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another process that installs into .venv", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield


def works(*arguments: str) -> bool:
    """Tell whether the environment's interpreter succeeds with these arguments."""
    try:
        return subprocess.run([python(), *arguments], capture_output=True).returncode == 0
    except OSError:
        return False


def make() -> None:
    """Make the environment unless there is one that can be brought up to date."""
    if VENV.exists() and not UNFINISHED.exists():
        if not works("-c", f"import sys; sys.exit(sys.version_info < {OLDEST})"):
            sys.exit(
                f"error: {VENV} holds no working Python >= 3.11; it was not made here, so it is left alone. "
                "Remove or rename it, then start again."
            )
        if works("-m", "pip", "--version") or works("-m", "ensurepip"):
            return
        sys.exit(
            f"error: {VENV} has no pip, and ensurepip cannot bring it. Install pip into it, or remove or rename it, then start again."
        )
    print(f"Making .venv with Python {sys.version.split()[0]}", flush=True)
    venv.create(VENV, clear=True, symlinks=sys.platform != "win32")
    UNFINISHED.touch()
    if not works("-m", "ensurepip"):
        sys.exit(
            "error: this Python cannot give .venv a pip. On Debian and Ubuntu install python3-venv, or choose another interpreter: "
            "PYTHON=python3.12"
        )


def install(extras: list[str]) -> None:
    """Install the project with everything that tests and demo need, and the extras."""
    names = ",".join(["all", "dev", *extras])
    print(f"Installing .[{names}] (one to two minutes the first time, seconds after)", flush=True)
    pip = [python(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    run = subprocess.run([*pip, "--editable", f"{ROOT}[{names}]", "--constraint", str(SOURCES[1])])
    if run.returncode:
        sys.exit("error: the packages could not be installed; what pip says is above")


def main(extras: list[str]) -> None:
    start = time.monotonic()
    with alone():
        if is_current(extras):
            return
        make()
        install(extras)
        UNFINISHED.unlink(missing_ok=True)
        stamp(extras).touch()
    print(f"The environment is ready after {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(sorted(set(sys.argv[1:])))
