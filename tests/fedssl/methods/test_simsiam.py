from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedcore.models.resnet import ResNet
from fedssl.methods.simsiam import SimSiam


def simsiam(encoder: nn.Module) -> SimSiam:
    return SimSiam(encoder, hidden_dim=8, projection_dim=6, predictor_hidden_dim=4)  # type: ignore[arg-type]


def views(n: int = 4) -> list[Tensor]:
    return [torch.randn(n, 1, 8, 8), torch.randn(n, 1, 8, 8)]


def equation_1(p: Tensor, z: Tensor) -> float:
    """D(p, z): minus the mean cosine over the images, number by number."""
    total = 0.0
    for a, b in zip(p.detach().double(), z.detach().double(), strict=True):
        total -= sum(float(x) * float(y) for x, y in zip(a, b, strict=True)) / float(a.norm() * b.norm())
    return total / len(p)


@pytest.mark.parametrize("n", [2, 5])
def test_the_loss_equals_the_papers(toy: Callable[..., nn.Module], n: int) -> None:
    module, pair = simsiam(toy()), views(n)
    z1, z2 = (module.head(module.encoder(view)) for view in pair)
    p1, p2 = module.predictor(z1), module.predictor(z2)
    expected = equation_1(p1, z2) / 2 + equation_1(p2, z1) / 2  # eq. 2
    assert module.loss(pair).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_gradient_stops_where_the_paper_stops_it(toy: Callable[..., nn.Module]) -> None:
    """The gradient of the encoder equals the one of a loss whose targets are constants (eq. 3)."""
    module, pair = simsiam(toy()), views()
    z1, z2 = (module.head(module.encoder(view)) for view in pair)
    fixed1, fixed2 = torch.tensor(z1.tolist()), torch.tensor(z2.tolist())
    p1, p2 = module.predictor(z1), module.predictor(z2)
    cos = nn.functional.cosine_similarity
    (-(cos(p1, fixed2) + cos(p2, fixed1)).mean() / 2).backward()
    expected = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    module.loss(pair).backward()
    for name, p in module.named_parameters():
        torch.testing.assert_close(p.grad, expected[name])


def test_the_loss_does_not_depend_on_the_order_of_images_or_views(toy: Callable[..., nn.Module]) -> None:
    module, (a, b), order = simsiam(toy()), views(6), torch.randperm(6)
    torch.testing.assert_close(module.loss([a[order], b[order]]), module.loss([a, b]))
    torch.testing.assert_close(module.loss([b, a]), module.loss([a, b]))


def test_all_state_is_sent(toy: Callable[..., nn.Module]) -> None:
    module = simsiam(toy())
    assert all(name.startswith(module.share) for name in module.state_dict())
    module.loss(views()).backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("space", [(32, 32), (32, 32, 32)], ids=["2d", "3d"])
def test_it_trains_on_images_in_bf16_and_on_volumes(space: tuple[int, ...], half: Callable[..., Any]) -> None:
    module = SimSiam(ResNet(len(space), depth=10, stem=4), hidden_dim=8, projection_dim=6, predictor_hidden_dim=4)
    with half(space):
        loss = module.training_step(torch.rand(4, 1, *space) * 2 - 1, 0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert -1 <= loss.item() <= 1
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
