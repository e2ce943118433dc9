"""Small classifiers of discs, rings and crosses, each trained on images of its own."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

CLASSES, SIDE = 3, 16


def shapes(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of a disc, a ring or a cross at a random place, with noise, and their classes."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    at = torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")).float()
    centres = 5 + 6 * torch.rand(n, 2, generator=random)
    away = (at[None] - centres[:, :, None, None]).abs()
    far = away.square().sum(1).sqrt()
    inside = torch.stack([3.5 - far, 1.5 - (far - 3.5).abs(), torch.minimum(1.5 - away.amin(1), 5 - far)], 1)
    images = 1.4 * torch.sigmoid(2 * inside[torch.arange(n), labels]) - 0.7
    return (images + 0.1 * torch.randn(n, SIDE, SIDE, generator=random)).clamp(-1, 1)[:, None], labels


def untrained(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16),
            nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(16, CLASSES),
        )  # fmt: skip


@cache
def members() -> tuple[nn.Sequential, ...]:
    """Three, each trained on its own images from its own initial weights."""
    found = []
    for site in range(3):
        images, labels = shapes(96, seed=site)
        network = untrained(site)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            cross_entropy(network(images), labels).backward()
            optimizer.step()
        found.append(network.requires_grad_(False).eval())
    return tuple(found)


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((network.eval()(images).argmax(1) == labels).float().mean())


def roughness(images: Tensor) -> float:
    """Mean square of the differences of neighbours over twice the variance: 1 for white noise, 0 for a blank image."""
    steps = torch.cat([images.diff(dim=2).flatten(), images.diff(dim=3).flatten()])
    return float(steps.square().mean() / (2 * images.var()))
