"""What a run is: its data, its network and its training."""

import json
import math
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ..run.averages import kept
from ..run.messages import duration
from ..storage.checkpoint_folder import ARRAYS, find, latest
from ..storage.reading import read_object
from ..storage.training_record import TRAINING, read_training, seconds_at
from .files import config_of
from .tables import UNKNOWN, number, table

CLASSIFIER = "classifier"  # the name of its objective


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
    from .. import data as data_sets  # these take time to import; every mode has done so

    cls = getattr(data_sets, config["data"]["name"], None)
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
