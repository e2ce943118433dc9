"""Fixtures that every test may take."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from fedcore.models.base import Encoder

_REPOSITORY = Path(__file__).parents[1]

# The same examples on every machine, however busy it is.
settings.register_profile("fedpretrain", derandomize=True, deadline=None, database=None, max_examples=40)
settings.load_profile("fedpretrain")


class Toy(Encoder):
    """The least encoder that has a width and the buffers of a batch norm: 8 x 8 pixels to 8 numbers."""

    def __init__(self, norm: bool = True):
        super().__init__()
        self.width, self.config = 8, {"norm": norm}
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8) if norm else nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


@pytest.fixture
def toy() -> Callable[..., Toy]:
    return Toy


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Sums in the same order on every machine, and no waiting for busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real image sets: `FEDPRETRAIN_DATA`, else shared/data beside the repository."""
    folder = Path(os.environ.get("FEDPRETRAIN_DATA") or _REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no real images: set FEDPRETRAIN_DATA to their folder")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _cache_apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests never read or write the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDPRETRAIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
