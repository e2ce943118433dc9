"""A trained generator: what it can be asked for, and how it draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedcore.errors import InputError
from fedgen.noise import Noise
from fedgen.sampling import Sampler
from fedgen.unet import UNet

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


class Denoiser(nn.Module):
    """A network with a table of what classes and one of what sites look like; the last row of each is UNSAID."""

    def __init__(self, network: UNet, known: Known):
        super().__init__()
        self.network = network
        self.classes = nn.Embedding(len(known.classes) + 1, network.condition_width)
        self.sites = nn.Embedding(len(known.sites) + 1, network.condition_width)

    def forward(
        self, images: Float[Tensor, "n c *space"], times: Float[Tensor, " n"], labels: Int[Tensor, " n"],
        sites: Int[Tensor, " n"],
    ) -> Float[Tensor, "n c *space"]:  # fmt: skip
        # A negative index counts from the end, as in a list.
        rows = [places % table.num_embeddings for places, table in ((labels, self.classes), (sites, self.sites))]
        answer: Tensor = self.network(images, times, self.classes(rows[0]) + self.sites(rows[1]))
        return answer


class Generator:
    """Draws images by class and site; holds no optimizer and no image."""

    def __init__(self, denoiser: Denoiser, known: Known, noise: Noise):
        self.denoiser, self.known, self.noise = denoiser, known, noise

    def draw(
        self, noise: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler = Sampler(),
    ) -> Float[Tensor, "n c *space"]:  # fmt: skip
        """Images in [-1, 1] from standard normal noise; UNSAID leaves a class or a site open."""

        def predict(images: Tensor, times: Tensor) -> Tensor:
            said: Tensor = self.denoiser(images, times, labels, sites)
            if sampler.guidance == 1:
                return said.float()
            unled: Tensor = self.denoiser(images, times, *[torch.full_like(labels, UNSAID)] * 2)
            return (unled + sampler.guidance * (said - unled)).float()

        return sampler.walk(predict, noise, self.noise).clamp(-1, 1)


def _place(name: str | None, names: Sequence[str], what: str) -> int:
    if name is None:
        return UNSAID
    if name not in names:
        raise InputError(f"the generator knows no {what} {name!r}; it knows {', '.join(names) or 'none'}")
    return names.index(name)
