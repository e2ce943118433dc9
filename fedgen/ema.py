"""The exponential moving average (EMA) of a network, which generates better images than the network itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, images: int, halflife: float, steps: Tensor) -> None:
    """One step of the average; longer at the start, so that the initial weights are soon forgotten.

    Args:
        ema: The average; changed in place.
        network: The network that is averaged.
        images: Images of the network's last step.
        halflife: Images after which a weight counts half; 0 copies the network.
        steps: Steps of the average so far; raised by one in place.
    """
    least = 1 - 0.5 ** (images / halflife) if halflife else 1.0
    rate = (9 / (10 + steps)).clamp_min(least)  # stays on the device of `steps`, so that no GPU is waited for
    steps += 1
    slow: list[Tensor] = list(ema.parameters())
    fast: list[Tensor] = list(network.parameters())
    torch._foreach_lerp_(slow, fast, [rate.to(p.dtype) for p in slow])
