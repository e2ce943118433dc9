"""GANs that several sites train together (Goodfellow et al. 2014, arXiv 1406.2661), by class and by site.

Which network travels is the choice of the federation:

- FedGAN (Rasouli et al. 2020, arXiv 2006.07228): both are averaged; `fedcore.algorithms.fedavg.FedAvg`.
- The painter alone is averaged, each site's critic stays at home: `CriticsStay`.
- MD-GAN (Hardy et al. 2019, arXiv 1811.03850): the painter never leaves the server; `fedgen.gan.mdgan`.
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
from fedcore.messages.message import Levels, Reveals
from fedgen.ema import follow
from fedgen.gan.diffaugment import DiffAugment
from fedgen.gan.discriminator import Critic, Shown, Spectral
from fedgen.gan.generator_network import GANGenerator, Painter
from fedgen.gan.losses import Hinge, Objective, Wasserstein
from fedgen.generative import Generative, OptimizerFactory
from fedgen.generator import Conditions, ImageShape, dropped_conditions

PAINTER = ("painter.", "average.", "steps")
"""Prefixes of what draws."""


def adam(parameters: Iterable[Tensor]) -> Optimizer:
    """Without momentum, which overshoots where two play against each other."""
    return Adam(parameters, lr=2e-4, betas=(0.0, 0.99))


class GAN(Generative):
    """A painter draws, a critic tells what it drew from a site's images; a slow average of the painter draws at last.

    Drawn images of a step are asked to be of what the site's are of. The reported `loss` is the critic's.
    """

    share: ClassVar[tuple[str, ...]] = (*PAINTER, "critic.")
    reveals: ClassVar[Levels] = {"steps": Reveals.WEIGHTS}  # how many were trained

    def __init__(
        self, canvas: ImageShape, known: Conditions, painter: Callable[[ImageShape, Conditions], Painter] = Painter,
        critic: Callable[[ImageShape, Conditions], Critic] = Critic, objective: Objective | None = None,
        augment: DiffAugment = DiffAugment(), dropped: float = 0.1, critic_steps: int | None = None,
        halflife: float = 10_000.0, painter_optimizer: OptimizerFactory = adam,
        critic_optimizer: OptimizerFactory = adam,
    ):  # fmt: skip
        """
        Args:
            canvas: The images; a run takes them from its data.
            known: Classes and sites; a run takes them from its data.
            painter: What draws.
            critic: What tells drawn images from real ones.
            objective: What both learn by; null: fedgen.gan.losses.Hinge.
            augment: Changes of what the critic sees.
            dropped: Part of the images whose class and site are both left unsaid while training, and of as many again
                either is, so that they may be left open when drawing.
            critic_steps: Steps of the critic to each of the painter, on one batch and ever new drawn images, since a
                visit may hold few batches; null: 5 with Wasserstein, else 1.
            halflife: Images after which a weight counts half in the average.
            painter_optimizer: Builds the painter's optimizer of a visit.
            critic_optimizer: Builds the critic's.
        """
        super().__init__(canvas, known)
        objective = objective or Hinge()
        if critic_steps is None:
            critic_steps = objective.critic_steps if isinstance(objective, Wasserstein) else 1
        if not 0 <= dropped < 1 or halflife < 0 or critic_steps < 1:
            raise ValueError(
                "dropped must lie in [0, 1), halflife be 0 or more and critic_steps at least 1, "
                f"got {dropped}, {halflife} and {critic_steps}"
            )
        self.automatic_optimization = False
        self.painter, self.critic = painter(canvas, known), critic(canvas, known)
        self.average = copy.deepcopy(self.painter).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.float64))
        self.steps: Tensor
        _require_free_slope(objective, self.critic)
        self.objective, self.augment = objective, augment
        self.dropped, self.critic_steps, self.halflife = dropped, critic_steps, halflife
        self.painter_optimizer, self.critic_optimizer = painter_optimizer, critic_optimizer
        self.sent: Shown | None = None
        """Drawn images that came from elsewhere: the critic learns from them, and the painter does not learn here."""

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        images, labels = batch
        asked = dropped_conditions(labels, torch.full_like(labels, self.site), self.dropped)
        painter, critic = self._both()
        for _ in range(self.critic_steps):
            loss = self._step(critic, lambda: self.loss(images, *asked))
        if self.sent is None:
            told = self._step(painter, lambda: self.painter_loss(self.fakes(*asked)))
            follow(self.average, self.painter, len(images), self.halflife, self.steps)
            self.log("painter_loss", told, on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    def loss(
        self, images: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        """The critic's, of images and as many drawn ones, changed alike."""
        with torch.no_grad():
            fake = self.fakes(labels, sites)
        look = self.augment.draw(images)
        real, fake = (replace(s, images=look(s.images)) for s in (Shown(images, labels, sites), fake))
        return self.objective.critic(self.critic, real, fake)

    def painter_loss(self, fake: Shown) -> Float[Tensor, ""]:
        """The painter's, of what it drew."""
        look = self.augment.draw(fake.images)
        return self.objective.painter(self.critic, replace(fake, images=look(fake.images)))

    def fakes(self, labels: Int[Tensor, " n"], sites: Int[Tensor, " n"]) -> Shown:
        """As many drawn images: of these classes and sites, or some of those that were sent."""
        if self.sent is None:
            noise = torch.randn(len(labels), self.painter.latent, device=labels.device)
            return Shown(self.painter(noise, labels, sites), labels, sites)
        order = torch.randperm(len(self.sent.labels), device=labels.device)
        some = order[torch.arange(len(labels), device=labels.device) % len(order)]
        return Shown(self.sent.images[some], self.sent.labels[some], self.sent.sites[some])

    def _both(self) -> list[Any]:
        both = self.optimizers()
        assert isinstance(both, list)
        return both

    def _step(self, optimizer: Any, loss: Callable[[], Tensor]) -> Tensor:
        """One step of one network, while the other's weights gather no gradients."""
        self.toggle_optimizer(optimizer)
        value = loss()
        self.manual_backward(value)
        optimizer.step()
        optimizer.zero_grad()
        self.untoggle_optimizer(optimizer)
        return value.detach()

    @property
    def generator(self) -> GANGenerator:
        """What draws: the average."""
        return GANGenerator(self.average, self.known, self.canvas)

    def configure_optimizers(self) -> list[Optimizer]:
        return [self.painter_optimizer(self.painter.parameters()), self.critic_optimizer(self.critic.parameters())]


def _require_free_slope(objective: Objective, critic: Critic) -> None:
    """Raises InputError where a spectral norm holds the slope that the objective pulls to one."""
    if isinstance(objective, Wasserstein) and any(isinstance(layer, Spectral) for layer in critic.modules()):
        raise InputError(
            "Wasserstein takes a critic without spectral norm, whose slope its penalty sets; add "
            "--generator.init_args.critic.init_args.spectral false, or leave out objective for Hinge"
        )


@dataclass(frozen=True)
class CriticsStay(FedAvg):
    """FedAvg of the painter alone; each site's critic, which has seen its images, never leaves it."""

    def share(self, module: Any) -> tuple[str, ...]:
        return PAINTER
