"""MD-GAN: one generator network at the server, one discriminator per site (Hardy et al. 2019, arXiv 1811.03850).

AsynDGAN (Chang et al. 2020, arXiv 2006.00080) is the same with a conditional generator. A round is one step of it:

1. The server generates images for each site and sends them.
2. The site trains its discriminator on the first half of them and the site's images. The discriminator stays there.
3. The site sends the gradient of the generator's loss at each image of the second half.
4. The server averages the gradients of all sites and propagates them back through the generator network.

So rounds are many and short: thousands, of one or few discriminator steps.

In the paper, discriminators change sites every few rounds. That is left out: the generator network here is conditioned
on the site, so a discriminator has to know its site, and its weights would carry what they learned to another site.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from fedcore.errors import InputError, Refused
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Message
from fedcore.messages.reveals import STATISTICS, WEIGHTS
from fedcore.messages.round import Round
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedgen.gan.discriminator import ConditionedImages
from fedgen.gan.gan import GAN, GENERATOR_PREFIXES, adam
from fedgen.gan.server_generator import ServerGenerator
from fedgen.generative_model import OptimizerFactory


@dataclass(frozen=True)
class GeneratedBatch(Message):
    """Generated images for a site. They reveal no more of patients than the generator network does."""

    images: Float[Tensor, "n c *space"] = field(metadata=STATISTICS)
    labels: Int[Tensor, " n"] = field(metadata=STATISTICS)
    sites: Int[Tensor, " n"] = field(metadata=STATISTICS)
    seed: Int[Tensor, ""] = field(metadata=WEIGHTS)
    """Of the images."""

    def for_discriminator(self, device: torch.device) -> ConditionedImages:
        """The first half, from which the discriminator learns."""
        return self._half(0, device)

    def for_generator(self, device: torch.device) -> ConditionedImages:
        """The second half, at which the gradients are taken."""
        return self._half(1, device)

    def _half(self, index: int, device: torch.device) -> ConditionedImages:
        return ConditionedImages(*(t.chunk(2)[index].to(device) for t in (self.images, self.labels, self.sites)))


@dataclass(frozen=True)
class Feedback(Message):
    """The answer of a site.

    What gradients reveal, our reading: they follow from the weights of the site's discriminator, so they reveal no more
    than those would. But such weights are no mean over sites, and a gradient has pixels: that of a linear discriminator
    is the mean of the site's images minus the mean of the generated ones. So it is a statistic of the images, and sites
    have to agree to send it. The fewer images a site has, the more a discriminator that memorised them reveals single
    ones.
    """

    gradient: Float[Tensor, "n c *space"] = field(metadata=STATISTICS)
    """Of the generator's mean loss, at the images of the second half."""
    class_counts: Int[Tensor, " rows"] = field(metadata=STATISTICS)
    """Images of each class at the site; last, those without a class."""
    seed: Int[Tensor, ""] = field(metadata=WEIGHTS)
    """That of the generated batch."""


