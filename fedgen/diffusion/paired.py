"""Diffusion of images together with their segmentation masks, for segmenters that have few masks.

The mask is generated as extra channels: the bits of each pixel's class number as -1 and 1 (Chen et al. 2022,
arXiv 2208.04202). Two bits stand for four classes; one channel per class would outweigh the image.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedcore.data.dataset import Target
from fedcore.data.mask_classes import UNLABELED
from fedcore.errors import Refused
from fedgen.diffusion.denoiser import Denoiser, DiffusionGenerator
from fedgen.diffusion.diffusion import Diffusion
from fedgen.diffusion.sampler import Sampler
from fedgen.diffusion.schedule import NoiseSchedule
from fedgen.generator import Conditions, Generator, ImageShape


class PairedDiffusion(Diffusion):
    """`Diffusion` of images with the bits of their masks; bits of unlabelled pixels are left out of the loss."""

    targets: ClassVar[tuple[Target, ...]] = ("labels", "masks")
    scratch: ClassVar[tuple[str, ...]] = (*Diffusion.scratch, "highest_class")

    def __init__(self, image_shape: ImageShape, conditions: Conditions, mask_classes: int = 2, **settings: Any):
        """
        Args:
            image_shape: Shape of the images; a run takes it from its data.
            conditions: Classes and sites; a run takes them from its data.
            mask_classes: Number of classes of a pixel, background included; masks hold 0 to mask_classes - 1.
            settings: Those of `Diffusion`; its network sees images and bits.
        """
        if not 2 <= mask_classes <= UNLABELED:
            raise ValueError(f"mask_classes must lie in 2..{UNLABELED}, background included, got {mask_classes}")
        super().__init__(with_bit_channels(image_shape, mask_classes), conditions, **settings)
        self.image_shape, self.mask_classes = image_shape, mask_classes
        self.highest_class = torch.zeros((), dtype=torch.int64)  # in the masks of this epoch

    def on_train_epoch_start(self) -> None:
        self.highest_class = torch.zeros((), dtype=torch.int64, device=self.device)

    def on_train_epoch_end(self) -> None:
        """Checks all masks at once: to read a number at each step would wait for a GPU."""
        if int(self.highest_class) >= self.mask_classes:
            raise Refused(
                f"a mask holds class {int(self.highest_class)}; the generator's mask_classes must be larger than that, "
                f"got {self.mask_classes}"
            )

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        images, labels, masks = batch  # (n, c, *space), (n,) and (n, *space)
        labelled = (masks != UNLABELED)[:, None]
        self.highest_class = torch.maximum(self.highest_class, torch.where(labelled[:, 0], masks, 0).max())
        bits = to_bits(masks, self.mask_classes) * labelled
        counted = torch.cat([torch.ones_like(images), labelled.expand_as(bits).float()], dim=1)
        errors = self.errors(torch.cat([images, bits], dim=1), labels, torch.full_like(labels, self.site))
        return ((errors * counted).flatten(1).sum(1) / counted.flatten(1).sum(1)).mean()

    @property
    def generator(self) -> Generator:
        """Generates with the EMA."""
        return PairedGenerator(
            self.ema, self.conditions, self.image_shape, self.schedule, self.condition_dropout, self.mask_classes
        )


@dataclass(frozen=True)
class PairedGenerator(Generator):
    """Generates images with their masks."""

    network: Denoiser
    schedule: NoiseSchedule
    condition_dropout: float
    mask_classes: int

    @property
    def stacked(self) -> DiffusionGenerator:
        """Generates the channels of image and bits together."""
        shape = with_bit_channels(self.image_shape, self.mask_classes)
        return DiffusionGenerator(self.network, self.conditions, shape, self.schedule, self.condition_dropout)

    @property
    def settings(self) -> dict[str, Any]:
        return self.stacked.settings | {"mask_classes": self.mask_classes}

    @classmethod
    def build(cls, conditions: Conditions, image_shape: ImageShape, settings: Mapping[str, Any]) -> PairedGenerator:
        mask_classes = settings["mask_classes"]
        stacked = DiffusionGenerator.build(conditions, with_bit_channels(image_shape, mask_classes), settings)
        return cls(
            stacked.network, conditions, image_shape, stacked.schedule, stacked.condition_dropout, mask_classes
        )  # fmt: skip

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return self.stacked.noise_shape

    def sample(
        self, noise: Float[Tensor, "n stacked *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler = Sampler(),
    ) -> Float[Tensor, "n c *space"]:  # fmt: skip
        return self.sample_with_masks(noise, labels, sites, sampler)[0]

    def sample_with_masks(
        self, noise: Float[Tensor, "n stacked *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler = Sampler(),
    ) -> tuple[Float[Tensor, "n c *space"], Int[Tensor, "n *space"]]:  # fmt: skip
        both, channels = self.stacked.sample(noise, labels, sites, sampler), self.image_shape.channels
        return both[:, :channels], from_bits(both[:, channels:], self.mask_classes)

    def denoised(
        self, noise: Float[Tensor, "n stacked *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler, steps: Collection[int],
    ) -> Float[Tensor, "steps n c *space"]:  # fmt: skip
        return self.stacked.denoised(noise, labels, sites, sampler, steps)[:, :, : self.image_shape.channels]


def bit_count(classes: int) -> int:
    """Bits that distinguish so many classes."""
    return (classes - 1).bit_length()


def with_bit_channels(image_shape: ImageShape, classes: int) -> ImageShape:
    return replace(image_shape, channels=image_shape.channels + bit_count(classes))


def to_bits(masks: Int[Tensor, "n *space"], classes: int) -> Float[Tensor, "n bits *space"]:
    """-1 or 1 for each bit, the lowest first."""
    return torch.stack([(masks >> bit & 1).float() * 2 - 1 for bit in range(bit_count(classes))], dim=1)


def from_bits(bits: Float[Tensor, "n bits *space"], classes: int) -> Int[Tensor, "n *space"]:
    """The class whose bits are nearest; a pattern of no class becomes the nearest class."""
    patterns = to_bits(torch.arange(classes, device=bits.device), classes)  # (classes, bits)
    return torch.einsum("nb...,kb->nk...", bits, patterns).argmax(1)
