from __future__ import annotations

import pytest
import torch
from torch import nn

from fedgen.ema import update_ema


def pair() -> tuple[nn.Linear, nn.Linear]:
    """An EMA of zeros and a network of ones."""
    slow, fast = nn.Linear(2, 3), nn.Linear(2, 3)
    for network, value in ((slow, 0.0), (fast, 1.0)):
        for parameter in network.parameters():
            nn.init.constant_(parameter, value)
    return slow, fast


@pytest.mark.parametrize(
    ("halflife", "steps", "expected"), [(32.0, 1000.0, 1 - 0.5**0.5), (0.0, 1000.0, 1.0), (1e9, 0.0, 0.9)]
)
def test_a_step_equals_the_hand_computed_one(halflife: float, steps: float, expected: float) -> None:
    """A halflife of 32 images with 16 per step; a copy; and the first of all steps, which is long."""
    (slow, fast), taken = pair(), torch.tensor(steps, dtype=torch.float64)
    update_ema(slow, fast, 16, halflife, taken)
    assert all(torch.allclose(p, torch.full_like(p, expected)) for p in slow.parameters())
    assert all(torch.equal(p, torch.ones_like(p)) for p in fast.parameters())
    assert taken == steps + 1


def test_the_mean_of_emas_is_the_ema_of_the_means() -> None:
    """So sites that take equally many steps can share one EMA with the server."""
    apart = [pair() for _ in range(2)]
    for at, (_, fast) in enumerate(apart):
        nn.init.constant_(fast.weight, float(at))
    slow, fast = pair()
    nn.init.constant_(fast.weight, 0.5)
    for steps in range(3):
        for each in (*apart, (slow, fast)):
            update_ema(*each, 16, 64.0, torch.tensor(float(steps)))
    assert torch.allclose((apart[0][0].weight + apart[1][0].weight) / 2, slow.weight)


@pytest.mark.parametrize("halflife", [0.0, 20.0, 1e4])
def test_steps_equal_those_of_a_loop_over_parameters(halflife: float) -> None:
    slow, fast = nn.Linear(3, 4), nn.Linear(3, 4)
    expected, taken = [p.detach().clone() for p in slow.parameters()], torch.zeros((), dtype=torch.float64)
    for step in range(40):
        for p in fast.parameters():
            nn.init.normal_(p)
        decay = min(0.5 ** (16 / halflife) if halflife else 0.0, (1 + step) / (10 + step))
        for at, p in enumerate(fast.parameters()):
            expected[at].lerp_(p.detach(), 1 - decay)
        update_ema(slow, fast, 16, halflife, taken)
    for p, mine in zip(slow.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), mine, rtol=0, atol=1e-6)
    assert taken == 40
