"""The slow average of a network, which draws better than the network itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, images: int, halflife: float, steps: Tensor) -> None:
    """The average takes a step; at the start, a longer one, so that it does not stay where the weights began.

    Args:
        average: Changed in place.
        network: What it is the average of.
        images: That the network's step was taken on.
        halflife: Images after which a weight counts half; 0 copies the network.
        steps: How many the average has taken, raised by one in place.
    """
    least = 1 - 0.5 ** (images / halflife) if halflife else 1.0
    part = (9 / (10 + steps)).clamp_min(least)  # of the way to the network; where `steps` is, so that nobody waits
    steps += 1
    slow: list[Tensor] = list(average.parameters())
    fast: list[Tensor] = list(network.parameters())
    torch._foreach_lerp_(slow, fast, [part.to(p.dtype) for p in slow])
