"""MD-GAN: the painter is the server's, every site has a critic (Hardy et al. 2019, arXiv 1811.03850).

AsynDGAN (Chang et al. 2020, arXiv 2006.00080) is the same with a conditional painter. A round is one step of it:

1. The server draws images for each site and sends them.
2. The site's critic learns from one half of them against the site's images, and stays.
3. The site sends the gradient of the painter's loss at each image of the other half.
4. The server takes the mean of all sites' gradients back through the painter.

So rounds are many and short: thousands, of one step of a critic or a few.

The paper's critics change places among the sites every some rounds. That is left out: the painter here is told the
site, which a critic has to know, and its weights would carry what they learned of one hospital to another.
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
from fedcore.messages.message import STATISTICS, WEIGHTS, Contribution, Message
from fedcore.site.site import Round, Site
from fedcore.training.local_trainer import LocalTrainer
from fedgen.gan.discriminator import Shown
from fedgen.gan.gan import GAN, PAINTER, adam
from fedgen.gan.server_generator import Studio
from fedgen.generative import OptimizerFactory


@dataclass(frozen=True)
class Fakes(Message):
    """Drawn images for a site. They say no more of patients than the painter that drew them."""

    images: Float[Tensor, "n c *space"] = field(metadata=STATISTICS)
    labels: Int[Tensor, " n"] = field(metadata=STATISTICS)
    sites: Int[Tensor, " n"] = field(metadata=STATISTICS)
    ticket: Int[Tensor, ""] = field(metadata=WEIGHTS)
    """Seed of the images."""

    def half(self, second: bool, device: torch.device) -> Shown:
        return Shown(*(t.chunk(2)[second].to(device) for t in (self.images, self.labels, self.sites)))


@dataclass(frozen=True)
class Critique(Message):
    """What a site answers.

    What gradients give away, our reading: they follow from the weights of the site's critic, so they say no more than
    those would. But such weights are no mean over sites, and a gradient speaks in pixels: that of a linear critic is
    the mean of the site's images less the mean of the drawn ones. So it is a statistic of the images, and sites have
    to agree to it. The fewer images a site has, the more a critic that knows them by heart points at single ones.
    """

    gradient: Float[Tensor, "n c *space"] = field(metadata=STATISTICS)
    """Of the painter's mean loss, at the images of the second half."""
    labels: Int[Tensor, " known"] = field(metadata=STATISTICS)
    """Images of each class at the site; last, those without one."""
    ticket: Int[Tensor, ""] = field(metadata=WEIGHTS)
    """As it came."""


@dataclass(frozen=True)
class MDGAN:
    """The generator is a `fedgen.gan.gan.GAN`; its painter's optimizer is the one named here.

    Our reading: a class is drawn for a site as often as the site has it (once it has said so; evenly before), and
    the gradients of a site count as its images, AsynDGAN's weights; MD-GAN's sites have equally many.
    """

    fakes: int = 64
    """Images that a critic learns from in a round, and as many that it judges; more make a steadier step."""
    optimizer: OptimizerFactory = adam
    """Builds the painter's optimizer, whose state goes on from round to round."""
    accelerator: Literal["auto", "cpu"] = "auto"
    """The server's; `auto` takes a GPU where there is one."""

    def __post_init__(self) -> None:
        if self.fakes < 1:
            raise ValueError(f"fakes must be at least 1, got {self.fakes}")

    def share(self, module: Any) -> tuple[str, ...]:
        """What the server holds of the module; it sends none of it."""
        return PAINTER

    def start(self, local: LocalTrainer) -> Studio:
        if not isinstance(local.module, GAN):
            raise InputError(f"MDGAN takes the generator fedgen.gan.gan.GAN, got {type(local.module).__name__}")
        return Studio.of(local.module, local.shared())

    @torch.no_grad()
    def broadcast(self, state: Studio, site: str, turn: Round) -> Fakes:
        painter, ticket = state.painter(self._device), turn.seed_of(site, "fakes")
        order = state.order(painter, site, ticket, 2 * self.fakes)
        images = order.drawn_by(painter, slice(None))
        return Fakes(images.cpu(), order.labels, order.sites, torch.tensor(ticket))

    def visit(self, site: Site, down: Fakes, local: LocalTrainer, turn: Round) -> Contribution[Critique]:
        gan: Any = local.module
        judging = _Judging(down)
        metrics = local.fit(site, turn, {}, [judging])
        if judging.gradient is None or not judging.gradient.isfinite().all():
            raise Refused("the critic took no step, or its gradient is no longer finite")
        labels = _counted(site.images.labels, len(gan.known.classes))
        return Contribution(site.name, Critique(judging.gradient, labels, down.ticket), site.size, metrics)

    def merge(self, state: Studio, contributions: Iterable[Contribution[Critique]]) -> Studio:
        painter, labels, judged, mass = state.painter(self._device), dict(state.labels), 0, 0
        for c in contributions:
            order = state.order(painter, c.site, int(c.message.ticket), 2 * self.fakes)
            images = order.drawn_by(painter, slice(self.fakes, None))
            images.backward(c.message.gradient.to(images.device) * c.examples)
            labels[c.site] = c.message.labels
            judged, mass = judged + len(images), mass + c.examples
        for parameter in painter.network.parameters():
            if parameter.grad is not None:
                parameter.grad /= mass
        return state.stepped(painter, self.optimizer, judged, labels)

    @property
    def _device(self) -> torch.device:
        return torch.device("cuda" if self.accelerator == "auto" and torch.cuda.is_available() else "cpu")


class _Judging(Callback):
    """Gives the critic the drawn images to learn from, and asks it for its gradients once it has."""

    def __init__(self, fakes: Fakes):
        self.fakes, self.loss = fakes, 0.0
        self.gradient: Tensor | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        _gan(module).sent = self.fakes.half(False, module.device)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        gan = _gan(module)
        gan.sent = None
        fake = self.fakes.half(True, module.device)
        loss = gan.painter_loss(Shown(fake.images.requires_grad_(), fake.labels, fake.sites))
        (gradient,) = torch.autograd.grad(loss, fake.images)
        self.gradient, self.loss = gradient.cpu(), float(loss.detach())

    def report(self) -> dict[str, float]:
        return {"painter_loss": self.loss}


def _gan(module: LightningModule) -> GAN:
    assert isinstance(module, GAN)
    return module


def _counted(labels: Int[Tensor, " n"], classes: int) -> Int[Tensor, " known"]:
    return torch.bincount(torch.where(labels < 0, classes, labels), minlength=classes + 1)
