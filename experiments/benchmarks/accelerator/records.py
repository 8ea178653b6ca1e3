"""Results as they come: one JSON object a line while parts run.

At the end there are one JSON file and one Markdown file with a table for each part.
"""

import json
import math
from pathlib import Path
from typing import Any

LINES = "accelerator.jsonl"
WHOLE = "accelerator.json"
MARKDOWN = "accelerator.md"


class Records:
    """Writes results into a folder, each as soon as it is known."""

    def __init__(self, folder: str | Path, lines: str = LINES):
        self.path = Path(folder) / lines
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, part: str, **values: Any) -> None:
        """Print and store one result."""
        record = {"part": part, **{name: _plain(value) for name, value in values.items()}}
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(
            "  " + ", ".join(f"{name} {_short(value)}" for name, value in record.items()),
            flush=True,
        )


def gather(folder: Path) -> list[dict]:
    """Write what has been stored so far as one JSON and one Markdown file; return it."""
    records = read_records(folder / LINES)
    tables = [table(part, records) for part in _parts(records)]
    (folder / WHOLE).write_text(json.dumps(records, indent=1) + "\n")
    (folder / MARKDOWN).write_text("\n\n".join(tables) + "\n")
    return records


def read_records(lines: Path) -> list[dict]:
    """Return the results that a file of lines holds; none where there is no such file."""
    if not lines.exists():
        return []
    return [json.loads(line) for line in lines.read_text().splitlines()]


def _parts(records: list[dict]) -> list[str]:
    """Return the names of the parts that have results, in order."""
    return list(dict.fromkeys(record["part"] for record in records))


def table(part: str, records: list[dict]) -> str:
    """Return the Markdown table of one part: a column for each name that a result of it has."""
    rows = [{k: v for k, v in r.items() if k != "part"} for r in records if r["part"] == part]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"## {part}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += [
        "| " + " | ".join(_short(row.get(name, "")) for name in columns) + " |" for row in rows
    ]
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    """Return a value as strict JSON has it."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _short(value: Any) -> str:
    """Return a value as text, a number with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
