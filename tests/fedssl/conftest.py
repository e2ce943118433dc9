"""Toys that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedcore.data.images import Images
from fedcore.encoders import Encoder


class Toy(Encoder):
    """The least encoder that has a width and the buffers of a batch norm: 8 x 8 pixels to 8 numbers."""

    def __init__(self, norm: bool = True):
        super().__init__()
        self.width, self.config = 8, {"norm": norm}
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8) if norm else nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def toy() -> Callable[..., Toy]:
    return Toy


@pytest.fixture
def images() -> Callable[..., Images]:
    """(name, n, labelled) to a site's 8 x 8 images, another set for every name."""

    def make(name: str = "a", n: int = 12, labelled: bool = True) -> Images:
        rng = np.random.default_rng(list(name.encode()))
        labels = torch.arange(n) % 3 if labelled else torch.full((n,), -1)
        pixels = rng.uniform(-1, 1, (n, 1, 8, 8)).astype(np.float16)
        return Images(name, pixels, np.full(n, "train"), labels, np.arange(n))

    return make
