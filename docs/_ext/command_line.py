"""Directives that write the command line reference from the code: `help-text`, `modes`, `settings`, `free-settings`,
`sampler-entries`, `configurations` and `module-docstring`."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

from docutils import nodes
from settings import settings
from sphinx.util.docutils import SphinxDirective

from experiments.command.help import CONFIGS, NO_CONFIGS, help_text
from experiments.configs.common import base_config
from experiments.modes import MODES
from experiments.run.opening import FREE, FREE_TRAIN
from experiments.run.walks import ADAPTIVE, GRIDS


def code(value: Any) -> str:
    """Return a value as code for a cell of a table."""
    text = value if isinstance(value, str) else repr(value)
    return f"`{text}`".replace("|", "\\|")


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


class Written(SphinxDirective):
    """A directive whose content is Markdown made by `text`."""

    def text(self) -> str:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(self.text())


class Modes(Written):
    """One row a mode: what it does and which settings a command line may change for it."""

    def text(self) -> str:
        config = base_config()
        rows = []
        for name, mode in MODES.items():
            reads = "all settings" if name == "train" else ", ".join(map(code, mode.reads))
            walks = "" if name == "train" else ", ".join(map(code, mode.samplers(config)))
            rows.append([code(name), mode.summary, reads, walks])
        return table(
            ["`--mode=`", "what it does", "settings it takes", "samplers by default"], rows
        )


class Settings(Written):
    """One row a setting, one table a section."""

    def text(self) -> str:
        sections: dict[str, list[list[str]]] = {}
        for setting in settings():
            section, _, key = setting.path.rpartition(".")
            row = [
                code(setting.path),
                code(repr(setting.default)),
                setting.description.replace("|", "\\|"),
                setting.range,
                ", ".join(setting.modes),
            ]
            sections.setdefault(section, []).append(row)
        head = ["`--config.`", "default", "meaning", "range", "changed for, besides train"]
        return "\n\n".join(table(head, rows) for rows in sections.values())


class FreeSettings(Written):
    """What may change when the training of a run goes on."""

    def text(self) -> str:
        sections = ", ".join(map(code, FREE))
        single = ", ".join(code(f"train.{name}") for name in FREE_TRAIN)
        return (
            f"Training that goes on from a checkpoint takes changes of the sections {sections}, and of {single}; "
            "with any other change it is refused, because the parameters would become others."
        )


class SamplerEntries(Written):
    """The entries of `config.samplers`, and what an entry may hold."""

    def text(self) -> str:
        rows = [
            [code(name), code(repr(entry.to_dict()))]
            for name, entry in base_config().samplers.items()
        ]
        adaptive = ", ".join(map(code, ADAPTIVE))
        grids = ", ".join(map(code, GRIDS))
        return f"{table(['entry', 'default'], rows)}\n\nAdaptive walks: {adaptive}. Grids: {grids}."


class Literal(SphinxDirective):
    """A directive that shows text as it is."""

    def text(self) -> str:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        text = self.text()
        return [nodes.literal_block(text, text, language="text")]


class HelpText(Literal):
    """What --help prints."""

    def text(self) -> str:
        return help_text()


class ModuleDocstring(Literal):
    """The docstring of a module that is run as a program, which is not imported."""

    required_arguments = 1

    def text(self) -> str:
        found = importlib.util.find_spec(self.arguments[0])
        if found is None or found.origin is None:
            raise self.error(f"there is no module {self.arguments[0]}")
        return _docstring(Path(found.origin))


class Configurations(SphinxDirective):
    """The docstring of every configuration file."""

    def run(self) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        for file in sorted(CONFIGS.glob("*.py")):
            if file.stem in NO_CONFIGS:
                continue
            found.append(nodes.rubric(text=file.name))
            text = _docstring(file)
            found.append(nodes.literal_block(text, text, language="text"))
        return found


def _docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text())) or ""


def setup(app) -> dict:
    app.add_directive("help-text", HelpText)
    app.add_directive("modes", Modes)
    app.add_directive("settings", Settings)
    app.add_directive("free-settings", FreeSettings)
    app.add_directive("sampler-entries", SamplerEntries)
    app.add_directive("configurations", Configurations)
    app.add_directive("module-docstring", ModuleDocstring)
    app.connect("env-get-outdated", _always)
    return {"parallel_read_safe": True}


def _always(app, env, added, changed, removed) -> list[str]:
    """Build the page anew each time: what it shows lies outside of docs/."""
    return ["command_line"] if "command_line" in env.found_docs else []
