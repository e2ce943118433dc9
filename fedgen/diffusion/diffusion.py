"""Diffusion models that several sites train together (Ho et al. 2020, arXiv 2006.11239), conditioned on class and site.

One network learns the style of every site, instead of a blurred mean of all, and a small site profits from the images
of the others.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import AdamW, Optimizer

from fedcore.messages.reveals import Levels, Reveals
from fedgen.diffusion.denoiser import Denoiser, DiffusionGenerator
from fedgen.diffusion.schedule import NoiseSchedule, per_image
from fedgen.diffusion.unet import UNet
from fedgen.ema import update_ema
from fedgen.generative_model import GenerativeModel, OptimizerFactory
from fedgen.generator import Conditions, Generator, ImageShape, drop_conditions


class Diffusion(GenerativeModel):
    """The network is trained; its moving average (EMA), which generates the images, is sent with it.

    An average over steps at a site and the server's mean over sites commute if sites take equally many steps, so the
    sites and the server share one EMA.
    """

    share: ClassVar[tuple[str, ...]] = ("denoiser.", "ema.", "ema_steps")
    reveals: ClassVar[Levels] = {"ema_steps": Reveals.WEIGHTS}  # the number of training steps

    def __init__(
        self, image_shape: ImageShape, conditions: Conditions, network: Callable[[int, int], UNet] = UNet,
        schedule: NoiseSchedule = NoiseSchedule(), condition_dropout: float = 0.1, ema_halflife: float = 20_000.0,
        optimizer: OptimizerFactory = lambda p: AdamW(p, lr=1e-3, weight_decay=1e-4),
    ):  # fmt: skip
        """
        Args:
            image_shape: Shape of the images; a run takes it from its data.
            conditions: Classes and sites; a run takes them from its data.
            network: The network that is trained, from dimensions and channels.
            schedule: How noise is added and what is predicted.
            condition_dropout: Fraction of images trained without class and site, which guidance needs (Ho and
                Salimans 2022, arXiv 2207.12598); class and site are also dropped alone, each at this rate. 0: guidance
                is not possible.
            ema_halflife: Images after which a weight counts half in the EMA.
            optimizer: Builds the optimizer of a visit.
        """
        super().__init__(image_shape, conditions)
        if not 0 <= condition_dropout < 1 or ema_halflife < 0:
            raise ValueError(
                "condition_dropout must lie in [0, 1) and ema_halflife be 0 or more, "
                f"got {condition_dropout} and {ema_halflife}"
            )
        unet = network(len(image_shape.size), image_shape.channels)
        unet.require_size(image_shape.size)
        self.denoiser = Denoiser(unet, conditions)
        self.ema = copy.deepcopy(self.denoiser).requires_grad_(False)
        self.register_buffer("ema_steps", torch.zeros((), dtype=torch.float64))
        self.ema_steps: Tensor
        self.schedule, self.condition_dropout, self.ema_halflife = schedule, condition_dropout, ema_halflife
        self.optimizer = optimizer

    def loss(
        self, images: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        return self.errors(images, labels, sites).mean()

    def errors(
        self, images: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c *space"]:
        """Squared errors of the prediction at random times, weighted by time."""
        times, noise = self.schedule.sample_times(len(images), images.device), torch.randn_like(images)
        noisy = self.schedule.add_noise(images, noise, times)
        prediction = self.denoiser(noisy, times, *drop_conditions(labels, sites, self.condition_dropout))
        error = (prediction.float() - self.schedule.target(images, noise, times)) ** 2
        return per_image(self.schedule.loss_weight(times), error) * error

    def on_train_batch_end(self, outputs: object, batch: Sequence[Tensor], _: int) -> None:
        update_ema(self.ema, self.denoiser, len(batch[0]), self.ema_halflife, self.ema_steps)

    @property
    def generator(self) -> Generator:
        """Generates with the EMA."""
        return DiffusionGenerator(self.ema, self.conditions, self.image_shape, self.schedule, self.condition_dropout)

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer(self.denoiser.parameters())
