"""The network of a diffusion model with its conditions, and the generator that samples from it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedgen.diffusion.sampler import Predict, Sampler
from fedgen.diffusion.schedule import NoiseSchedule
from fedgen.diffusion.unet import UNet
from fedgen.generator import UNCONDITIONED, ConditionEmbedding, Conditions, Generator, ImageShape


class Denoiser(nn.Module):
    """A U-Net conditioned on time, class and site."""

    def __init__(self, unet: UNet, conditions: Conditions):
        super().__init__()
        self.unet, self.condition_embedding = unet, ConditionEmbedding(conditions, unet.condition_width)

    def forward(
        self, images: Float[Tensor, "n c *space"], times: Float[Tensor, " n"], labels: Int[Tensor, " n"],
        sites: Int[Tensor, " n"],
    ) -> Float[Tensor, "n c *space"]:  # fmt: skip
        prediction: Tensor = self.unet(images, times, self.condition_embedding(labels, sites))
        return prediction


@dataclass(frozen=True)
class DiffusionGenerator(Generator):
    """Generates images by denoising in steps."""

    network: Denoiser
    schedule: NoiseSchedule
    condition_dropout: float

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "unet": self.network.unet.config, "schedule": asdict(self.schedule),
            "condition_dropout": self.condition_dropout,
        }  # fmt: skip

    @classmethod
    def build(cls, conditions: Conditions, image_shape: ImageShape, settings: Mapping[str, Any]) -> DiffusionGenerator:
        denoiser, schedule = Denoiser(UNet(**settings["unet"]), conditions), NoiseSchedule(**settings["schedule"])
        return cls(denoiser, conditions, image_shape, schedule, float(settings["condition_dropout"]))

    def sample(
        self, noise: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler = Sampler(),
    ) -> Float[Tensor, "n c *space"]:  # fmt: skip
        return self.sample_unclipped(noise, labels, sites, sampler).clamp(-1, 1)

    def sample_unclipped(
        self, noise: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"], sampler: Sampler
    ) -> Float[Tensor, "n c *space"]:
        """Samples beyond [-1, 1], as latents need."""
        return sampler.sample(self._predict(labels, sites, sampler.guidance), noise, self.schedule)

    def denoised(
        self, noise: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler, steps: Collection[int],
    ) -> Float[Tensor, "steps n c *space"]:  # fmt: skip
        return torch.stack([i.clamp(-1, 1) for i in self.denoised_unclipped(noise, labels, sites, sampler, steps)])

    def denoised_unclipped(
        self, noise: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler, steps: Collection[int],
    ) -> Iterator[Float[Tensor, "n c *space"]]:  # fmt: skip
        """As `denoised`, step by step."""
        trajectory = sampler.trajectory(self._predict(labels, sites, sampler.guidance), noise, self.schedule)
        for number, step in enumerate(trajectory):
            if number in steps:
                yield self.schedule.denoised(step.noisy, step.prediction, step.times)

    def _predict(self, labels: Int[Tensor, " n"], sites: Int[Tensor, " n"], guidance: float) -> Predict:
        def predict(images: Tensor, times: Tensor) -> Tensor:
            if guidance == 1:
                prediction: Tensor = self.network(images, times, labels, sites)
                return prediction.float()
            open_ = torch.full_like(labels, UNCONDITIONED)
            pairs = ((images,) * 2, (times,) * 2, (labels, open_), (sites, open_))
            # In one pass, which a GPU fills better than two of half its size.
            conditional, unconditional = self.network(*(torch.cat(pair) for pair in pairs)).chunk(2)
            return (unconditional + guidance * (conditional - unconditional)).float()

        return predict
