"""Features of a site's images."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedcore.data.dataset import Images


def embed(
    encoder: nn.Module, images: Images, max_count: int, device: torch.device, batch: int = 256
) -> tuple[Float[Tensor, "n width"], Tensor]:
    """Features and labels (n,) of at most `max_count` images, evenly spaced over the site's images."""
    indices = evenly_spaced(len(images), max_count)
    features = [encoder(images.batch(part, device)).float().cpu() for part in indices.split(batch)]
    return torch.cat(features), images.labels[indices]


def evenly_spaced(count: int, max_count: int) -> Int[Tensor, "n"]:
    """At most `max_count` of the indices 0 to `count` - 1, evenly spaced."""
    return torch.linspace(0, count - 1, min(max_count, count)).long()
