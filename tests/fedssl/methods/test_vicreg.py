from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedcore.models.resnet import ResNet
from fedssl.methods.vicreg import VICReg

WEIGHTS = {"invariance_weight": 25.0, "variance_weight": 25.0, "covariance_weight": 1.0}


def vicreg(encoder: nn.Module, **weights: float) -> VICReg:
    return VICReg(encoder, hidden_dim=8, projection_dim=4, **weights)  # type: ignore[arg-type]


def views(n: int = 4) -> list[Tensor]:
    return [torch.randn(n, 1, 8, 8), torch.randn(n, 1, 8, 8)]


def variance(z: list[list[float]]) -> float:
    """v(Z), eq. 1 and 2: a hinge at 1 on the deviation of each dimension."""
    n, d, total = len(z), len(z[0]), 0.0
    for j in range(d):
        column = [row[j] for row in z]
        mean = sum(column) / n
        total += max(0.0, 1 - sqrt(sum((x - mean) ** 2 for x in column) / (n - 1) + 1e-4))
    return total / d


def covariance(z: list[list[float]]) -> float:
    """c(Z), eq. 3 and 4: the squares off the diagonal of C(Z), over d."""
    n, d, total = len(z), len(z[0]), 0.0
    mean = [sum(row[j] for row in z) / n for j in range(d)]
    for i in range(d):
        for j in range(d):
            c = sum((row[i] - mean[i]) * (row[j] - mean[j]) for row in z) / (n - 1)
            total += c**2 if i != j else 0.0
    return total / d


def distance(a: list[list[float]], b: list[list[float]]) -> float:
    """s(Z, Z'), eq. 5, per dimension as in the paper's own code."""
    pairs = zip(a, b, strict=True)
    return sum((x - y) ** 2 for p, q in pairs for x, y in zip(p, q, strict=True)) / (len(a) * len(a[0]))


def embeddings(module: VICReg, pair: list[Tensor]) -> tuple[list[list[float]], list[list[float]]]:
    a, b = (module.head(module.encoder(view)).detach().double().tolist() for view in pair)
    return a, b


@pytest.mark.parametrize("n", [2, 7])
@pytest.mark.parametrize(
    "weights", [WEIGHTS, {"invariance_weight": 1.0, "variance_weight": 0.0, "covariance_weight": 3.0}], ids=str
)
def test_the_loss_equals_loops(toy: Callable[..., nn.Module], n: int, weights: dict[str, float]) -> None:
    module, pair = vicreg(toy(), **weights), views(n)
    a, b = embeddings(module, pair)
    expected = weights["invariance_weight"] * distance(a, b)
    expected += weights["variance_weight"] * (variance(a) + variance(b)) / 2
    expected += weights["covariance_weight"] * (covariance(a) + covariance(b))
    assert module.loss(pair).item() == pytest.approx(expected, rel=1e-4)


def test_the_loss_of_collapsed_features_is_the_hinge(toy: Callable[..., nn.Module]) -> None:
    """All embeddings are one point: no distance, no covariance, and 25 * (1 - sqrt(1e-4))."""
    module = vicreg(toy())
    for p in module.head.layers[-1].parameters():
        p.data.zero_()
    assert module.loss(views()).item() == pytest.approx(25 * 0.99, rel=1e-5)


def test_the_loss_does_not_depend_on_the_order_of_images_or_views(toy: Callable[..., nn.Module]) -> None:
    module, (a, b), order = vicreg(toy()), views(6), torch.randperm(6)
    torch.testing.assert_close(module.loss([a[order], b[order]]), module.loss([a, b]))
    torch.testing.assert_close(module.loss([b, a]), module.loss([a, b]))


def test_all_state_is_sent_and_trained(toy: Callable[..., nn.Module]) -> None:
    module = vicreg(toy())
    module.loss(views()).backward()
    assert all(name.startswith(module.share) for name in module.state_dict())
    assert all(p.grad is not None for p in module.parameters())


def test_covariances_under_autocast_are_those_of_float32(toy: Callable[..., nn.Module]) -> None:
    """In bf16 they would have an error of about a hundredth; only the network's outputs have it."""
    module, pair = vicreg(toy(), invariance_weight=0.0, variance_weight=0.0, covariance_weight=1.0), views(32)
    module.encoder, module.head = nn.Flatten(), nn.Identity()  # type: ignore[assignment]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module.loss(pair)
    torch.testing.assert_close(found, module.loss(pair))


@pytest.mark.parametrize("space", [(32, 32), (32, 32, 32)], ids=["2d", "3d"])
def test_it_trains_on_images_in_bf16_and_on_volumes(space: tuple[int, ...], half: Callable[..., Any]) -> None:
    module = VICReg(ResNet(len(space), depth=10, stem=4), hidden_dim=8, projection_dim=4)
    with half(space):
        loss = module.training_step(torch.rand(4, 1, *space) * 2 - 1, 0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_negative_weights_are_rejected(toy: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"must be >= 0, got 25\.0, -1\.0 and 1\.0"):
        vicreg(toy(), variance_weight=-1.0)
