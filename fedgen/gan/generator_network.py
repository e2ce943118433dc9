"""The network that draws an image in one step, from a few random numbers, and the generator made of it."""

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


class Painter(nn.Module):
    """Residual blocks that double a small map (Miyato and Koyama 2018, arXiv 1802.05637), in 2D and 3D.

    The paper's norms are batch norms that are told the class. Here they are group norms: an image never hears of
    another, and no statistics of a batch travel.
    """

    def __init__(
        self, canvas: ImageShape, known: Conditions, widths: Sequence[int] = (32, 64, 128, 128), latent: int = 64
    ):
        """
        Args:
            canvas: The images.
            known: What can be asked for.
            widths: Channels of each level, finest first, multiples of 8; each level but the first halves the image.
            latent: Random numbers that an image is made from.

        Raises:
            InputError: The levels do not reach the size of the images.
        """
        super().__init__()
        require_widths(widths)
        if latent < 1:
            raise ValueError(f"latent must be at least 1, got {latent}")
        require_halvings(f"a painter of {len(widths)} levels", len(widths) - 1, canvas.size)
        self.config = {"widths": list(widths), "latent": latent}
        self.latent = latent
        self.base = (widths[-1], *(side // 2 ** (len(widths) - 1) for side in canvas.size))
        dims = len(canvas.size)
        self.asked = ConditionEmbedding(known, latent)
        self.first = nn.Linear(2 * latent, torch.Size(self.base).numel())
        self.levels = nn.ModuleList(_Up(dims, i, o, 2 * latent) for i, o in pairwise(reversed(widths)))
        self.norm = nn.GroupNorm(GROUPS, widths[0])
        self.last = CONVOLUTIONS[dims](widths[0], canvas.channels, 3, padding=1)

    def forward(
        self, noise: Float[Tensor, "n latent"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c *space"]:
        """Images in [-1, 1] of standard normal noise."""
        told = torch.cat([noise, self.asked(labels, sites)], 1)
        maps = self.first(told).unflatten(1, self.base)
        for level in self.levels:
            maps = level(maps, told)
        drawn: Tensor = self.last(relu(self.norm(maps)))
        return drawn.float().tanh()


@dataclass(frozen=True)
class GANGenerator(Generator):
    """Draws in one step; a sampler has nothing to say to it."""

    network: Painter

    @property
    def settings(self) -> dict[str, Any]:
        return self.network.config

    @classmethod
    def build(cls, known: Conditions, canvas: ImageShape, settings: Mapping[str, Any]) -> GANGenerator:
        return cls(Painter(canvas, known, **settings), known, canvas)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.network.latent,)

    def draw(
        self, noise: Float[Tensor, "n latent"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler = Sampler(),
    ) -> Float[Tensor, "n c *space"]:  # fmt: skip
        images: Tensor = self.network(noise, labels, sites)
        return images


class _Up(nn.Module):
    """Doubles a map, beside the two convolutions a short way."""

    def __init__(self, dims: int, before: int, after: int, told: int):
        super().__init__()
        convolution = CONVOLUTIONS[dims]
        self.norms = nn.ModuleList([_Told(before, told), _Told(after, told)])
        self.convolutions = nn.ModuleList(convolution(i, after, 3, padding=1) for i in (before, after))
        self.short = convolution(before, after, 1)

    def forward(self, maps: Float[Tensor, "n before *small"], told: Float[Tensor, "n told"]) -> Tensor:
        new = interpolate(relu(self.norms[0](maps, told)), scale_factor=2.0)
        new = self.convolutions[0](new)
        new = self.convolutions[1](relu(self.norms[1](new, told)))
        doubled: Tensor = new + interpolate(self.short(maps), scale_factor=2.0)
        return doubled


class _Told(nn.Module):
    """A group norm whose scale and shift are what the image is made from."""

    def __init__(self, channels: int, told: int):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels, affine=False)
        self.ask = nn.Linear(told, 2 * channels)

    def forward(self, maps: Float[Tensor, "n channels *space"], told: Float[Tensor, "n told"]) -> Tensor:
        scale, shift = self.ask(told).view(len(maps), 2, -1, *[1] * (maps.dim() - 2)).unbind(1)
        moved: Tensor = self.norm(maps) * (1 + scale) + shift
        return moved
