"""What a critic and a painter learn by: a loss for each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu

from fedgen.gan.discriminator import Shown

Judge = Callable[[Shown], Tensor]
"""Images to a score each, a critic."""
Loss = Float[Tensor, ""]
"""One object: recipes compare the types of a protocol's methods, and jaxtyping's are equal to themselves alone."""


@runtime_checkable
class Objective(Protocol):
    """Both losses are means over images."""

    def critic(self, judge: Judge, real: Shown, fake: Shown) -> Loss: ...
    def painter(self, judge: Judge, fake: Shown) -> Loss: ...


@dataclass(frozen=True)
class Hinge:
    """Scores of real images above 1, of drawn ones below -1 (Lim and Ye 2017, arXiv 1705.02894)."""

    def critic(self, judge: Judge, real: Shown, fake: Shown) -> Loss:
        return relu(1 - judge(real)).mean() + relu(1 + judge(fake)).mean()

    def painter(self, judge: Judge, fake: Shown) -> Loss:
        return -judge(fake).mean()


@dataclass(frozen=True)
class Wasserstein:
    """The distance of the means of a score whose slope is one, WGAN-GP (Gulrajani et al. 2017, arXiv 1704.00028).

    For a critic without spectral norm, whose slope cannot be one.
    """

    critic_steps: ClassVar[int] = 5
    """To each of the painter, in the paper."""
    penalty: float = 10.0
    """lambda, of the squared distance of the slope from one."""

    def __post_init__(self) -> None:
        if self.penalty < 0:
            raise ValueError(f"penalty must be 0 or more, got {self.penalty}")

    def critic(self, judge: Judge, real: Shown, fake: Shown) -> Loss:
        distance = judge(fake).mean() - judge(real).mean()
        return distance + self.penalty * self.slope(judge, real, fake)

    def painter(self, judge: Judge, fake: Shown) -> Loss:
        return -judge(fake).mean()

    def slope(self, judge: Judge, real: Shown, fake: Shown) -> Loss:
        """(|grad| - 1)^2 at a random place between the i-th real image and the i-th drawn one, in the mean.

        Our reading: it is said to be of what the real one is of, and both are as the critic sees them, changed.
        """
        part = torch.rand(len(real.images), *[1] * (real.images.dim() - 1), device=real.images.device)
        between = torch.lerp(fake.images.detach(), real.images, part).requires_grad_()
        (gradient,) = torch.autograd.grad(judge(replace(real, images=between)).sum(), between, create_graph=True)
        return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
