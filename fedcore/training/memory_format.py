"""The memory layout of convolutions' weights."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def channels_last(module: Network) -> Network:
    """Weights in channels-last layout: 1.4 times as fast on a CPU (ResNet-10, 64 x 64), and best for tensor cores."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in module.parameters():
        if parameter.dim() in formats:
            # Not `contiguous`: it takes weights with one input channel for channels last and does not change them. The
            # first convolution then returns channels first, and the pooling after it takes seven times as long.
            laid_out = torch.empty_like(parameter, memory_format=formats[parameter.dim()])
            parameter.data = laid_out.copy_(parameter.detach())
    return module
