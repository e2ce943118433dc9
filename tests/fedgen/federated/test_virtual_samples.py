from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedcore.messages.tensors import Tensors
from fedcore.models.base import Encoder
from fedcore.training.functional import evaluating, functional
from fedgen.federated.fedvss import FedVSS
from fedgen.federated.virtual_samples import (
    adversarial_samples,
    confident_samples,
    kl_divergence,
    perturbed,
    unit_rms,
)
from tests.fedgen.members import shapes, untrained
from tests.fedgen.visits import classifier, hospital, same

EPS, XI = 0.02, 0.01
SHAPES = pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 6), (2, 4, 3, 2)], ids=["2D", "colour", "3D"])


class Linear(nn.Module):
    """f(x) = W x + b on flattened images, in float64."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__()
        self.layer = nn.Linear(math.prod(shape), classes).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


def inner(n: int, shape: tuple[int, ...]) -> Tensor:
    """Images so far from -1 and 1 that no sample is clipped."""
    return torch.empty(n, *shape, dtype=torch.float64).uniform_(-0.5, 0.5)


# The arithmetic


def test_the_kl_divergence_equals_the_hand_computed_one() -> None:
    """KL((0.9, 0.1) || (0.5, 0.5)) = 0.9 ln 1.8 + 0.1 ln 0.2 = 0.3681; the other way round it is 0.5108."""
    p, q = torch.tensor([[0.9, 0.1]]).log() + 3, torch.tensor([[0.5, 0.5]]).log() - 1
    assert kl_divergence(p, q).item() == pytest.approx(0.36806, abs=1e-5)
    assert kl_divergence(q, p).item() == pytest.approx(0.51083, abs=1e-5)
    pair = kl_divergence(torch.cat([p, q]), torch.cat([q, q]))
    assert pair.item() == pytest.approx(0.36806 / 2, abs=1e-5)  # a mean over images, not over classes


@SHAPES
def test_a_unit_direction_has_a_root_mean_square_of_1_per_image(shape: tuple[int, ...]) -> None:
    direction = torch.randn(4, *shape)
    for one, image in zip(unit_rms(direction), direction, strict=True):
        square = sum(float(x) ** 2 for x in image.flatten()) / image.numel()
        torch.testing.assert_close(one, image / square**0.5)


def test_a_unit_direction_is_scale_free_and_zeros_remain_zeros() -> None:
    direction = torch.randn(4, 1, 8, 8)
    scales = torch.tensor([1e-30, 1e-12, 1.0, 1e30]).view(-1, 1, 1, 1)
    torch.testing.assert_close(unit_rms(direction * scales), unit_rms(direction))
    assert torch.equal(unit_rms(torch.zeros(2, 1, 8, 8)), torch.zeros(2, 1, 8, 8))


def test_a_perturbed_image_is_clipped_to_the_range_of_images() -> None:
    x, r = torch.tensor([[[-1.0, 0.0, 0.99]]]), torch.tensor([[[-0.02, 0.02, 0.02]]])
    torch.testing.assert_close(perturbed(x, r), torch.tensor([[[-1.0, 0.02, 1.0]]]))


# The searches, where the result is known


@SHAPES
def test_for_a_linear_model_of_two_classes_the_most_adversarial_direction_is_found(shape: tuple[int, ...]) -> None:
    """KL(f(x) || f(x + r)) = p (1 - p) / 2 (w . r)^2 + O(r^3) with w = w_1 - w_2: r = +-eps w / |w|."""
    f, x = Linear(shape, 2), inner(5, shape)
    logits = f(x).detach()
    r = adversarial_samples(f, x, logits, EPS, XI) - x
    w = (f.layer.weight[0] - f.layer.weight[1]).detach().view(1, *shape)
    expected = EPS * unit_rms(w).expand_as(x)
    torch.testing.assert_close(r, expected * (r * expected).flatten(1).sum(1).sign().view(-1, *[1] * len(shape)))
    for _ in range(100):
        other = EPS * unit_rms(torch.randn_like(x))
        assert kl_divergence(logits, f(x + other)) < kl_divergence(logits, f(x + r))


@SHAPES
def test_for_a_linear_model_the_direction_is_the_hessian_times_the_random_start(
    shape: tuple[int, ...],
) -> None:
    """H = W' (diag p - p p') W of each image, for any number of classes."""
    f, x = Linear(shape, 4), inner(5, shape)
    logits = f(x).detach()
    torch.manual_seed(3)
    r = adversarial_samples(f, x, logits, EPS, 1e-5) - x
    torch.manual_seed(3)
    d = unit_rms(torch.randn_like(x)).flatten(1)
    W = f.layer.weight.detach()
    for at, p in enumerate(logits.softmax(1)):
        H = W.T @ (p.diag() - torch.outer(p, p)) @ W
        torch.testing.assert_close(r[at].flatten(), EPS * unit_rms((H @ d[at])[None])[0], rtol=1e-3, atol=1e-5)


@SHAPES
def test_for_a_linear_model_of_two_classes_the_most_confident_image_is_found(shape: tuple[int, ...]) -> None:
    """CE falls with w . r alone, w = w_y - w_other: r = eps w / |w|, and no other r within eps has a lower CE."""
    f, x, labels = Linear(shape, 2), inner(6, shape), torch.arange(6) % 2
    r = confident_samples(f, x, labels, EPS) - x
    w = (f.layer.weight[labels] - f.layer.weight[1 - labels]).detach().view_as(x)
    torch.testing.assert_close(r, EPS * unit_rms(w))
    for _ in range(100):
        other = EPS * torch.rand(6).view(-1, *[1] * len(shape)) * unit_rms(torch.randn_like(x))
        with_other, with_ours = (cross_entropy(f(x + by), labels, reduction="none") for by in (other, r))
        assert (with_other > with_ours).all()


@SHAPES
def test_the_searches_equal_loops_over_images(shape: tuple[int, ...]) -> None:
    f = nn.Sequential(Linear(shape, 6), nn.Tanh(), nn.Linear(6, 3).double())
    x, labels = inner(4, shape), torch.tensor([0, 2, 1, 2])
    logits = f(x).detach()
    torch.manual_seed(5)
    local, confident = adversarial_samples(f, x, logits, EPS, XI), confident_samples(f, x, labels, EPS)
    torch.manual_seed(5)
    noise = torch.randn_like(x)
    for at in range(4):
        p = logits[at].softmax(0)
        r = (XI * noise[at] / noise[at].square().mean().sqrt()).requires_grad_()
        q = f((x[at] + r)[None])[0].softmax(0)
        sum(p[k] * (p[k].log() - q[k].log()) for k in range(3)).backward()  # type: ignore[union-attr]
        torch.testing.assert_close(local[at], x[at] + EPS * r.grad / r.grad.square().mean().sqrt())
        y = x[at].clone().requires_grad_()
        (-f(y[None])[0].softmax(0)[labels[at]].log()).backward()
        torch.testing.assert_close(confident[at], x[at] - EPS * y.grad / y.grad.square().mean().sqrt())


def test_the_search_in_float32_finds_the_direction_of_float64(toy: Callable[..., Encoder]) -> None:
    exact, x = classifier(toy()).double(), inner(8, (1, 8, 8))
    rough = copy.deepcopy(exact).float()
    found = []
    for module, images in ((exact, x), (rough, x.float())):
        f = functional(module)
        r = (XI * unit_rms(torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)))).to(images)
        with torch.no_grad():
            logits = f(images)
        r.requires_grad_()
        found.append(unit_rms(torch.autograd.grad(kl_divergence(logits, f(images + r)), r)[0]).double())
    torch.testing.assert_close(found[0], found[1], rtol=0.01, atol=0.01)


# Magnitudes


def relative_to_cross_entropy(settings: FedVSS) -> tuple[float, float]:
    """For a half-trained network, three steps after the server's model: the weighted adversarial loss over the cross
    entropy, and the length of the weighted high-confidence loss's gradient over that of the cross entropy."""
    x, y = shapes(96, seed=0)
    module = untrained(0)
    adam = torch.optim.Adam(module.parameters(), lr=0.01)
    sent: Tensors = {}
    for step in range(28):
        if step == 25:
            sent = copy.deepcopy(module.state_dict())
        adam.zero_grad()
        cross_entropy(module(x), y).backward()
        adam.step()

    def length(loss: Tensor) -> float:
        return float(torch.cat([t.flatten() for t in torch.autograd.grad(loss, list(module.parameters()))]).norm())

    f, server = functional(module), functional(module, sent)
    task, logits = cross_entropy(f(x), y), f(x).detach()
    local = kl_divergence(logits, f(adversarial_samples(f, x, logits, settings.eps, settings.xi)))
    with evaluating(module):
        confident = confident_samples(server, x, y, settings.eps)
        target = server(confident).detach()
    ratio = settings.lambda_l * float(local.detach()) / float(task.detach())
    return ratio, length(settings.lambda_g * kl_divergence(target, f(confident))) / length(task)


