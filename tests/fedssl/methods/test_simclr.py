from __future__ import annotations

from collections.abc import Callable
from math import exp, log

import pytest
import torch
from torch import Tensor, nn

from fedssl.methods.simclr import SimCLR


def algorithm_1(a: Tensor, b: Tensor, tau: float) -> float:
    """Chen et al. 2020, algorithm 1: z_{2k-1} and z_2k are the views of image k (from 1)."""
    z = [row for pair in zip(a.detach().double(), b.detach().double(), strict=True) for row in pair]
    n = len(a)

    def s(i: int, j: int) -> float:
        return float(z[i] @ z[j] / (z[i].norm() * z[j].norm()))

    def loss(i: int, j: int) -> float:
        return -log(exp(s(i, j) / tau) / sum(exp(s(i, k) / tau) for k in range(2 * n) if k != i))

    return sum(loss(2 * k, 2 * k + 1) + loss(2 * k + 1, 2 * k) for k in range(n)) / (2 * n)


@pytest.mark.parametrize(("n", "tau"), [(1, 0.5), (2, 0.2), (5, 0.1)])
def test_the_loss_equals_the_papers_algorithm(toy: Callable[..., nn.Module], n: int, tau: float) -> None:
    module = SimCLR(toy(), temperature=tau, hidden_dim=8, projection_dim=4)
    views = [torch.randn(n, 1, 8, 8), torch.randn(n, 1, 8, 8)]
    loss = module.loss(views)
    a, b = module.head(module.encoder(torch.cat(views))).chunk(2)  # the batch norms see both views together
    assert loss.item() == pytest.approx(algorithm_1(a, b, tau), rel=1e-4, abs=1e-6)


def test_cosines_are_float32_in_mixed_precision(toy: Callable[..., nn.Module]) -> None:
    module = SimCLR(toy(), temperature=0.05, hidden_dim=8, projection_dim=4)
    views = [torch.randn(32, 1, 8, 8), torch.randn(32, 1, 8, 8)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = module.loss(views)
        a, b = module.head(module.encoder(torch.cat(views))).float().chunk(2)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(algorithm_1(a, b, 0.05), rel=1e-4)


def test_the_loss_does_not_depend_on_the_order_of_images_or_views(toy: Callable[..., nn.Module]) -> None:
    module = SimCLR(toy(), hidden_dim=8, projection_dim=4)
    a, b = torch.randn(6, 1, 8, 8), torch.randn(6, 1, 8, 8)
    order = torch.randperm(6)
    torch.testing.assert_close(module.loss([a[order], b[order]]), module.loss([a, b]))
    torch.testing.assert_close(module.loss([b, a]), module.loss([a, b]))


def test_all_trained_state_is_sent(toy: Callable[..., nn.Module]) -> None:
    module = SimCLR(toy(), hidden_dim=8, projection_dim=4)
    module.loss([torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8)]).backward()
    trained = {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {name.split(".")[0] for name in trained} == {"encoder", "head"}
    assert all(name.startswith(module.share) for name in module.state_dict())
