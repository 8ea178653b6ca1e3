"""What a run may be used for: whether it repeats its data, its intended use, its limits."""

from pathlib import Path
from typing import Any

from ..storage.checkpoint_folder import latest
from .about import CLASSIFIER, data_title
from .comparison import memorised
from .files import config_of, of_which_weights, present, read_result
from .tables import number, table


def memorisation(workdir: Path) -> list[str]:
    """Return what tells copies of training data: distances to the nearest training example."""
    health = read_result(workdir, "diagnose/report.json", "diagnose")
    evaluation = read_result(workdir, "evaluation.json", "evaluate")
    lines = []
    if health is not None:
        lines += _of_health(workdir, health)
    if evaluation is not None and (numbers := memorised(evaluation)):
        which = of_which_weights(workdir, evaluation)
        lines += ["", f"By the evaluation, {which}:", "", *numbers]
    for path in present(workdir, "samples/*/nearest.png"):
        name = path.parent.name
        lines += [
            "",
            f"![samples by {name} nearest to being copies, and their training images]"
            f"(samples/{name}/nearest.png)",
        ]
    return lines or ["Not checked yet: `--mode=diagnose`, `--mode=evaluate`."]


def _of_health(workdir: Path, report: dict[str, Any]) -> list[str]:
    """Return the check of the health report."""
    memory = report["memorisation"]
    rows = [
        ("samples", number(memory["samples"])),
        ("held-out data", number(memory["held_out"])),
        ("training data, to each other", number(memory["training"])),
    ]
    return [
        f"By the health report, {of_which_weights(workdir, report)}: {memory['copies']:.1%} of the "
        "samples are nearer to a training example than a quarter of what these are to each other. "
        "Median distances to the nearest training example, in raw values:",
        "",
        *table(("", "distance"), rows),
    ]


def intended_use(workdir: Path) -> list[str]:
    """Say what a run is for, and what not."""
    config = config_of(workdir)
    classifies = config["objective"]["name"] == CLASSIFIER
    what = "guiding a denoiser to classes" if classifies else "generative models: their samples, "
    if not classifies:
        what += "likelihoods, and their use as priors of inverse problems"
    return [
        f"For research and teaching on {what}. It has learned from {data_title(config)} and "
        "nothing else; whoever uses it keeps to the licence of these data. It is not made for "
        "decisions about people, nor for samples that are passed off as real data.",
    ]


def limits(workdir: Path) -> list[str]:
    """Return what a reader should know before trusting the run, one line each."""
    config = config_of(workdir)
    lines = [
        "Samples have the rarities, gaps and errors of the data that were learned from.",
        "Scores of samples depend on how many there are: compare them with those of real data in "
        "the same table, not with other tables.",
    ]
    if config["facts"]["levels"] is not None:
        lines.append(
            "Bits per dimension are those of uniformly dequantised grey levels unless a "
            "dequantiser was used: an upper bound on those of the grey levels themselves."
        )
    if config["train"]["conditional"]:
        lines.append("The network is given the class or condition of what it is to draw.")
    step = latest(workdir)
    if step is not None and step < config["train"]["steps"]:
        lines.append(f"Training was stopped at step {step:,} of {config['train']['steps']:,}.")
    return [f"- {line}" for line in lines + _failed_checks(workdir)]


def _failed_checks(workdir: Path) -> list[str]:
    """Return a line for each check that the health report found wanting."""
    report = read_result(workdir, "diagnose/report.json", "diagnose")
    if report is None:
        return ["The learned score was not checked (`--mode=diagnose`)."]
    failed = [check for check in report["checks"] if not check["good"]]
    return [f"The health report found: {check['name']}, {check['finding']}." for check in failed]
