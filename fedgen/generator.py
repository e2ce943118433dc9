"""Generators: the conditions, the shape of the images, and the interface that every kind of generator implements."""

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
from fedgen.diffusion.schedule import NoiseSchedule

UNCONDITIONED = -1
"""Index of a class or a site that is unknown or left open."""


@dataclass(frozen=True)
class Conditions:
    """The classes and sites that a generator can be conditioned on."""

    classes: tuple[str, ...]
    sites: tuple[str, ...]
    image_counts: tuple[tuple[int, ...], ...] | None = None
    """Training images: one row per class (a single row without classes), one number per site (a single one without
    sites). 0 also where too few patients have such images (`fedgen.synthetic.class_counts`). None: unknown."""

    def __post_init__(self) -> None:
        shape = (max(1, len(self.classes)), max(1, len(self.sites)))
        if self.image_counts is not None and [len(row) for row in self.image_counts] != [shape[1]] * shape[0]:
            raise ValueError(
                f"image_counts must have {shape[0]} rows (classes) of {shape[1]} numbers (sites), "
                f"got {self.image_counts}"
            )

    def image_count(self, label: str | None, site: str | None) -> int:
        """Training images of a class at a site; 1 if no site has a count of the class.

        Raises:
            InputError: Unknown class or site.
        """
        row, column = self.class_index(label), self.site_index(site)
        counts = self.image_counts[row] if self.image_counts else ()
        return counts[column] if any(counts) else 1

    def class_index(self, name: str | None) -> int:
        return _index(name, self.classes, "class", "classes")

    def site_index(self, name: str | None) -> int:
        return _index(name, self.sites, "site", "sites")


@dataclass(frozen=True)
class ImageShape:
    """Channels and size of generated images."""

    channels: int
    size: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(c, *space)."""
        return (self.channels, *self.size)


@dataclass(frozen=True)
class Generator(ABC):
    """Generates images conditioned on class and site; holds no optimizer and no training image."""

    network: nn.Module
    """All weights that generation needs."""
    conditions: Conditions
    image_shape: ImageShape

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The argument of `build`, as JSON values."""

    @classmethod
    @abstractmethod
    def build(cls, conditions: Conditions, image_shape: ImageShape, settings: Mapping[str, Any]) -> Generator:
        """A generator with fresh weights."""

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the standard normal noise that one image is generated from."""
        return self.image_shape.shape

    @abstractmethod
    def sample(
        self, noise: Float[Tensor, "n *shape"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler = Sampler(),
    ) -> Float[Tensor, "n c *space"]:  # fmt: skip
        """Images in [-1, 1]. `labels` and `sites` are indices or UNCONDITIONED; only diffusion uses `sampler`."""

    def sample_with_masks(
        self, noise: Float[Tensor, "n *shape"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler = Sampler(),
    ) -> tuple[Float[Tensor, "n c *space"], Int[Tensor, "n *space"] | None]:  # fmt: skip
        """Images, and the class of each pixel if the generator also makes masks."""
        return self.sample(noise, labels, sites, sampler), None


@runtime_checkable
class IterativeGenerator(Protocol):
    """A generator that denoises in steps."""

    @property
    def schedule(self) -> NoiseSchedule: ...

    @property
    def condition_dropout(self) -> float:
        """Fraction of images that were trained without class and site."""
        ...

    def denoised(
        self, noise: Float[Tensor, "n *shape"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler, steps: Collection[int],
    ) -> Float[Tensor, "steps n c *space"]:  # fmt: skip
        """The images as predicted at these steps of the sampler, counted from 0.

        The last step predicts what `sample` returns, up to DDIM's rounding where the steps do not divide 1000.
        """
        ...


class ConditionEmbedding(nn.Module):
    """The sum of an embedding of the class and one of the site; the last row of each table is for UNCONDITIONED."""

    def __init__(self, conditions: Conditions, width: int):
        super().__init__()
        self.classes = nn.Embedding(len(conditions.classes) + 1, width)
        self.sites = nn.Embedding(len(conditions.sites) + 1, width)

    def forward(self, labels: Int[Tensor, " n"], sites: Int[Tensor, " n"]) -> Float[Tensor, "n width"]:
        # A negative index counts from the end, as in a list.
        rows = [indices % table.num_embeddings for indices, table in ((labels, self.classes), (sites, self.sites))]
        embedding: Tensor = self.classes(rows[0]) + self.sites(rows[1])
        return embedding


def drop_conditions(
    labels: Int[Tensor, " n"], sites: Int[Tensor, " n"], probability: float, random: torch.Generator | None = None
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Sets class and site to UNCONDITIONED with this probability, so that unconditional generation is trained too.

    Guidance needs images without any condition. Our reading: class and site are also dropped alone, each with the same
    probability, since an image can be generated with a class and no site, or with a site and no class.
    """
    both, class_alone, site_alone = torch.rand(3, len(labels), device=labels.device, generator=random) < probability
    dropped = (both | class_alone, both | site_alone)
    return torch.where(dropped[0], UNCONDITIONED, labels), torch.where(dropped[1], UNCONDITIONED, sites)


def _index(name: str | None, names: Sequence[str], kind: str, kinds: str) -> int:
    if name is None:
        return UNCONDITIONED
    if name not in names:
        raise InputError(f"the generator has no {kind} {name!r}; its {kinds}: {', '.join(names) or 'none'}")
    return names.index(name)
