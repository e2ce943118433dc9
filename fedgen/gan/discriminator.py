"""The discriminator of a GAN, which scores how real an image looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import avg_pool2d, avg_pool3d, normalize, relu

from fedcore.messages.reveals import Levels, Reveals
from fedgen.gan.generator_network import CONVOLUTIONS
from fedgen.generator import ConditionEmbedding, Conditions, ImageShape
from fedgen.network_levels import require_halvings, require_widths


@dataclass(frozen=True)
class ConditionedImages:
    """Images, real or generated, with their conditions."""

    images: Float[Tensor, "n c *space"]
    labels: Int[Tensor, " n"]
    sites: Int[Tensor, " n"]


class Discriminator(nn.Module):
    """A score for each image, higher for real ones: a projection discriminator (Miyato and Koyama 2018).

    score = psi(phi) + <y, phi>, phi the features of the image and y the embedding of its conditions (arXiv 1802.05637).
    No norm uses batch statistics, so a score depends on one image alone. Our reading: y has length one, which bounds
    its part of the score as the spectral norm of the paper's embedding does, however many sites are added.
    """

    def __init__(
        self, image_shape: ImageShape, conditions: Conditions, widths: Sequence[int] = (32, 64, 128, 128),
        spectral_norm: bool = True,
    ):  # fmt: skip
        """
        Args:
            image_shape: Shape of the images.
            conditions: Classes and sites.
            widths: Channels of each level, finest first, multiples of 8; each level but the first halves the image.
            spectral_norm: Divide every layer's weight by its spectral norm; must be off with a gradient penalty.

        Raises:
            InputError: The levels cannot halve images of this size.
        """
        super().__init__()
        require_widths(widths)
        require_halvings(f"a discriminator of {len(widths)} levels", len(widths) - 1, image_shape.size)
        dims = len(image_shape.size)
        self.first = _layer(CONVOLUTIONS[dims](image_shape.channels, widths[0], 3, padding=1), spectral_norm)
        self.levels = nn.ModuleList(_DownBlock(dims, i, o, spectral_norm) for i, o in pairwise(widths))
        self.last = _layer(nn.Linear(widths[-1], 1), spectral_norm)
        self.condition_embedding = ConditionEmbedding(conditions, widths[-1])

    def forward(self, batch: ConditionedImages) -> Float[Tensor, " n"]:
        maps = self.first(batch.images)
        for level in self.levels:
            maps = level(maps)
        features = relu(maps).float().flatten(2).sum(2)
        condition = normalize(self.condition_embedding(batch.labels, batch.sites), dim=1)
        score: Tensor = self.last(features).float().squeeze(1) + (condition * features).sum(1)
        return score


class SpectralNorm(nn.Module):
    """A layer whose weight is divided by its largest singular value (Miyato et al. 2018, arXiv 1802.05957).

    `v` estimates the singular vector; each forward pass in training mode improves it by one step of the power method.
    Our reading for federations: it travels and is averaged with the weight. Sites begin a round with one estimate, so
    theirs differ little and never by their sign, and of the average only the direction is used, so its length, below
    one, does no harm. torch's own takes the length of two such vectors for what it was, and a module that has it cannot
    be sent to a worker process.
    """

    reveals: ClassVar[Levels] = {"v": Reveals.WEIGHTS}  # a function of the weight

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        self.register_buffer("v", normalize(torch.randn(self._weight.flatten(1).shape[1]), dim=0))
        self.v: Tensor

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = functional_call(self.layer, {"weight": self._weight / self.sigma()}, (x,))
        return output

    def sigma(self) -> Float[Tensor, ""]:
        """The estimated largest singular value; its gradient treats both singular vectors as constants."""
        with torch.autocast(self.v.device.type, enabled=False):
            matrix = self._weight.flatten(1)
            with torch.no_grad():
                u = normalize(matrix @ self.v, dim=0)
                v = normalize(matrix.T @ u, dim=0)
                if self.training:
                    self.v.copy_(v)
            return u @ (matrix @ v)

    @property
    def _weight(self) -> Tensor:
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        return weight


class _DownBlock(nn.Module):
    """Halves a map: two convolutions and a shortcut."""

    def __init__(self, dims: int, before: int, after: int, spectral_norm: bool):
        super().__init__()
        convolution = CONVOLUTIONS[dims]
        self.pool = {2: avg_pool2d, 3: avg_pool3d}[dims]
        sizes = ((before, before, 3), (before, after, 3), (before, after, 1))
        self.conv1, self.conv2, self.shortcut = (
            _layer(convolution(i, o, k, padding=k // 2), spectral_norm) for i, o, k in sizes
        )

    def forward(self, maps: Float[Tensor, "n before *space"]) -> Float[Tensor, "n after *half"]:
        new = self.conv2(relu(self.conv1(relu(maps))))
        halved: Tensor = self.pool(new, 2) + self.shortcut(self.pool(maps, 2))
        return halved


def _layer(layer: nn.Module, spectral_norm: bool) -> nn.Module:
    return SpectralNorm(layer) if spectral_norm else layer
