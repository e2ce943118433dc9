"""What a critic and a painter learn by: a loss for each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu

from fedgen.critic import Shown

Judge = Callable[[Shown], Tensor]
"""Images to a score each, a critic."""


@runtime_checkable
class Objective(Protocol):
    """Both losses are means over images."""

    critic_steps: ClassVar[int]
    """Steps of the critic to each of the painter, in its paper."""

    def critic(self, judge: Judge, real: Shown, fake: Shown) -> Float[Tensor, ""]: ...
    def painter(self, judge: Judge, fake: Shown) -> Float[Tensor, ""]: ...


@dataclass(frozen=True)
class Hinge:
    """Scores of real images above 1, of drawn ones below -1 (Lim and Ye 2017, arXiv 1705.02894)."""

    critic_steps: ClassVar[int] = 1

    def critic(self, judge: Judge, real: Shown, fake: Shown) -> Float[Tensor, ""]:
        return relu(1 - judge(real)).mean() + relu(1 + judge(fake)).mean()

    def painter(self, judge: Judge, fake: Shown) -> Float[Tensor, ""]:
        return -judge(fake).mean()


@dataclass(frozen=True)
class Wasserstein:
    """The distance of the means of a score whose slope is one, WGAN-GP (Gulrajani et al. 2017, arXiv 1704.00028).

    For a critic without spectral norm, whose slope cannot be one.
    """

    critic_steps: ClassVar[int] = 5
    penalty: float = 10.0
    """lambda, of the squared distance of the slope from one."""

    def __post_init__(self) -> None:
        if self.penalty < 0:
            raise ValueError(f"penalty must be 0 or more, got {self.penalty}")

    def critic(self, judge: Judge, real: Shown, fake: Shown) -> Float[Tensor, ""]:
        distance = judge(fake).mean() - judge(real).mean()
        return distance + self.penalty * self.slope(judge, real, fake)

    def painter(self, judge: Judge, fake: Shown) -> Float[Tensor, ""]:
        return -judge(fake).mean()

    def slope(self, judge: Judge, real: Shown, fake: Shown) -> Float[Tensor, ""]:
        """(|grad| - 1)^2 at a random place between the i-th real image and the i-th drawn one, in the mean.

        Our reading: it is said to be of what the real one is of, and both are as the critic sees them, changed.
        """
        part = torch.rand(len(real.images), *[1] * (real.images.dim() - 1), device=real.images.device)
        between = torch.lerp(fake.images.detach(), real.images, part).requires_grad_()
        (gradient,) = torch.autograd.grad(judge(replace(real, images=between)).sum(), between, create_graph=True)
        return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
