"""A network as plain data: its static definition, and a dictionary of its parameters.

On such a dictionary jit, grad, optax and checkpoints work without knowing networks.
"""

from typing import Any, NamedTuple, TypeVar

from flax import nnx

Net = TypeVar("Net", bound=nnx.Module)
Params = dict[Any, Any]


class Split(NamedTuple):
    """A network taken apart.

    `merge(train, params)` and `merge(evaluate, params)` put it together again.
    """

    train: nnx.GraphDef  # with dropout: above rate 0, calls need rngs=nnx.Rngs(dropout=key)
    evaluate: nnx.GraphDef  # deterministic: calls need no rngs
    params: Params  # nested plain dict of arrays


def split(net: nnx.Module) -> Split:
    """Take a network apart into its two static definitions and its parameters.

    Raises:
        ValueError: something that changes is not an `nnx.Param` (batch statistics, stored random
            streams, bare arrays). It would be lost between calls.
    """
    try:
        train, state = nnx.split(net, nnx.Param)
    except ValueError as error:
        raise ValueError(
            f"{type(net).__name__} holds state that is not an nnx.Param; networks here are pure: "
            "use GroupNorm or LayerNorm, nnx.Dropout without rngs, and compute constants in the "
            f"call. ({error})"
        ) from error
    evaluate = nnx.graphdef(nnx.view(net, raise_if_not_found=False, deterministic=True))
    return Split(train=train, evaluate=evaluate, params=nnx.to_pure_dict(state))


def merge(graphdef: "nnx.GraphDef[Net]", params: Params) -> Net:
    """Build the network again.

    Call it inside the jitted function and outside of any scan: then it costs tracing time only.
    """
    return nnx.merge(graphdef, params)