def test_the_adversarial_loss_is_below_the_cross_entropy_and_the_confident_one_has_a_gradient() -> None:
    torch.manual_seed(0)
    ratio, gradient = relative_to_cross_entropy(FedVSS())
    assert 0.005 < ratio < 0.5
    assert 0.1 < gradient < 2
    assert relative_to_cross_entropy(FedVSS(lambda_l=1.0, eps=0.02))[0] > 1  # would exceed the cross entropy


def test_the_confident_loss_has_no_gradient_for_the_servers_own_model() -> None:
    f, server, x = Linear((1, 8, 8), 3), Linear((1, 8, 8), 3), inner(4, (1, 8, 8))
    confident = confident_samples(server, x, torch.tensor([0, 1, 2, 0]), EPS)
    target = server(confident).detach()
    for module, learns in ((server, False), (f, True)):
        gradient = torch.autograd.grad(kl_divergence(target, module(confident)), module.layer.weight)[0]
        assert bool(gradient.norm() > 1e-3) == learns


# Side effects


def test_the_searches_do_not_change_the_module(toy: Callable[..., Encoder]) -> None:
    module, x, labels = classifier(toy()).train(), hospital().images.batch(range(12)), torch.arange(12) % 3
    before = copy.deepcopy(module.state_dict())
    adversarial_samples(functional(module), x, functional(module)(x).detach(), EPS, XI)
    with evaluating(module):
        confident_samples(functional(module, dict(module.state_dict())), x, labels, EPS)
    assert same(dict(module.state_dict()), before)
    assert all(p.grad is None for p in module.parameters())
    assert torch.equal(functional(module)(x), module(x))  # it is the module, in its own mode
    assert not same(dict(module.state_dict()), before)  # while the module itself updates its buffers
