"""The Python blocks of the README and of docs/ run as they are printed, from top to bottom of their page.

A block that begins with "# name.py" is a file of that name; the commands of a "console" block run where these files are, after all blocks.
"""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# A block that cannot run by itself names the language "py" instead: it is only parsed.
BLOCK = re.compile(r"^```(python|py|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    return [text for name, text in BLOCK.findall(page.read_text()) if name == language]


with_blocks = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", with_blocks, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(page, tmp_path):
    program = []
    for block in blocks(page, "python"):
        if file := re.match(r"# (\w+\.py)\n", block):
            (tmp_path / file[1]).write_text(block)
        else:
            program.append(block)
    (tmp_path / "blocks.py").write_text("\n".join(program))
    commands = [line.split() for block in blocks(page, "console") for line in block.splitlines()]
    for command in [["python", "blocks.py"], *commands]:
        assert command[0] == "python"
        run_in(tmp_path, [sys.executable, *command[1:]])


def run_in(folder, command):
    path = os.pathsep.join([str(ROOT), str(folder)])
    env = os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "error"}
    run = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_that_do_not_run_are_python(page):
    for text in blocks(page, "py"):
        compile(text, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_links_of_a_page_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]


def test_every_setting_has_a_description(monkeypatch):
    """The command line reference shows the comments of experiments/configs/common.py."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    settings = importlib.import_module("settings").settings()
    assert "train.steps" in [setting.path for setting in settings]
    assert not [setting.path for setting in settings if not setting.description]


def test_the_messages_that_the_docs_explain_are_those_of_the_code():
    """The first column of the tables of docs/errors.md quotes parts of messages; "…" stands for a value."""
    folders = ("sde_lib", "samplers", "models", "experiments")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    texts = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    quoted = re.findall(r"^\| `([^`]+)`", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)
    assert len(quoted) > 20
    parts = [part.strip() for message in quoted for part in message.split("…")]
    assert not [part for part in parts if not any(part in text for text in texts)]
