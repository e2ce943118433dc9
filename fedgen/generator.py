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
from fedgen.diffusion.sampler import Sampler
from fedgen.diffusion.schedule import Noise

UNCONDITIONED = -1
"""A label or site that is not known, or left open."""


@dataclass(frozen=True)
class Conditions:
    """What a generator can be asked for."""

    classes: tuple[str, ...]
    sites: tuple[str, ...]
    images: tuple[tuple[int, ...], ...] | None = None
    """Trained on: a row for each class, or one without classes, of a number for each site, or one without sites; 0 of
    too few patients to tell (`fedgen.synthetic.class_counts`). None: nobody knows."""

    def __post_init__(self) -> None:
        shape = (max(1, len(self.classes)), max(1, len(self.sites)))
        if self.images is not None and [len(row) for row in self.images] != [shape[1]] * shape[0]:
            raise ValueError(f"images must be counted for {shape[0]} classes and {shape[1]} sites, got {self.images}")

    def count(self, label: str | None, site: str | None) -> int:
        """Images of a class and site that were trained on; 1 where it is known of no site of the class.

        Raises:
            InputError: It knows no such class or site.
        """
        row, column = self.label(label), self.site(site)
        counts = self.images[row] if self.images else ()
        return counts[column] if any(counts) else 1

    def label(self, name: str | None) -> int:
        return _place(name, self.classes, "class")

    def site(self, name: str | None) -> int:
        return _place(name, self.sites, "site")


@dataclass(frozen=True)
class ImageShape:
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
    known: Conditions
    canvas: ImageShape

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What `build` takes, as JSON holds it."""

    @classmethod
    @abstractmethod
    def build(cls, known: Conditions, canvas: ImageShape, settings: Mapping[str, Any]) -> Generator:
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

    @property
    def dropped(self) -> float:
        """Part of the images whose class and site it was not told while training."""
        ...

    def guesses(
        self, noise: Float[Tensor, "n *shape"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler, steps: Collection[int],
    ) -> Float[Tensor, "steps n c *space"]:  # fmt: skip
        """What it takes the images for at these of the sampler's steps, counted from 0.

        At the last it is what `draw` makes, but for DDIM's rounding where the steps do not divide 1000.
        """
        ...


class ConditionEmbedding(nn.Module):
    """A vector for every class and site asked for, their sum; the last row of each table is for UNSAID."""

    def __init__(self, known: Conditions, width: int):
        super().__init__()
        self.classes = nn.Embedding(len(known.classes) + 1, width)
        self.sites = nn.Embedding(len(known.sites) + 1, width)

    def forward(self, labels: Int[Tensor, " n"], sites: Int[Tensor, " n"]) -> Float[Tensor, "n width"]:
        # A negative index counts from the end, as in a list.
        rows = [places % table.num_embeddings for places, table in ((labels, self.classes), (sites, self.sites))]
        asked: Tensor = self.classes(rows[0]) + self.sites(rows[1])
        return asked


def dropped_conditions(
    labels: Int[Tensor, " n"], sites: Int[Tensor, " n"], part: float, random: torch.Generator | None = None
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Class and site, of about that part of the images both UNSAID: what is left open when drawing has to be learned.

    Guidance compares with an image of which nothing is said. Our reading: each is also UNSAID by itself, of as many
    images again, since a class may be drawn in no site's look, and a site's look in no class.
    """
    together, label_alone, site_alone = torch.rand(3, len(labels), device=labels.device, generator=random) < part
    hidden = (together | label_alone, together | site_alone)
    return torch.where(hidden[0], UNCONDITIONED, labels), torch.where(hidden[1], UNCONDITIONED, sites)


def _place(name: str | None, names: Sequence[str], what: str) -> int:
    if name is None:
        return UNCONDITIONED
    if name not in names:
        raise InputError(f"the generator knows no {what} {name!r}; it knows {', '.join(names) or 'none'}")
    return names.index(name)
