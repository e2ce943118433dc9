"""The generator network of a GAN: from a few random numbers to an image in one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from fedgen.diffusion.sampler import Sampler
from fedgen.generator import ConditionEmbedding, Conditions, Generator, ImageShape
from fedgen.network_levels import GROUPS, require_halvings, require_widths

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
"""By the dimensions of an image."""


class GeneratorNetwork(nn.Module):
    """Residual blocks that double a small map (Miyato and Koyama 2018, arXiv 1802.05637), in 2D and 3D.

    The paper's norms are batch norms conditioned on the class. Here they are group norms conditioned on class, site and
    noise, so images of a batch do not depend on one another, and no batch statistics travel.
    """

    def __init__(
        self, image_shape: ImageShape, conditions: Conditions, widths: Sequence[int] = (32, 64, 128, 128),
        latent_dim: int = 64,
    ):  # fmt: skip
        """
        Args:
            image_shape: Shape of the images.
            conditions: Classes and sites.
            widths: Channels of each level, finest first, multiples of 8; each level but the first halves the image.
            latent_dim: Random numbers per image.

        Raises:
            InputError: The levels cannot halve images of this size.
        """
        super().__init__()
        require_widths(widths)
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim}")
        require_halvings(f"a generator network of {len(widths)} levels", len(widths) - 1, image_shape.size)
        self.config = {"widths": list(widths), "latent_dim": latent_dim}
        self.latent_dim = latent_dim
        self.base_shape = (widths[-1], *(side // 2 ** (len(widths) - 1) for side in image_shape.size))
        dims = len(image_shape.size)
        self.condition_embedding = ConditionEmbedding(conditions, latent_dim)
        self.first = nn.Linear(2 * latent_dim, torch.Size(self.base_shape).numel())
        self.levels = nn.ModuleList(_UpBlock(dims, i, o, 2 * latent_dim) for i, o in pairwise(reversed(widths)))
        self.norm = nn.GroupNorm(GROUPS, widths[0])
        self.last = CONVOLUTIONS[dims](widths[0], image_shape.channels, 3, padding=1)

    def forward(
        self, noise: Float[Tensor, "n latent"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c *space"]:
        """Images in [-1, 1] from standard normal noise."""
        condition = torch.cat([noise, self.condition_embedding(labels, sites)], 1)
        maps = self.first(condition).unflatten(1, self.base_shape)
        for level in self.levels:
            maps = level(maps, condition)
        images: Tensor = self.last(relu(self.norm(maps)))
        return images.float().tanh()


@dataclass(frozen=True)
class GANGenerator(Generator):
    """Generates images in one step; ignores the sampler."""

    network: GeneratorNetwork

    @property
    def settings(self) -> dict[str, Any]:
        return self.network.config

    @classmethod
    def build(cls, conditions: Conditions, image_shape: ImageShape, settings: Mapping[str, Any]) -> GANGenerator:
        return cls(GeneratorNetwork(image_shape, conditions, **settings), conditions, image_shape)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.network.latent_dim,)

    def sample(
        self, noise: Float[Tensor, "n latent"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler = Sampler(),
    ) -> Float[Tensor, "n c *space"]:  # fmt: skip
        images: Tensor = self.network(noise, labels, sites)
        return images


class _UpBlock(nn.Module):
    """Doubles a map: two convolutions and a shortcut."""

    def __init__(self, dims: int, before: int, after: int, condition_width: int):
        super().__init__()
        convolution = CONVOLUTIONS[dims]
        self.norms = nn.ModuleList(_ConditionalNorm(channels, condition_width) for channels in (before, after))
        self.convolutions = nn.ModuleList(convolution(i, after, 3, padding=1) for i in (before, after))
        self.shortcut = convolution(before, after, 1)

    def forward(self, maps: Float[Tensor, "n before *small"], condition: Float[Tensor, "n width"]) -> Tensor:
        new = interpolate(relu(self.norms[0](maps, condition)), scale_factor=2.0)
        new = self.convolutions[0](new)
        new = self.convolutions[1](relu(self.norms[1](new, condition)))
        doubled: Tensor = new + interpolate(self.shortcut(maps), scale_factor=2.0)
        return doubled


class _ConditionalNorm(nn.Module):
    """A group norm whose scale and shift are linear in the condition."""

    def __init__(self, channels: int, condition_width: int):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels, affine=False)
        self.scale_and_shift = nn.Linear(condition_width, 2 * channels)

    def forward(self, maps: Float[Tensor, "n channels *space"], condition: Float[Tensor, "n width"]) -> Tensor:
        scale, shift = self.scale_and_shift(condition).view(len(maps), 2, -1, *[1] * (maps.dim() - 2)).unbind(1)
        normalized: Tensor = self.norm(maps) * (1 + scale) + shift
        return normalized
