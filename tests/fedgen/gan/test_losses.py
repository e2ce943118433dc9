from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fedgen.gan.discriminator import ConditionedImages
from fedgen.gan.losses import HingeLoss, WassersteinLoss


def batch(seed: int, count: int = 6) -> ConditionedImages:
    random = torch.Generator().manual_seed(seed)
    indices = torch.zeros(count, dtype=torch.int64)
    return ConditionedImages(torch.randn(count, 1, 2, 3, generator=random), indices, indices)


class Linear(nn.Module):
    """A discriminator whose gradient is w everywhere."""

    def __init__(self, length: float = 2.0):
        super().__init__()
        w = torch.randn(6, generator=torch.Generator().manual_seed(0))
        self.w = nn.Parameter(length * w / w.norm())

    def forward(self, inputs: ConditionedImages) -> Tensor:
        return inputs.images.flatten(1) @ self.w


def test_hinge_is_the_papers_as_loops() -> None:
    score, real, fake = Linear(), batch(1), batch(2)
    scores = [[float(s) for s in score(images).detach()] for images in (real, fake)]
    expected = sum(max(0.0, 1 - s) for s in scores[0]) / 6 + sum(max(0.0, 1 + s) for s in scores[1]) / 6
    assert float(HingeLoss().discriminator(score, real, fake).detach()) == pytest.approx(expected, rel=1e-5)
    assert float(HingeLoss().generator(score, fake).detach()) == pytest.approx(-sum(scores[1]) / 6, rel=1e-5)


def test_hinge_is_zero_beyond_the_margin() -> None:
    real = ConditionedImages(torch.full((3, 1, 1, 1), 4.0), *[torch.zeros(3, dtype=torch.int64)] * 2)
    fake = ConditionedImages(-real.images, real.labels, real.sites)
    assert HingeLoss().discriminator(lambda s: s.images.flatten(), real, fake) == 0.0
    assert HingeLoss().discriminator(lambda s: s.images.flatten(), fake, real) == 10.0


@pytest.mark.parametrize("length", [0.5, 1.0, 3.0])
def test_the_penalty_of_a_linear_discriminator_has_a_closed_form(length: float) -> None:
    score, real, fake = Linear(length), batch(1), batch(2)
    loss_function = WassersteinLoss(penalty_weight=10.0)
    assert float(loss_function.gradient_penalty(score, real, fake).detach()) == pytest.approx(
        (length - 1) ** 2, abs=1e-5
    )
    difference = float((score(fake).mean() - score(real).mean()).detach())
    loss = loss_function.discriminator(score, real, fake)
    assert float(loss.detach()) == pytest.approx(difference + 10 * (length - 1) ** 2, abs=1e-4)
    assert float(loss_function.generator(score, fake).detach()) == pytest.approx(float(-score(fake).mean().detach()))


def test_the_penalty_has_a_gradient_for_the_discriminator_alone() -> None:
    """d(|w| - 1)^2 / dw = 2 (|w| - 1) w / |w|."""
    score, real, fake = Linear(3.0), batch(1), batch(2)
    fake.images.requires_grad_()
    WassersteinLoss().gradient_penalty(score, real, fake).backward()
    assert score.w.grad is not None
    assert torch.allclose(score.w.grad, 4 * score.w.detach() / 3, atol=1e-5)
    assert fake.images.grad is None


def test_the_penalty_equals_a_loop_over_pairs() -> None:
    def score(inputs: ConditionedImages) -> Tensor:
        return (inputs.images.flatten(1) ** 3).sum(1)

    real, fake = batch(1), batch(2)
    torch.manual_seed(0)
    found = WassersteinLoss().gradient_penalty(score, real, fake)
    torch.manual_seed(0)
    part = torch.rand(6, 1, 1, 1)
    total = 0.0
    for i in range(6):
        between = float(part[i]) * real.images[i] + (1 - float(part[i])) * fake.images[i]
        total += (math.sqrt(float(((3 * between**2) ** 2).sum())) - 1) ** 2
    assert float(found.detach()) == pytest.approx(total / 6, rel=1e-4)


def test_a_negative_penalty_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="penalty_weight must be 0 or more, got -1"):
        WassersteinLoss(-1.0)