@dataclass(frozen=True)
class MDGAN:
    """Trains a `fedgen.gan.gan.GAN` whose generator network stays at the server, with the optimizer named here.

    Our reading: the classes generated for a site are as frequent as at the site (equally frequent until the site has
    sent its counts), and the gradients of a site are weighted by its number of images, as in AsynDGAN; the sites of
    MD-GAN have equally many.
    """

    metric_names = ("generator_loss",)

    generated_batch_size: int = 64
    """Generated images per site and round for the discriminator, and as many for the generator; more make a steadier
    step."""
    optimizer: OptimizerFactory = adam
    """Builds the generator network's optimizer, whose state continues from round to round."""
    accelerator: Literal["auto", "cpu"] = "auto"
    """The server's; `auto` uses a GPU if there is one."""

    def share(self, module: Any) -> tuple[str, ...]:
        """What the server holds of the module; it sends none of it."""
        return GENERATOR_PREFIXES

    def __post_init__(self) -> None:
        if self.generated_batch_size < 1:
            raise ValueError(f"generated_batch_size must be at least 1, got {self.generated_batch_size}")

    def start(self, local: LocalTrainer) -> ServerGenerator:
        if not isinstance(local.module, GAN):
            raise InputError(f"MDGAN needs the generator fedgen.gan.gan.GAN, got {type(local.module).__name__}")
        return ServerGenerator.of(local.module, local.shared())

    @torch.no_grad()
    def broadcast(self, state: ServerGenerator, site: str, turn: Round) -> GeneratedBatch:
        generator, seed = state.generator(self._device), turn.seed_of(site, "fakes")
        request = state.request(generator, site, seed, 2 * self.generated_batch_size)
        images = request.generate(generator, slice(None))
        return GeneratedBatch(images.cpu(), request.labels, request.sites, torch.tensor(seed))

    def visit(self, site: Site, down: GeneratedBatch, local: LocalTrainer, turn: Round) -> Contribution[Feedback]:
        gan: Any = local.module
        feedback = _FeedbackCallback(down)
        metrics = local.fit(site, turn, {}, [feedback])
        if feedback.gradient is None or not feedback.gradient.isfinite().all():
            raise Refused("the discriminator took no step, or its gradient is no longer finite")
        counts = _class_counts(site.images.labels, len(gan.conditions.classes))
        return Contribution(site.name, Feedback(feedback.gradient, counts, down.seed), site.size, metrics)

    def merge(self, state: ServerGenerator, contributions: Iterable[Contribution[Feedback]]) -> ServerGenerator:
        generator, class_counts = state.generator(self._device), dict(state.class_counts)
        generated, weight = 0, 0
        for c in contributions:
            request = state.request(generator, c.site, int(c.message.seed), 2 * self.generated_batch_size)
            images = request.generate(generator, slice(self.generated_batch_size, None))
            images.backward(c.message.gradient.to(images.device) * c.examples)
            class_counts[c.site] = c.message.class_counts
            generated, weight = generated + len(images), weight + c.examples
        for parameter in generator.network.parameters():
            if parameter.grad is not None:
                parameter.grad /= weight
        return state.step(generator, self.optimizer, generated, class_counts)

    def error_of(self, state: ServerGenerator, message: Feedback) -> str | None:
        """The gradient and the counts must be of the images and classes of this generator."""
        generator = state.without_weights()
        shape = (self.generated_batch_size, *generator.image_shape.shape)
        if message.gradient.shape != shape:
            return f"its gradient has shape {tuple(message.gradient.shape)}, and the images have {shape}"
        rows = len(generator.conditions.classes) + 1
        counts = message.class_counts
        if len(counts) != rows or int(counts.min()) < 0 or int(counts.sum()) < 1:
            return f"its class counts are not {rows} numbers of images, of which one is positive"
        return None if message.seed >= 0 else "its seed is negative"

    @property
    def _device(self) -> torch.device:
        return torch.device("cuda" if self.accelerator == "auto" and torch.cuda.is_available() else "cpu")


class _FeedbackCallback(Callback):
    """Gives the discriminator the generated images to learn from, and takes the gradients after training."""

    def __init__(self, batch: GeneratedBatch):
        self.batch, self.loss = batch, 0.0
        self.gradient: Tensor | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        _gan(module).received = self.batch.for_discriminator(module.device)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        gan = _gan(module)
        gan.received = None
        fake = self.batch.for_generator(module.device)
        loss = gan.generator_loss(ConditionedImages(fake.images.requires_grad_(), fake.labels, fake.sites))
        (gradient,) = torch.autograd.grad(loss, fake.images)
        self.gradient, self.loss = gradient.cpu(), float(loss.detach())

    def report(self) -> dict[str, float]:
        return {"generator_loss": self.loss}


def _gan(module: LightningModule) -> GAN:
    assert isinstance(module, GAN)
    return module


def _class_counts(labels: Int[Tensor, " n"], classes: int) -> Int[Tensor, " rows"]:
    return torch.bincount(torch.where(labels < 0, classes, labels), minlength=classes + 1)
