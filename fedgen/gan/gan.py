"""GANs that several sites train together (Goodfellow et al. 2014, arXiv 1406.2661), conditioned on class and site.

The algorithm determines which network travels:

- FedGAN (Rasouli et al. 2020, arXiv 2006.07228): both are averaged; `fedcore.algorithms.fedavg.FedAvg`.
- The generator network alone is averaged, each site keeps its discriminator: `LocalDiscriminators`.
- MD-GAN (Hardy et al. 2019, arXiv 1811.03850): the generator network stays at the server; `fedgen.gan.mdgan`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Adam, Optimizer

from fedcore.algorithms.fedavg import FedAvg
from fedcore.errors import InputError
from fedcore.messages.reveals import Levels, Reveals
from fedgen.ema import update_ema
from fedgen.gan.diffaugment import DiffAugment
from fedgen.gan.discriminator import ConditionedImages, Discriminator, SpectralNorm
from fedgen.gan.generator_network import GANGenerator, GeneratorNetwork
from fedgen.gan.losses import AdversarialLoss, HingeLoss, WassersteinLoss
from fedgen.generative_model import GenerativeModel, OptimizerFactory
from fedgen.generator import Conditions, ImageShape, drop_conditions

GENERATOR_PREFIXES = ("generator_network.", "ema.", "ema_steps")
"""Of the generator network, its EMA and the EMA's steps in the module's state."""


def adam(parameters: Iterable[Tensor]) -> Optimizer:
    """Without momentum, which overshoots when two networks play against each other."""
    return Adam(parameters, lr=2e-4, betas=(0.0, 0.99))


class GAN(GenerativeModel):
    """A generator network and a discriminator; the moving average (EMA) of the generator network generates the images.

    The generated images of a step have the conditions of the site's images. The reported `loss` is the discriminator's.
    """

    share: ClassVar[tuple[str, ...]] = (*GENERATOR_PREFIXES, "discriminator.")
    metric_names = ("generator_loss",)
    reveals: ClassVar[Levels] = {"ema_steps": Reveals.WEIGHTS}  # the number of training steps

    def __init__(
        self, image_shape: ImageShape, conditions: Conditions,
        generator_network: Callable[[ImageShape, Conditions], GeneratorNetwork] = GeneratorNetwork,
        discriminator: Callable[[ImageShape, Conditions], Discriminator] = Discriminator,
        adversarial_loss: AdversarialLoss | None = None, augment: DiffAugment = DiffAugment(),
        condition_dropout: float = 0.1, discriminator_steps: int | None = None, ema_halflife: float = 10_000.0,
        generator_optimizer: OptimizerFactory = adam, discriminator_optimizer: OptimizerFactory = adam,
    ):  # fmt: skip
        """
        Args:
            image_shape: Shape of the images; a run takes it from its data.
            conditions: Classes and sites; a run takes them from its data.
            generator_network: Generates images from noise.
            discriminator: Scores how real an image looks.
            adversarial_loss: Losses of both networks; null: fedgen.gan.losses.HingeLoss.
            augment: Augmentations of what the discriminator sees.
            condition_dropout: Fraction of images trained without class and site; class and site are also dropped
                alone, each at this rate, so that either can be left open when images are generated.
            discriminator_steps: Discriminator steps per generator step, on one batch of real images and newly
                generated ones, since a visit may have few batches; null: 5 with WassersteinLoss, else 1.
            ema_halflife: Images after which a weight counts half in the EMA.
            generator_optimizer: Builds the generator network's optimizer of a visit.
            discriminator_optimizer: Builds the discriminator's optimizer of a visit.
        """
        super().__init__(image_shape, conditions)
        adversarial_loss = adversarial_loss or HingeLoss()
        if discriminator_steps is None:
            wasserstein = isinstance(adversarial_loss, WassersteinLoss)
            discriminator_steps = WassersteinLoss.discriminator_steps if wasserstein else 1
        if not 0 <= condition_dropout < 1 or ema_halflife < 0 or discriminator_steps < 1:
            raise ValueError(
                "condition_dropout must lie in [0, 1), ema_halflife be 0 or more and discriminator_steps at least 1, "
                f"got {condition_dropout}, {ema_halflife} and {discriminator_steps}"
            )
        self.automatic_optimization = False
        self.generator_network = generator_network(image_shape, conditions)
        self.discriminator = discriminator(image_shape, conditions)
        self.ema = copy.deepcopy(self.generator_network).requires_grad_(False)
        self.register_buffer("ema_steps", torch.zeros((), dtype=torch.float64))
        self.ema_steps: Tensor
        _require_no_spectral_norm(adversarial_loss, self.discriminator)
        self.adversarial_loss, self.augment = adversarial_loss, augment
        self.condition_dropout, self.ema_halflife = condition_dropout, ema_halflife
        self.discriminator_steps = discriminator_steps
        self.generator_optimizer, self.discriminator_optimizer = generator_optimizer, discriminator_optimizer
        self.received: ConditionedImages | None = None
        """Generated images from the server (MD-GAN): the discriminator learns from them, no generator network here."""

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        images, labels = batch
        conditions = drop_conditions(labels, torch.full_like(labels, self.site), self.condition_dropout)
        for_generator, for_discriminator = self._optimizers()
        for _ in range(self.discriminator_steps):
            loss = self._step(for_discriminator, lambda: self.loss(images, *conditions))
        if self.received is None:
            generator_loss = self._step(for_generator, lambda: self.generator_loss(self.generated(*conditions)))
            update_ema(self.ema, self.generator_network, len(images), self.ema_halflife, self.ema_steps)
            self.log("generator_loss", generator_loss, on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    def loss(
        self, images: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        """The discriminator's, of these and as many generated images, with equal augmentations."""
        with torch.no_grad():
            fake = self.generated(labels, sites)
        augmentation = self.augment.sample(images)
        real, fake = (
            replace(batch, images=augmentation(batch.images))
            for batch in (ConditionedImages(images, labels, sites), fake)
        )
        return self.adversarial_loss.discriminator(self.discriminator, real, fake)

    def generator_loss(self, fake: ConditionedImages) -> Float[Tensor, ""]:
        """The generator network's, of images that it generated."""
        augmentation = self.augment.sample(fake.images)
        return self.adversarial_loss.generator(self.discriminator, replace(fake, images=augmentation(fake.images)))

    def generated(self, labels: Int[Tensor, " n"], sites: Int[Tensor, " n"]) -> ConditionedImages:
        """As many generated images: with these conditions, or a random part of those received from the server."""
        if self.received is None:
            noise = torch.randn(len(labels), self.generator_network.latent_dim, device=labels.device)
            return ConditionedImages(self.generator_network(noise, labels, sites), labels, sites)
        order = torch.randperm(len(self.received.labels), device=labels.device)
        chosen = order[torch.arange(len(labels), device=labels.device) % len(order)]
        received = self.received
        return ConditionedImages(received.images[chosen], received.labels[chosen], received.sites[chosen])

    def _optimizers(self) -> list[Any]:
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        return optimizers

    def _step(self, optimizer: Any, loss: Callable[[], Tensor]) -> Tensor:
        """One step of one network, while the other's weights collect no gradients."""
        self.toggle_optimizer(optimizer)
        value = loss()
        self.manual_backward(value)
        optimizer.step()
        optimizer.zero_grad()
        self.untoggle_optimizer(optimizer)
        return value.detach()

    @property
    def generator(self) -> GANGenerator:
        """Generates with the EMA."""
        return GANGenerator(self.ema, self.conditions, self.image_shape)

    def configure_optimizers(self) -> list[Optimizer]:
        return [
            self.generator_optimizer(self.generator_network.parameters()),
            self.discriminator_optimizer(self.discriminator.parameters()),
        ]


def _require_no_spectral_norm(loss: AdversarialLoss, discriminator: Discriminator) -> None:
    """Raises InputError if spectral norms fix the gradient that the penalty of WassersteinLoss trains."""
    if isinstance(loss, WassersteinLoss) and any(isinstance(m, SpectralNorm) for m in discriminator.modules()):
        raise InputError(
            "WassersteinLoss needs a discriminator without spectral norm, since its penalty sets the gradient's length;"
            " add --generator.init_args.discriminator.init_args.spectral_norm false, or remove adversarial_loss"
        )


@dataclass(frozen=True)
class LocalDiscriminators(FedAvg):
    """FedAvg of the generator network alone; each site's discriminator, which has seen its images, stays there."""

    def share(self, module: Any) -> tuple[str, ...]:
        return GENERATOR_PREFIXES
