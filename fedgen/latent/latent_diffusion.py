"""Latent diffusion that several sites train together (Rombach et al. 2021, arXiv 2112.10752; brain volumes: Pinaya et
al. 2022, arXiv 2209.07162).

Sites first train an autoencoder (`fedgen.latent.vae`), then diffusion on its codes, which are 16 times (in volumes 64
times) fewer than pixels with the default of two halvings.
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
from fedgen.diffusion.schedule import Noise
from fedgen.generator import Conditions, Generator, ImageShape
from fedgen.generator_store import GENERATOR, load_generator
from fedgen.latent.autoencoder import Autoencoder, drawn
from fedgen.latent.vae import VAEGenerator
from fedgen.network_levels import Uneven


class LatentDiffusion(Diffusion):
    """`Diffusion` of codes; the autoencoder is frozen, so every site has it from the start and it never travels."""

    def __init__(self, canvas: ImageShape, known: Conditions, autoencoder: str, **settings: Any):
        """
        Args:
            canvas: The images; a run takes them from its data.
            known: Classes and sites; a run takes them from its data.
            autoencoder: A finished run of `generate train vae` on such images.
            settings: Those of `Diffusion`; its network is shown codes.
        """
        frozen = frozen_autoencoder(Path(autoencoder), canvas)
        try:
            super().__init__(frozen.codes(canvas), known, **settings)
        except Uneven as e:
            halved = f"{e.who}, on codes of {frozen.halvings} halvings,"
            raise Uneven(halved, e.halvings + frozen.halvings, canvas.size) from e
        self.canvas, self.autoencoder = canvas, frozen

    def loss(
        self, images: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        return super().loss(self.encode(images), labels, sites)

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n k *small"]:
        """Scaled codes, drawn as they were while the decoder learned to read them."""
        return self.autoencoder.scale.shrink(drawn(*self.autoencoder(images)))

    @property
    def generator(self) -> LatentGenerator:
        """What draws: the average and the decoder."""
        network = LatentDenoiser(self.average, self.autoencoder)
        return LatentGenerator(network, self.known, self.canvas, self.noise, self.dropped)


class LatentDenoiser(nn.Module):
    """What walks to a code, and what decodes it."""

    def __init__(self, denoiser: Denoiser, autoencoder: Autoencoder):
        super().__init__()
        self.denoiser, self.autoencoder = denoiser, autoencoder


@dataclass(frozen=True)
class LatentGenerator(Generator):
    """Walks from noise to a code in steps, and decodes it."""

    network: LatentDenoiser
    noise: Noise
    dropped: float

    @property
    def codes(self) -> DiffusionGenerator:
        """What walks."""
        canvas = self.network.autoencoder.codes(self.canvas)
        return DiffusionGenerator(self.network.denoiser, self.known, canvas, self.noise, self.dropped)

    @property
    def settings(self) -> dict[str, Any]:
        return self.codes.settings | {"autoencoder": self.network.autoencoder.config}

    @classmethod
    def build(cls, known: Conditions, canvas: ImageShape, settings: Mapping[str, Any]) -> LatentGenerator:
        autoencoder = Autoencoder(**settings["autoencoder"])
        codes = DiffusionGenerator.build(known, autoencoder.codes(canvas), settings)
        return cls(LatentDenoiser(codes.network, autoencoder), known, canvas, codes.noise, codes.dropped)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return self.codes.noise_shape

    def draw(
        self, noise: Float[Tensor, "n k *small"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler = Sampler(),
    ) -> Float[Tensor, "n c *space"]:  # fmt: skip
        return self._decoded(self.codes.walk(noise, labels, sites, sampler))

    def guesses(
        self, noise: Float[Tensor, "n k *small"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler, steps: Collection[int],
    ) -> Float[Tensor, "steps n c *space"]:  # fmt: skip
        return torch.stack([self._decoded(code) for code in self.codes.way(noise, labels, sites, sampler, steps)])

    def _decoded(self, codes: Float[Tensor, "n k *small"]) -> Float[Tensor, "n c *space"]:
        autoencoder = self.network.autoencoder
        return autoencoder.decode(autoencoder.scale.stretch(codes)).clamp(-1, 1)


def frozen_autoencoder(run: Path, canvas: ImageShape) -> Autoencoder:
    """What a run of `generate train vae` made.

    Raises:
        InputError: It is unfinished, made something else, or was trained on images of another shape.
    """
    made = load_generator(run / GENERATOR)
    if not isinstance(made, VAEGenerator):
        raise InputError(f"{run} holds a {type(made).__name__} and no autoencoder; name a run of generate train vae")
    if made.canvas != canvas:
        raise InputError(
            f"the autoencoder of {run} is for {_told(made.canvas)}, the data are {_told(canvas)}; train one on such "
            "data by generate train vae, or set data.size as it was there"
        )
    return made.network.requires_grad_(False)


def _told(canvas: ImageShape) -> str:
    return f"images of {canvas.channels} channel{'s' * (canvas.channels > 1)} and {' x '.join(map(str, canvas.size))}"
