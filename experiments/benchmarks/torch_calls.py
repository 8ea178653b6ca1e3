"""Forward pass and training step of a network in PyTorch, to be timed beside ours.

The training step has Adam, clipping and a moving average, as ours has. Needs PyTorch.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch  # pyright: ignore[reportMissingImports]


def torch_calls(
    net: Any,
    x: Any,
    t: Any,
    *,
    compiled: Any = None,
    types: Callable[[], Any] = contextlib.nullcontext,
    fused: bool = False,
) -> dict[str, Callable[[], Any]]:
    """Return the calls "forward" and "step", without arguments.

    Args:
        net: a module (x, t) -> noise.
        x: images (batch, channels, height, width).
        t: times (batch,), from 0 to 1000.
        compiled: what is called in place of `net`, such as `torch.compile(net)`.
        types: makes the context in which `net` is called, such as an autocast.
        fused: let Adam update all parameters in one kernel.
    """
    network = net if compiled is None else compiled
    adam = torch.optim.Adam(net.parameters(), 2e-4, fused=fused)
    weights = [p for p in net.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in weights]

    def forward():
        net.eval()
        with torch.no_grad(), types():
            return network(x, t)

    def step():
        net.train()
        noise = torch.randn_like(x)
        with types():
            loss = ((network(0.7 * x + 0.7 * noise, t) - noise) ** 2).mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 1e-4)  # pyright: ignore[reportPrivateImportUsage]
        return loss.detach()

    return {"forward": forward, "step": step}
