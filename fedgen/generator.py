"""A generator: what it can be asked for, and what every kind of it can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedcore.errors import InputError
from fedgen.noise import Noise
from fedgen.sampling import Sampler

UNSAID = -1
"""A label or site that is not known, or left open."""


@dataclass(frozen=True)
class Known:
    """What a generator can be asked for."""

    classes: tuple[str, ...]
    sites: tuple[str, ...]

    def label(self, name: str | None) -> int:
        return _place(name, self.classes, "class")

    def site(self, name: str | None) -> int:
        return _place(name, self.sites, "site")


@dataclass(frozen=True)
class Canvas:
    """What images are drawn on."""

    channels: int
    size: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(c, *space)."""
        return (self.channels, *self.size)


@dataclass(frozen=True)
class Generator(ABC):
    """Draws images by class and site; holds no optimizer and no image."""

    network: nn.Module
    """All weights that drawing takes."""
    known: Known
    canvas: Canvas

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What `build` takes, as JSON holds it."""

    @classmethod
    @abstractmethod
    def build(cls, known: Known, canvas: Canvas, settings: Mapping[str, Any]) -> Generator:
        """One with fresh weights."""

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Of the standard normal numbers that one image is made from."""
        return self.canvas.shape

    @abstractmethod
    def draw(
        self, noise: Float[Tensor, "n *shape"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler = Sampler(),
    ) -> Float[Tensor, "n c *space"]:  # fmt: skip
        """Images in [-1, 1]; UNSAID leaves a class or a site open. `sampler` is for those that draw in steps."""

    def draw_pairs(
        self, noise: Float[Tensor, "n *shape"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler = Sampler(),
    ) -> tuple[Float[Tensor, "n c *space"], Int[Tensor, "n *space"] | None]:  # fmt: skip
        """Images, and the class of each pixel if it draws masks too."""
        return self.draw(noise, labels, sites, sampler), None


@runtime_checkable
class InSteps(Protocol):
    """A generator that walks to its images."""

    @property
    def noise(self) -> Noise:
        """The process that it walks back."""
        ...

    def guesses(
        self, noise: Float[Tensor, "n *shape"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler, steps: Collection[int],
    ) -> Float[Tensor, "steps n c *space"]:  # fmt: skip
        """What it takes the images for at these of the sampler's steps, counted from 0.

        At the last it is what `draw` makes, but for DDIM's rounding where the steps do not divide 1000.
        """
        ...


class ByName(nn.Module):
    """A vector for every class and site asked for, their sum; the last row of each table is for UNSAID."""

    def __init__(self, known: Known, width: int):
        super().__init__()
        self.classes = nn.Embedding(len(known.classes) + 1, width)
        self.sites = nn.Embedding(len(known.sites) + 1, width)

    def forward(self, labels: Int[Tensor, " n"], sites: Int[Tensor, " n"]) -> Float[Tensor, "n width"]:
        # A negative index counts from the end, as in a list.
        rows = [places % table.num_embeddings for places, table in ((labels, self.classes), (sites, self.sites))]
        asked: Tensor = self.classes(rows[0]) + self.sites(rows[1])
        return asked


def left_unsaid(places: Int[Tensor, " n"], part: float, random: torch.Generator | None = None) -> Int[Tensor, " n"]:
    """`places`, of which about that part is UNSAID: what may be left open when drawing has to be learned so too."""
    return torch.where(torch.rand(len(places), device=places.device, generator=random) < part, UNSAID, places)


def _place(name: str | None, names: Sequence[str], what: str) -> int:
    if name is None:
        return UNSAID
    if name not in names:
        raise InputError(f"the generator knows no {what} {name!r}; it knows {', '.join(names) or 'none'}")
    return names.index(name)
