"""A network that takes noise away, and how images are drawn by it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedgen.diffusion.sampler import Predict, Sampler
from fedgen.diffusion.schedule import Noise
from fedgen.diffusion.unet import UNet
from fedgen.generator import UNCONDITIONED, ConditionEmbedding, Conditions, Generator, ImageShape


class Denoiser(nn.Module):
    """A U-Net that is told class and site beside the time."""

    def __init__(self, network: UNet, known: Conditions):
        super().__init__()
        self.network, self.asked = network, ConditionEmbedding(known, network.condition_width)

    def forward(
        self, images: Float[Tensor, "n c *space"], times: Float[Tensor, " n"], labels: Int[Tensor, " n"],
        sites: Int[Tensor, " n"],
    ) -> Float[Tensor, "n c *space"]:  # fmt: skip
        answer: Tensor = self.network(images, times, self.asked(labels, sites))
        return answer


@dataclass(frozen=True)
class DiffusionGenerator(Generator):
    """Walks from noise to an image in steps."""

    network: Denoiser
    noise: Noise
    dropped: float

    @property
    def settings(self) -> dict[str, Any]:
        return {"network": self.network.network.config, "noise": asdict(self.noise), "dropped": self.dropped}

    @classmethod
    def build(cls, known: Conditions, canvas: ImageShape, settings: Mapping[str, Any]) -> DiffusionGenerator:
        denoiser, dropped = Denoiser(UNet(**settings["network"]), known), float(settings["dropped"])
        return cls(denoiser, known, canvas, Noise(**settings["noise"]), dropped)

    def draw(
        self, noise: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler = Sampler(),
    ) -> Float[Tensor, "n c *space"]:  # fmt: skip
        return self.walk(noise, labels, sites, sampler).clamp(-1, 1)

    def walk(
        self, noise: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"], sampler: Sampler
    ) -> Float[Tensor, "n c *space"]:
        """Unclipped, as a latent code wants it."""
        return sampler.walk(self._predict(labels, sites, sampler.guidance), noise, self.noise)

    def guesses(
        self, noise: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler, steps: Collection[int],
    ) -> Float[Tensor, "steps n c *space"]:  # fmt: skip
        return torch.stack([guess.clamp(-1, 1) for guess in self.way(noise, labels, sites, sampler, steps)])

    def way(
        self, noise: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler, steps: Collection[int],
    ) -> Iterator[Float[Tensor, "n c *space"]]:  # fmt: skip
        """What `guesses` says, unclipped."""
        way = sampler.way(self._predict(labels, sites, sampler.guidance), noise, self.noise)
        for at, step in enumerate(way):
            if at in steps:
                yield self.noise.image(step.before, step.said, step.times)

    def _predict(self, labels: Int[Tensor, " n"], sites: Int[Tensor, " n"], guidance: float) -> Predict:
        def predict(images: Tensor, times: Tensor) -> Tensor:
            if guidance == 1:
                alone: Tensor = self.network(images, times, labels, sites)
                return alone.float()
            nobody = torch.full_like(labels, UNCONDITIONED)
            twice = [torch.cat(pair) for pair in ((images,) * 2, (times,) * 2, (labels, nobody), (sites, nobody))]
            said, unled = self.network(*twice).chunk(
                2
            )  # in one pass, which a GPU fills better than two of half its size
            return (unled + guidance * (said - unled)).float()

        return predict
