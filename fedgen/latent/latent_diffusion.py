"""Latent diffusion that several sites train together (Rombach et al. 2021, arXiv 2112.10752; brain volumes: Pinaya et
al. 2022, arXiv 2209.07162).

Sites first train an autoencoder (`fedgen.latent.vae`), then diffusion on its latents. With the default of two halvings
a latent map has 16 times fewer places than the image has pixels, in volumes 64 times.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedcore.errors import InputError
from fedgen.diffusion.denoiser import Denoiser, DiffusionGenerator
from fedgen.diffusion.diffusion import Diffusion
from fedgen.diffusion.sampler import Sampler
from fedgen.diffusion.schedule import NoiseSchedule
from fedgen.generator import Conditions, Generator, ImageShape
from fedgen.generator_store import GENERATOR, load_generator
from fedgen.latent.autoencoder import Autoencoder, reparameterize
from fedgen.latent.vae import VAEGenerator
from fedgen.network_levels import SizeError


class LatentDiffusion(Diffusion):
    """`Diffusion` of latents. The autoencoder is frozen; every site loads it at the start, and it is never sent."""

    def __init__(self, image_shape: ImageShape, conditions: Conditions, autoencoder: str, **settings: Any):
        """
        Args:
            image_shape: Shape of the images; a run takes it from its data.
            conditions: Classes and sites; a run takes them from its data.
            autoencoder: A finished run of `generate train vae` on images of this shape.
            settings: Those of `Diffusion`; its network sees latents.
        """
        frozen = frozen_autoencoder(Path(autoencoder), image_shape)
        try:
            super().__init__(frozen.latent_shape(image_shape), conditions, **settings)
        except SizeError as e:
            network = f"{e.network} on latents of {frozen.halvings} halvings"
            raise SizeError(network, e.halvings + frozen.halvings, image_shape.size) from e
        self.image_shape, self.autoencoder = image_shape, frozen

    def loss(
        self, images: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        return super().loss(self.encode(images), labels, sites)

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n k *small"]:
        """Normalised latents, sampled as in the training of the decoder."""
        return self.autoencoder.normalization.normalize(reparameterize(*self.autoencoder(images)))

    @property
    def generator(self) -> LatentGenerator:
        """Generates with the EMA and the decoder."""
        network = LatentDenoiser(self.ema, self.autoencoder)
        return LatentGenerator(network, self.conditions, self.image_shape, self.schedule, self.condition_dropout)


class LatentDenoiser(nn.Module):
    """The denoiser of latents with the autoencoder that decodes them."""

    def __init__(self, denoiser: Denoiser, autoencoder: Autoencoder):
        super().__init__()
        self.denoiser, self.autoencoder = denoiser, autoencoder


@dataclass(frozen=True)
class LatentGenerator(Generator):
    """Generates a latent by denoising in steps, and decodes it."""

    network: LatentDenoiser
    schedule: NoiseSchedule
    condition_dropout: float

    @property
    def diffusion(self) -> DiffusionGenerator:
        """Generates the latents."""
        shape = self.network.autoencoder.latent_shape(self.image_shape)
        return DiffusionGenerator(
            self.network.denoiser, self.conditions, shape, self.schedule, self.condition_dropout
        )  # fmt: skip

    @property
    def settings(self) -> dict[str, Any]:
        return self.diffusion.settings | {"autoencoder": self.network.autoencoder.config}

    @classmethod
    def build(cls, conditions: Conditions, image_shape: ImageShape, settings: Mapping[str, Any]) -> LatentGenerator:
        autoencoder = Autoencoder(**settings["autoencoder"])
        latents = DiffusionGenerator.build(conditions, autoencoder.latent_shape(image_shape), settings)
        network = LatentDenoiser(latents.network, autoencoder)
        return cls(network, conditions, image_shape, latents.schedule, latents.condition_dropout)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return self.diffusion.noise_shape

    def sample(
        self, noise: Float[Tensor, "n k *small"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler = Sampler(),
    ) -> Float[Tensor, "n c *space"]:  # fmt: skip
        return self._decode(self.diffusion.sample_unclipped(noise, labels, sites, sampler))

    def denoised(
        self, noise: Float[Tensor, "n k *small"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler, steps: Collection[int],
    ) -> Float[Tensor, "steps n c *space"]:  # fmt: skip
        latents = self.diffusion.denoised_unclipped(noise, labels, sites, sampler, steps)
        return torch.stack([self._decode(latent) for latent in latents])

    def _decode(self, latents: Float[Tensor, "n k *small"]) -> Float[Tensor, "n c *space"]:
        autoencoder = self.network.autoencoder
        return autoencoder.decode(autoencoder.normalization.denormalize(latents)).clamp(-1, 1)


def frozen_autoencoder(run: Path, image_shape: ImageShape) -> Autoencoder:
    """The autoencoder of a run of `generate train vae`.

    Raises:
        InputError: The run is unfinished, made another model, or used images of another shape.
    """
    generator = load_generator(run / GENERATOR)
    if not isinstance(generator, VAEGenerator):
        raise InputError(
            f"{run} holds a {type(generator).__name__} and no autoencoder; name a run of generate train vae"
        )
    if generator.image_shape != image_shape:
        raise InputError(
            f"the autoencoder of {run} was trained on {_described(generator.image_shape)}, the data are "
            f"{_described(image_shape)}; train one on this data by generate train vae, or set data.size as it was there"
        )
    return generator.network.requires_grad_(False)


def _described(shape: ImageShape) -> str:
    return f"images of {shape.channels} channel{'s' * (shape.channels > 1)} and {' x '.join(map(str, shape.size))}"
