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

    def __init__(self) -> None:
        super().__init__()
        self.width, self.config = 8, {}
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8))

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
def toy() -> Callable[[], Toy]:
    return Toy


@pytest.fixture
def images() -> Callable[..., Images]:
    """(labels, patients, name) to a site's random 8 x 8 images; patients of their own if not given."""

    def make(labels: list[int], patients: list[int] | None = None, name: str = "a") -> Images:
        rng, n = np.random.default_rng(list(name.encode())), len(labels)
        pixels = rng.uniform(-1, 1, (n, 1, 8, 8)).astype(np.float16)
        owner = np.array(range(n) if patients is None else patients, dtype=np.int64)
        return Images(name, pixels, np.full(n, "train"), torch.tensor(labels, dtype=torch.int64), owner)

    return make
