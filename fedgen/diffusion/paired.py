"""Image and mask drawn together, for segmenters that lack masks.

A mask is a few channels more that a diffusion model paints: the bits of each pixel's class number as -1 and 1 (Chen et
al. 2022, arXiv 2208.04202). Two bits tell four classes, where a channel for each would crowd out the image.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedcore.data.dataset import Target
from fedcore.data.io.class_numbers import UNLABELED
from fedcore.errors import Refused
from fedgen.diffusion.denoiser import Denoiser, DiffusionGenerator
from fedgen.diffusion.diffusion import Diffusion
from fedgen.diffusion.sampler import Sampler
from fedgen.diffusion.schedule import Noise
from fedgen.generator import Conditions, Generator, ImageShape


class PairedDiffusion(Diffusion):
    """`Diffusion` of images with their masks' bits; where a pixel is unlabelled, its bits teach nothing."""

    targets: ClassVar[tuple[Target, ...]] = ("labels", "masks")

    def __init__(self, canvas: ImageShape, known: Conditions, masks: int = 2, **settings: Any):
        """
        Args:
            canvas: The images; a run takes them from its data.
            known: Classes and sites; a run takes them from its data.
            masks: Class numbers of a pixel, background counted: 0 to masks - 1.
            settings: Those of `Diffusion`; its network is shown images and bits.
        """
        if not 2 <= masks <= UNLABELED:
            raise ValueError(f"masks must lie in 2..{UNLABELED}, background counted, got {masks}")
        super().__init__(with_bits(canvas, masks), known, **settings)
        self.canvas, self.masks = canvas, masks
        self.highest = torch.zeros((), dtype=torch.int64)  # class number seen in this epoch

    def on_train_epoch_start(self) -> None:
        self.highest = torch.zeros((), dtype=torch.int64, device=self.device)

    def on_train_epoch_end(self) -> None:
        """Of all masks at once: to read a number at each step would wait for a GPU."""
        if int(self.highest) >= self.masks:
            told = f"the generator's `masks` must be above it, got {self.masks}"
            raise Refused(f"a mask holds class {int(self.highest)}; {told}")

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        images, labels, masks = batch  # (n, c, *space), (n,) and (n, *space)
        labelled = (masks != UNLABELED)[:, None]
        self.highest = torch.maximum(self.highest, torch.where(labelled[:, 0], masks, 0).max())
        bits = to_bits(masks, self.masks) * labelled
        taught = torch.cat([torch.ones_like(images), labelled.expand_as(bits).float()], dim=1)
        errors = self.errors(torch.cat([images, bits], dim=1), labels, torch.full_like(labels, self.site))
        return ((errors * taught).flatten(1).sum(1) / taught.flatten(1).sum(1)).mean()

    @property
    def generator(self) -> Generator:
        """What draws: the average."""
        return PairedGenerator(self.average, self.known, self.canvas, self.noise, self.dropped, self.masks)


@dataclass(frozen=True)
class PairedGenerator(Generator):
    """Draws images and the masks that belong to them."""

    network: Denoiser
    noise: Noise
    dropped: float
    masks: int

    @property
    def wide(self) -> DiffusionGenerator:
        """What draws images and bits in one."""
        canvas = with_bits(self.canvas, self.masks)
        return DiffusionGenerator(self.network, self.known, canvas, self.noise, self.dropped)

    @property
    def settings(self) -> dict[str, Any]:
        return self.wide.settings | {"masks": self.masks}

    @classmethod
    def build(cls, known: Conditions, canvas: ImageShape, settings: Mapping[str, Any]) -> PairedGenerator:
        wide = DiffusionGenerator.build(known, with_bits(canvas, settings["masks"]), settings)
        return cls(wide.network, known, canvas, wide.noise, wide.dropped, settings["masks"])

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return self.wide.noise_shape

    def draw(
        self, noise: Float[Tensor, "n wide *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler = Sampler(),
    ) -> Float[Tensor, "n c *space"]:  # fmt: skip
        return self.draw_pairs(noise, labels, sites, sampler)[0]

    def draw_pairs(
        self, noise: Float[Tensor, "n wide *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler = Sampler(),
    ) -> tuple[Float[Tensor, "n c *space"], Int[Tensor, "n *space"]]:  # fmt: skip
        both = self.wide.draw(noise, labels, sites, sampler)
        return both[:, : self.canvas.channels], from_bits(both[:, self.canvas.channels :], self.masks)

    def guesses(
        self, noise: Float[Tensor, "n wide *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler, steps: Collection[int],
    ) -> Float[Tensor, "steps n c *space"]:  # fmt: skip
        return self.wide.guesses(noise, labels, sites, sampler, steps)[:, :, : self.canvas.channels]


def bits_of(classes: int) -> int:
    """Bits that tell so many classes."""
    return (classes - 1).bit_length()


def with_bits(canvas: ImageShape, classes: int) -> ImageShape:
    return replace(canvas, channels=canvas.channels + bits_of(classes))


def to_bits(masks: Int[Tensor, "n *space"], classes: int) -> Float[Tensor, "n bits *space"]:
    """-1 or 1 for each bit, the lowest first."""
    return torch.stack([(masks >> bit & 1).float() * 2 - 1 for bit in range(bits_of(classes))], dim=1)


def from_bits(bits: Float[Tensor, "n bits *space"], classes: int) -> Int[Tensor, "n *space"]:
    """The class whose bits are nearest; a pattern that is no class's becomes the nearest one that is."""
    patterns = to_bits(torch.arange(classes, device=bits.device), classes)  # (classes, bits)
    return torch.einsum("nb...,kb->nk...", bits, patterns).argmax(1)
