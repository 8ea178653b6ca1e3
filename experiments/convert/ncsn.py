"""What the PyTorch code of NCSNv2 (github.com/ermongroup/ncsnv2, and score_sde_pytorch after it) calls the weights of its RefineNets."""

from models import NCSN

from .rules import OIHW, SAME, Path, Rule, joined, single

# Stages from fine to coarse, and what refines them from coarse to fine; the sixth stage was put in between later.
STAGES = {4: ("1", "2", "3", "4"), 5: ("1", "2", "3", "4", "5"), 6: ("1", "2", "3", "31", "4", "5")}
REFINE = {4: ("1", "2", "3", "4"), 5: ("1", "2", "3", "4", "5"), 6: ("1", "2", "31", "3", "4", "5")}
PARTS = ("gamma", "alpha", "beta")
ROW = single(lambda a: a[None], lambda a: a[0])


def ncsn_rules(net: NCSN) -> list[Rule]:
    """Return the rules for a state dict of an `NCSN` of four, five or six stages."""
    number, last = len(net.stages), len(net.stages) - 1
    rules = [
        *_pair("begin_conv", ("conv_in",)),
        *_norm(net, "normalizer", ("norm_out",)),
        *_pair("end_conv", ("conv_out",)),
    ]
    for i, (name, stage) in enumerate(zip(STAGES[number], net.stages, strict=True)):
        for j, block in enumerate(stage):
            prefix, path, inner = f"res{name}.{j}", ("stages", i, j), ".conv" if block.halve else ""
            for k in (0, 1):
                rules += _norm(net, f"{prefix}.normalize{k + 1}", (*path, f"norm{k}"))
            rules += _pair(f"{prefix}.conv1", (*path, "conv0")) + _pair(
                f"{prefix}.conv2{inner}", (*path, "conv1")
            )
            rules += (
                []
                if block.shortcut is None
                else _pair(f"{prefix}.shortcut{inner}", (*path, "shortcut"))
            )
    for i, name in enumerate(REFINE[number]):
        prefix, path, joins = f"refine{name}", ("refine", i), range(2 if i else 0)
        for j in range(2 if i else 1):
            rules += _units(net, f"{prefix}.adapt_convs.{j}", (*path, "adapt", j), 2)
        rules += _units(net, f"{prefix}.output_convs", (*path, "out"), 3 if i == last else 1)
        rules += [
            rule for j in joins for rule in _pair(f"{prefix}.msf.convs.{j}", (*path, "join", j))
        ]
        rules += [_kernel(f"{prefix}.crp.convs.{j}", (*path, "pool", j)) for j in (0, 1)]
        if net.kind.levels:
            rules += [
                rule
                for j in joins
                for rule in _norm(net, f"{prefix}.msf.norms.{j}", (*path, "join_norms", j))
            ]
            rules += [
                rule
                for j in (0, 1)
                for rule in _norm(net, f"{prefix}.crp.norms.{j}", (*path, "pool_norms", j))
            ]
    return rules


def _units(net: NCSN, prefix: str, path: Path, number: int) -> list[Rule]:
    rules = []
    for j in range(2 * number):
        name = f"{prefix}.{j // 2 + 1}_{j % 2 + 1}"
        rules.append(_kernel(f"{name}_conv", (*path, "convs", j)))
        rules += _norm(net, f"{name}_norm", (*path, "norms", j)) if net.kind.levels else []
    return rules


def _kernel(prefix: str, path: Path) -> Rule:
    return Rule((*path, "kernel"), (f"{prefix}.weight",), OIHW)


def _pair(prefix: str, path: Path) -> list[Rule]:
    return [_kernel(prefix, path), Rule((*path, "bias"), (f"{prefix}.bias",), SAME)]


def _norm(net: NCSN, prefix: str, path: Path) -> list[Rule]:
    """Return the rule for a normalisation: a table of its three rows for each noise level, or each of them alone."""
    names, layout = (f"{prefix}.embed.weight",), SAME
    if not net.kind.levels:
        names, layout = tuple(f"{prefix}.{part}" for part in PARTS), joined(ROW, 3)
    return [Rule((*path, "rows"), names, layout)]
