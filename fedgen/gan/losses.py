"""Adversarial losses: one for the discriminator, one for the generator network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu

from fedgen.gan.discriminator import ConditionedImages

Score = Callable[[ConditionedImages], Tensor]
"""A discriminator: images to one score each."""
Loss = Float[Tensor, ""]
"""One object: recipes compare the types of a protocol's methods, and jaxtyping's are equal to themselves alone."""


@runtime_checkable
class AdversarialLoss(Protocol):
    """Both losses are means over images."""

    def discriminator(self, score: Score, real: ConditionedImages, fake: ConditionedImages) -> Loss: ...
    def generator(self, score: Score, fake: ConditionedImages) -> Loss: ...


@dataclass(frozen=True)
class HingeLoss:
    """Scores of real images above 1, of generated ones below -1 (Lim and Ye 2017, arXiv 1705.02894)."""

    def discriminator(self, score: Score, real: ConditionedImages, fake: ConditionedImages) -> Loss:
        return relu(1 - score(real)).mean() + relu(1 + score(fake)).mean()

    def generator(self, score: Score, fake: ConditionedImages) -> Loss:
        return -score(fake).mean()


@dataclass(frozen=True)
class WassersteinLoss:
    """The difference of mean scores with a gradient penalty, WGAN-GP (Gulrajani et al. 2017, arXiv 1704.00028).

    For a discriminator without spectral norm, whose gradient cannot have length one.
    """

    discriminator_steps: ClassVar[int] = 5
    """For each step of the generator network, in the paper."""
    penalty_weight: float = 10.0
    """lambda, of the squared distance of the gradient's length from one."""

    def __post_init__(self) -> None:
        if self.penalty_weight < 0:
            raise ValueError(f"penalty_weight must be 0 or more, got {self.penalty_weight}")

    def discriminator(self, score: Score, real: ConditionedImages, fake: ConditionedImages) -> Loss:
        difference = score(fake).mean() - score(real).mean()
        return difference + self.penalty_weight * self.gradient_penalty(score, real, fake)

    def generator(self, score: Score, fake: ConditionedImages) -> Loss:
        return -score(fake).mean()

    def gradient_penalty(self, score: Score, real: ConditionedImages, fake: ConditionedImages) -> Loss:
        """Mean of (|grad| - 1)^2 at a random point between the i-th real image and the i-th generated one.

        Our reading: it has the conditions of the real image, and both images are augmented as for the score.
        """
        part = torch.rand(len(real.images), *[1] * (real.images.dim() - 1), device=real.images.device)
        between = torch.lerp(fake.images.detach(), real.images, part).requires_grad_()
        (gradient,) = torch.autograd.grad(score(replace(real, images=between)).sum(), between, create_graph=True)
        return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
