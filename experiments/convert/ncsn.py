"""What the PyTorch code of NCSNv2 calls the weights of its RefineNets.

The code is github.com/ermongroup/ncsnv2, and score_sde_pytorch after it.
"""

from models import NCSN

from .rules import OIHW, SAME, Path, Rule, joined, single

# Stages from fine to coarse, and what refines them from coarse to fine; the sixth stage was put in
# between later.
STAGES = {4: ("1", "2", "3", "4"), 5: ("1", "2", "3", "4", "5"), 6: ("1", "2", "3", "31", "4", "5")}
REFINE = {4: ("1", "2", "3", "4"), 5: ("1", "2", "3", "4", "5"), 6: ("1", "2", "31", "3", "4", "5")}
PARTS = ("gamma", "alpha", "beta")
ROW = single(lambda a: a[None], lambda a: a[0])


def ncsn_rules(net: NCSN) -> list[Rule]:
    """Return the rules for a state dict of an `NCSN` of four, five or six stages."""
    number = len(net.stages)
    rules = [
        *_pair("begin_conv", ("conv_in",)),
        *_norm(net, "normalizer", ("norm_out",)),
        *_pair("end_conv", ("conv_out",)),
    ]
    for i, (name, stage) in enumerate(zip(STAGES[number], net.stages, strict=True)):
        for j, block in enumerate(stage):
            rules += _block(net, f"res{name}.{j}", ("stages", i, j), block)
    for i, name in enumerate(REFINE[number]):
        rules += _refinement(net, f"refine{name}", i, last=i == number - 1)
    return rules


def _block(net: NCSN, prefix: str, path: Path, block) -> list[Rule]:
    """Return the rules for a residual block of a stage."""
    rules = []
    inner = ".conv" if block.halve else ""
    for k in (0, 1):
        rules += _norm(net, f"{prefix}.normalize{k + 1}", (*path, f"norm{k}"))
    rules += _pair(f"{prefix}.conv1", (*path, "conv0"))
    rules += _pair(f"{prefix}.conv2{inner}", (*path, "conv1"))
    if block.shortcut is not None:
        rules += _pair(f"{prefix}.shortcut{inner}", (*path, "shortcut"))
    return rules


def _refinement(net: NCSN, prefix: str, i: int, last: bool) -> list[Rule]:
    """Return the rules for what refines a stage: adaptation, joining, pooling and output."""
    path = ("refine", i)
    inputs = 2 if i else 1  # the stage itself, and what was refined before
    joins = range(2 if i else 0)
    rules = []
    for j in range(inputs):
        rules += _units(net, f"{prefix}.adapt_convs.{j}", (*path, "adapt", j), 2)
    rules += _units(net, f"{prefix}.output_convs", (*path, "out"), 3 if last else 1)
    for j in joins:
        rules += _pair(f"{prefix}.msf.convs.{j}", (*path, "join", j))
    for j in (0, 1):
        rules.append(_kernel(f"{prefix}.crp.convs.{j}", (*path, "pool", j)))
    if net.kind.levels:
        for j in joins:
            rules += _norm(net, f"{prefix}.msf.norms.{j}", (*path, "join_norms", j))
        for j in (0, 1):
            rules += _norm(net, f"{prefix}.crp.norms.{j}", (*path, "pool_norms", j))
    return rules


def _units(net: NCSN, prefix: str, path: Path, number: int) -> list[Rule]:
    """Return the rules for `number` units of two convolutions."""
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
    """Return the rule for a normalisation.

    With noise levels its three rows for each of them lie in one array there, otherwise each of them
    in one of its own.
    """
    if net.kind.levels:
        return [Rule((*path, "rows"), (f"{prefix}.embed.weight",), SAME)]
    names = tuple(f"{prefix}.{part}" for part in PARTS)
    return [Rule((*path, "rows"), names, joined(ROW, 3))]
