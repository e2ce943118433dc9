"""What an encoder makes of a site's images."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedcore.data.dataset import Images


def embed(
    encoder: nn.Module, images: Images, at_most: int, device: torch.device, batch: int = 256
) -> tuple[Float[Tensor, "n width"], Tensor]:
    """Features and labels (n,) of up to `at_most` images, spread evenly."""
    places = evenly(len(images), at_most)
    features = [encoder(images.batch(part, device)).float().cpu() for part in places.split(batch)]
    return torch.cat(features), images.labels[places]


def evenly(count: int, at_most: int) -> Int[Tensor, "n"]:
    """Up to `at_most` of `count` places, spread evenly."""
    return torch.linspace(0, count - 1, min(at_most, count)).long()
