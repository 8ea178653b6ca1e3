"""What a run is: its data, its network, its training, its configuration, how to make it again."""

import json
import math
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ..configs.common import base_config
from ..run.averages import kept
from ..run.messages import duration
from ..storage.checkpoint_folder import ARRAYS, find, latest
from ..storage.reading import read_object
from ..storage.saved import foreign_names
from ..storage.training_record import TRAINING, read_training, seconds_at
from .files import config_of
from .tables import UNKNOWN, in_code, number, table

CLASSIFIER = "classifier"  # the name of its objective
# What is said elsewhere in the card: measured facts, and what stands beside them.
ELSEWHERE = ("facts.", "denoiser.sigma_data")
LONGEST = 60  # characters of a setting


def heading(workdir: Path) -> list[str]:
    """Return the title, and the run in one sentence."""
    config = config_of(workdir)
    step = latest(workdir)
    steps = "not trained yet" if step is None else f"trained for {step:,} steps"
    classifies = config["objective"]["name"] == CLASSIFIER
    what = "Classifier of noisy" if classifies else "Score-based model of"
    return [
        f"# {what} {data_title(config)}",
        "",
        f"{config['net']['name']} on the process {config['sde']['name']}: {shape_text(config)}, "
        f"{steps}. This card is made of what lies in the run directory, and made anew by every "
        "mode.",
    ]


def data_title(config: dict[str, Any]) -> str:
    """Return what the data are called: the class of the data set, and which ones of it."""
    section = config["data"]
    which = section.get("dataset") or section.get("density")
    if which is None and section.get("path"):
        which = Path(section["path"]).name
    return f"{section['name']} ({which})" if which else str(section["name"])


def shape_text(config: dict[str, Any]) -> str:
    """Return in words what one example is."""
    shape = config["facts"]["shape"]
    if len(shape) == 1:
        return f"points in {shape[0]} dimensions"
    if len(shape) != 3:
        return f"arrays of shape {tuple(shape)}"
    height, width, channels = shape
    kinds = {1: "grey images", 3: "colour images"}
    kind = kinds.get(channels, f"images of {channels} channels")
    return f"{kind} of {height} x {width} pixels"


def data(workdir: Path) -> list[str]:
    """Return the table of the data: what they are, their licence and their size."""
    config = config_of(workdir)
    facts = config["facts"]
    known = data_facts(workdir, config)
    examples = known.get("examples") or {}
    rows = [
        ("data set", data_title(config)),
        ("origin", known.get("origin") or UNKNOWN),
        ("licence", known.get("licence") or UNKNOWN),
        ("one example", shape_text(config)),
        ("values", "continuous" if facts["levels"] is None else f"{facts['levels']} grey levels"),
        ("classes", number(facts["num_classes"]) if facts["num_classes"] else "none"),
        ("standard deviation of the model values", number(facts["sd"])),
    ]
    for split, role in _roles(config).items():
        count = examples.get(split)
        size = f"{count:,} examples" if isinstance(count, int) else f"size {UNKNOWN}"
        rows.append((f"split `{split}`, {role}", size))
    return table(("data", ""), rows)


def _roles(config: dict[str, Any]) -> dict[str, str]:
    """Return what each split is used for."""
    roles: dict[str, list[str]] = {}
    named = {
        "trained on": config["train"]["split"],
        "held out while training": config["train"]["held_out"],
        "evaluated on by default": config["eval"]["split"],
    }
    for role, split in named.items():
        if split:
            roles.setdefault(split, []).append(role)
    return {split: " and ".join(names) for split, names in roles.items()}


