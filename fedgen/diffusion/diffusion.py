"""Diffusion models that several sites train together (Ho et al. 2020, arXiv 2006.11239), by class and by site.

Conditioned on the site as well as on the class, one network learns every hospital's look without blurring them
into a mean one, and a small hospital's is drawn with what all have taught it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import AdamW, Optimizer

from fedcore.messages.message import Levels, Reveals
from fedgen.diffusion.denoiser import Denoiser, DiffusionGenerator
from fedgen.diffusion.schedule import Noise, over
from fedgen.diffusion.unet import UNet
from fedgen.ema import follow
from fedgen.generative_model import Generative, OptimizerFactory
from fedgen.generator import Conditions, Generator, ImageShape, dropped_conditions


class Diffusion(Generative):
    """The network learns; a slow average of it, which is what draws, travels with it.

    An average over steps at a site and the server's mean over sites commute where sites take equally many steps, so
    one average serves as the sites' and the server's.
    """

    share: ClassVar[tuple[str, ...]] = ("denoiser.", "average.", "steps")
    reveals: ClassVar[Levels] = {"steps": Reveals.WEIGHTS}  # how many were trained

    def __init__(
        self, canvas: ImageShape, known: Conditions, network: Callable[[int, int], UNet] = UNet, noise: Noise = Noise(),
        dropped: float = 0.1, halflife: float = 20_000.0,
        optimizer: OptimizerFactory = lambda p: AdamW(p, lr=1e-3, weight_decay=1e-4),
    ):  # fmt: skip
        """
        Args:
            canvas: The images; a run takes them from its data.
            known: Classes and sites; a run takes them from its data.
            network: What is trained, from dimensions and channels.
            noise: The process and what is predicted of it.
            dropped: Part of the images whose class and site are both left unsaid while training, which is what guidance
                needs (Ho and Salimans 2022, arXiv 2207.12598); of as many again either is. 0: no guidance.
            halflife: Images after which a weight counts half in the average.
            optimizer: Builds the optimizer of a visit.
        """
        super().__init__(canvas, known)
        if not 0 <= dropped < 1 or halflife < 0:
            raise ValueError(f"dropped must lie in [0, 1) and halflife be 0 or more, got {dropped} and {halflife}")
        unet = network(len(canvas.size), canvas.channels)
        unet.require_size(canvas.size)
        self.denoiser = Denoiser(unet, known)
        self.average = copy.deepcopy(self.denoiser).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.float64))
        self.steps: Tensor
        self.noise, self.dropped, self.halflife = noise, dropped, halflife
        self.optimizer = optimizer

    def loss(
        self, images: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        return self.errors(images, labels, sites).mean()

    def errors(
        self, images: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c *space"]:
        """Squared errors at random times, weighted by the time."""
        times, noise = self.noise.times(len(images), images.device), torch.randn_like(images)
        said = self.denoiser(
            self.noise.mix(images, noise, times), times, *dropped_conditions(labels, sites, self.dropped)
        )
        error = (said.float() - self.noise.target(images, noise, times)) ** 2
        return over(self.noise.weight(times), error) * error

    def on_train_batch_end(self, outputs: object, batch: Sequence[Tensor], _: int) -> None:
        follow(self.average, self.denoiser, len(batch[0]), self.halflife, self.steps)

    @property
    def generator(self) -> Generator:
        """What draws: the average."""
        return DiffusionGenerator(self.average, self.known, self.canvas, self.noise, self.dropped)

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer(self.denoiser.parameters())
