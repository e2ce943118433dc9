from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fedgen.gan.discriminator import Shown
from fedgen.gan.losses import Hinge, Wasserstein


def shown(seed: int, count: int = 6) -> Shown:
    random = torch.Generator().manual_seed(seed)
    places = torch.zeros(count, dtype=torch.int64)
    return Shown(torch.randn(count, 1, 2, 3, generator=random), places, places)


class Linear(nn.Module):
    """A critic whose slope is the length of w wherever it is measured."""

    def __init__(self, length: float = 2.0):
        super().__init__()
        w = torch.randn(6, generator=torch.Generator().manual_seed(0))
        self.w = nn.Parameter(length * w / w.norm())

    def forward(self, asked: Shown) -> Tensor:
        return asked.images.flatten(1) @ self.w


def test_hinge_is_the_papers_as_loops() -> None:
    judge, real, fake = Linear(), shown(1), shown(2)
    scores = [[float(s) for s in judge(images).detach()] for images in (real, fake)]
    expected = sum(max(0.0, 1 - s) for s in scores[0]) / 6 + sum(max(0.0, 1 + s) for s in scores[1]) / 6
    assert float(Hinge().critic(judge, real, fake).detach()) == pytest.approx(expected, rel=1e-5)
    assert float(Hinge().painter(judge, fake).detach()) == pytest.approx(-sum(scores[1]) / 6, rel=1e-5)


def test_hinge_forgets_what_is_beyond_the_margin() -> None:
    real = Shown(torch.full((3, 1, 1, 1), 4.0), *[torch.zeros(3, dtype=torch.int64)] * 2)
    fake = Shown(-real.images, real.labels, real.sites)
    assert Hinge().critic(lambda s: s.images.flatten(), real, fake) == 0.0
    assert Hinge().critic(lambda s: s.images.flatten(), fake, real) == 10.0


@pytest.mark.parametrize("length", [0.5, 1.0, 3.0])
def test_the_penalty_of_a_linear_critic_has_a_closed_form(length: float) -> None:
    judge, real, fake = Linear(length), shown(1), shown(2)
    objective = Wasserstein(penalty=10.0)
    assert float(objective.slope(judge, real, fake).detach()) == pytest.approx((length - 1) ** 2, abs=1e-5)
    distance = float((judge(fake).mean() - judge(real).mean()).detach())
    loss = objective.critic(judge, real, fake)
    assert float(loss.detach()) == pytest.approx(distance + 10 * (length - 1) ** 2, abs=1e-4)
    assert float(objective.painter(judge, fake).detach()) == pytest.approx(float(-judge(fake).mean().detach()))


def test_the_penalty_teaches_the_critic_and_not_the_painter() -> None:
    """d(|w| - 1)^2 / dw = 2 (|w| - 1) w / |w|."""
    judge, real, fake = Linear(3.0), shown(1), shown(2)
    fake.images.requires_grad_()
    Wasserstein().slope(judge, real, fake).backward()
    assert judge.w.grad is not None
    assert torch.allclose(judge.w.grad, 4 * judge.w.detach() / 3, atol=1e-5)
    assert fake.images.grad is None


def test_the_penalty_is_measured_between_the_pairs_one_after_another() -> None:
    def judge(asked: Shown) -> Tensor:
        return (asked.images.flatten(1) ** 3).sum(1)

    real, fake = shown(1), shown(2)
    torch.manual_seed(0)
    found = Wasserstein().slope(judge, real, fake)
    torch.manual_seed(0)
    part = torch.rand(6, 1, 1, 1)
    total = 0.0
    for i in range(6):
        between = float(part[i]) * real.images[i] + (1 - float(part[i])) * fake.images[i]
        total += (math.sqrt(float(((3 * between**2) ** 2).sum())) - 1) ** 2
    assert float(found.detach()) == pytest.approx(total / 6, rel=1e-4)


def test_a_penalty_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="penalty must be 0 or more, got -1"):
        Wasserstein(-1.0)