def data_facts(workdir: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return licence, origin and sizes of the data, as far as they are known.

    Training has written them down. For a run without such a record, what the class of the data set
    says of all its objects has to do; a class of the user's own is not imported for it.
    """
    if (workdir / TRAINING).exists():
        return read_training(workdir)["data"]
    from .. import data  # its libraries take time to import; every mode has done so

    cls = getattr(data, config["data"]["name"], None)
    return {"licence": getattr(cls, "licence", None), "origin": getattr(cls, "origin", None)}


def training(workdir: Path) -> list[str]:
    """Return the table of the network and its training: parameters, steps, seconds, hardware."""
    config = config_of(workdir)
    step = latest(workdir)
    if step is None:
        return ["There is no checkpoint yet: `--mode=train`."]
    settings = config["train"]
    batch = f"{settings['batch_size']:,}"
    if settings["accumulate"] > 1:
        batch = f"{settings['accumulate']} x {batch}"
    seconds = seconds_at(workdir, step)
    rows = [
        ("parameters", number(parameters(workdir))),
        ("steps", f"{step:,} of {settings['steps']:,}"),
        ("examples a step", batch),
        ("optimiser", f"{config['optim']['name']}, learning rate {config['optim']['lr']:g}"),
        ("moving average of the weights", _averages(config)),
        ("wall time", UNKNOWN if seconds is None else _time(seconds)),
    ]
    rows += _loss_rows(workdir, step)
    return table(("training", ""), rows) + ["", *_hardware(workdir)]


def _averages(config: dict[str, Any]) -> str:
    """Return the rate of the moving average, and what other averages are kept."""
    others = ", ".join(map(str, kept(ConfigDict(config))))
    return number(config["ema"]) + (f"; beside it {others}" if others else "")


def _time(seconds: float) -> str:
    """Return a time in seconds and, where it is long, as a reader says it."""
    text = f"{seconds:,.0f} s"
    return text if seconds < 60 else f"{text} ({duration(seconds)})"


def parameters(workdir: Path) -> int | None:
    """Return the number of parameters of the newest checkpoint; None if it does not say.

    What is learned beside the network, the weights of the noise levels, counts as well.
    """
    folder = find(workdir, None)
    if not (folder / ARRAYS).exists():  # of an older version
        return None
    arrays = read_object(folder / ARRAYS, "remove that folder to go on from the one before it")
    shapes = [text for name, text in arrays.items() if name.startswith(".params")]
    return sum(math.prod(json.loads(text[text.index("[") :])) for text in shapes)


def _loss_rows(workdir: Path, step: int) -> list[tuple[str, str]]:
    """Return the newest losses of the log up to a step."""
    newest: dict[str, tuple[int, float]] = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        try:
            values = json.loads(line)
        except ValueError:  # cut off
            continue
        for name in ("train/loss", "held_out/loss", "held_out/accuracy"):
            if isinstance(values.get(name), float) and values["step"] <= step:
                newest[name] = (values["step"], values[name])
    return [
        (name.replace("_", " ").replace("/", " "), f"{number(value)} at step {at:,}")
        for name, (at, value) in newest.items()
    ]


def _hardware(workdir: Path) -> list[str]:
    """Return the table of the hardware and the versions of every start of the training."""
    known = (workdir / TRAINING).exists()
    starts = read_training(workdir)["starts"] if known else []
    if not starts:
        return [
            "On which hardware it was trained is not known: the run was converted, or trained by "
            "an older version."
        ]
    rows = []
    for start in starts:
        versions = start.get("versions", {})
        rows.append(
            (
                f"{start['step']:,}",
                start.get("devices", UNKNOWN),
                start.get("processor") or UNKNOWN,
                ", ".join(f"{name} {version}" for name, version in versions.items()),
            )
        )
    return table(("from step", "devices", "processor", "versions"), rows)


def configuration(workdir: Path) -> list[str]:
    """Return the table of all settings that are not the defaults."""
    settings = _leaves(config_of(workdir))
    defaults = _leaves(json.loads(base_config().to_json()))
    rows = [
        (f"`{path}`", _shown(value), _shown(defaults[path]) if path in defaults else "")
        for path, value in settings.items()
        if not path.startswith(ELSEWHERE) and (path not in defaults or value != defaults[path])
    ]
    return [
        "What is not listed has its default; all settings are in [config.json](config.json).",
        "",
        *table(("setting", "here", "default"), rows),
    ]


def _leaves(section: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Return the settings of nested sections by their paths, such as "train.steps"."""
    leaves: dict[str, Any] = {}
    for name, value in section.items():
        place = f"{path}.{name}" if path else name
        if isinstance(value, dict):
            leaves |= _leaves(value, place)
        else:
            leaves[place] = value
    return leaves


def _shown(value: Any) -> str:
    """Return a setting as JSON in code, the beginning of a long one."""
    text = json.dumps(value)
    return f"`{text}`" if len(text) <= LONGEST else f"`{text[:LONGEST]}` ..."


def reproduction(workdir: Path) -> list[str]:
    """Return the commands that make the run again, and that use it."""
    config = config_of(workdir)
    trust = " --trust" if any(foreign_names(config)) else ""
    lines = [
        "With [config.json](config.json) copied into an empty folder, `FOLDER`, training makes the "
        f"run again. Everything random in it comes from seed {config['seed']}; with the packages "
        "and devices above the parameters are bitwise the same.",
        "",
        *in_code(f"python -m experiments.main --workdir=FOLDER --mode=train{trust}"),
    ]
    commands = _commands(workdir)
    if commands:
        lines += ["", "It was trained by", "", *in_code("\n".join(commands))]
    return lines


def _commands(workdir: Path) -> list[str]:
    """Return the command lines that trained the run, as far as they are known."""
    if not (workdir / TRAINING).exists():
        return []
    starts = read_training(workdir)["starts"]
    return list(dict.fromkeys(start["command"] for start in starts if start.get("command")))
