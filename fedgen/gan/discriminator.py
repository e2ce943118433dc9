"""The network that tells real images from drawn ones: the discriminator of a GAN."""

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

from fedcore.messages.message import Levels, Reveals
from fedgen.gan.generator_network import CONVOLUTIONS
from fedgen.generator import ConditionEmbedding, Conditions, ImageShape
from fedgen.network_levels import require_halvings, require_widths


@dataclass(frozen=True)
class Shown:
    """Images, real or drawn, with what they are said to be of."""

    images: Float[Tensor, "n c *space"]
    labels: Int[Tensor, " n"]
    sites: Int[Tensor, " n"]


class Critic(nn.Module):
    """A score for each image, higher for real ones: a projection discriminator (Miyato and Koyama 2018).

    score = psi(phi) + <y, phi>, phi the features of the image and y the vector of what it is of (arXiv 1802.05637).
    No norm looks at a batch, so a score is that of one image. Our reading: y has length one, which bounds its part
    of the score as the spectral norm of the paper's table does, whatever sites add to the table.
    """

    def __init__(
        self, canvas: ImageShape, known: Conditions, widths: Sequence[int] = (32, 64, 128, 128), spectral: bool = True
    ):
        """
        Args:
            canvas: The images.
            known: What they can be of.
            widths: Channels of each level, finest first, multiples of 8; each level but the first halves the image.
            spectral: Divide every layer's weight by its spectral norm; a gradient penalty wants it off.

        Raises:
            InputError: The levels do not reach the size of the images.
        """
        super().__init__()
        require_widths(widths)
        require_halvings(f"a critic of {len(widths)} levels", len(widths) - 1, canvas.size)
        dims = len(canvas.size)
        self.first = _layer(CONVOLUTIONS[dims](canvas.channels, widths[0], 3, padding=1), spectral)
        self.levels = nn.ModuleList(_Down(dims, i, o, spectral) for i, o in pairwise(widths))
        self.last = _layer(nn.Linear(widths[-1], 1), spectral)
        self.asked = ConditionEmbedding(known, widths[-1])

    def forward(self, shown: Shown) -> Float[Tensor, " n"]:
        maps = self.first(shown.images)
        for level in self.levels:
            maps = level(maps)
        features = relu(maps).float().flatten(2).sum(2)
        of = normalize(self.asked(shown.labels, shown.sites), dim=1)
        score: Tensor = self.last(features).float().squeeze(1) + (of * features).sum(1)
        return score


class Spectral(nn.Module):
    """A layer whose weight is divided by its largest singular value (Miyato et al. 2018, arXiv 1802.05957).

    `v` is the guess of the singular vector, made better by one step of the power method at each forward pass that
    trains. Our reading for federations: it travels and is averaged with the weight. Sites begin a round with one
    guess, so theirs differ little and never by their sign, and of the average only the direction is used, so its
    length, below one, does no harm. torch's own takes the length of two such vectors for what it was, and a module
    that has it cannot be sent to a worker process.
    """

    reveals: ClassVar[Levels] = {"v": Reveals.WEIGHTS}  # a function of the weight

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        self.register_buffer("v", normalize(torch.randn(self._weight.flatten(1).shape[1]), dim=0))
        self.v: Tensor

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = functional_call(self.layer, {"weight": self._weight / self.sigma()}, (x,))
        return answer

    def sigma(self) -> Float[Tensor, ""]:
        """The largest singular value, as far as it is known; its gradient is that with the vectors held still."""
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


class _Down(nn.Module):
    """Halves a map, beside the two convolutions a short way."""

    def __init__(self, dims: int, before: int, after: int, spectral: bool):
        super().__init__()
        convolution = CONVOLUTIONS[dims]
        self.pool = {2: avg_pool2d, 3: avg_pool3d}[dims]
        sizes = ((before, before, 3), (before, after, 3), (before, after, 1))
        self.one, self.two, self.short = (_layer(convolution(i, o, k, padding=k // 2), spectral) for i, o, k in sizes)

    def forward(self, maps: Float[Tensor, "n before *space"]) -> Float[Tensor, "n after *half"]:
        new = self.two(relu(self.one(relu(maps))))
        halved: Tensor = self.pool(new, 2) + self.short(self.pool(maps, 2))
        return halved


def _layer(layer: nn.Module, spectral: bool) -> nn.Module:
    return Spectral(layer) if spectral else layer
