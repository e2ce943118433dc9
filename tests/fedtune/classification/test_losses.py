from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from fedcore.data.dataset import Companions, Images
from fedcore.models.base import Encoder
from fedcore.site.site import Round, Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedtune.classification.classifier import Classifier
from fedtune.classification.losses import BinaryCrossEntropy, CrossEntropy, Loss, weights_of

Make = Callable[..., Images]


@pytest.fixture
def answers() -> tuple[Tensor, Tensor, Tensor]:
    """Logits of 12 images and 4 classes, a class each, and findings."""
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(12, 4, generator=draw)
    findings = torch.randint(2, (12, 4), generator=draw, dtype=torch.uint8)
    return logits, torch.randint(4, (12,), generator=draw), findings


def with_findings(images: Images, rows: list[list[int]]) -> Images:
    return replace(images, findings=torch.tensor(rows, dtype=torch.uint8))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_equals_the_loop(answers: tuple[Tensor, Tensor, Tensor], smoothing: float) -> None:
    logits, truth, _ = answers
    weights, total = torch.tensor([0.5, 1.0, 2.0, 3.0]), 0.0
    for row, t in zip(logits.tolist(), truth.tolist(), strict=True):
        norm = math.log(sum(map(math.exp, row)))
        for c, logit in enumerate(row):
            target = smoothing / 4 + (1 - smoothing) * (c == t)
            total -= float(weights[t]) * target * (logit - norm) / len(truth)
    assert CrossEntropy(smoothing=smoothing).mean(logits, truth, weights).item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_binary_cross_entropy_equals_the_loop(answers: tuple[Tensor, Tensor, Tensor], smoothing: float) -> None:
    logits, _, findings = answers
    weights, total = torch.rand(4, 2) + 0.5, 0.0
    for row, truth in zip(logits.tolist(), findings.tolist(), strict=True):
        for k, (logit, t) in enumerate(zip(row, truth, strict=True)):
            p, target = 1 / (1 + math.exp(-logit)), t * (1 - smoothing) + smoothing / 2
            loss = -target * math.log(p) - (1 - target) * math.log(1 - p)
            total += float(weights[k, t]) * loss / logits.numel()
    assert BinaryCrossEntropy(smoothing=smoothing).mean(logits, findings, weights).item() == pytest.approx(
        total, rel=1e-5
    )


def test_without_balance_it_is_torchs_own(images: Make, answers: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, truth, _ = answers
    loss = CrossEntropy()
    weights = loss.weights(images(truth.tolist()), 4)
    torch.testing.assert_close(loss.mean(logits, truth, weights), cross_entropy(logits, truth))


def test_weights_by_hand(images: Make) -> None:
    """Three of class 0, one of class 2: each class weighs 4 / 2 in sum, shared by its images; at half balance they are
    as the roots of 1/3 and 1."""
    site = images([0, 0, 0, 2])
    weights = CrossEntropy(balance=1.0).weights(site, 4)
    torch.testing.assert_close(weights, torch.tensor([2 / 3, 0, 2, 0]))
    half = CrossEntropy(balance=0.5).weights(site, 4)
    assert (half[2] / half[0]).item() == pytest.approx(3**0.5)
    assert half[site.labels].mean().item() == pytest.approx(1)


@pytest.mark.parametrize("balance", [0.0, 0.3, 1.0])
def test_images_weigh_one_on_average_of_every_finding(images: Make, balance: float) -> None:
    site = with_findings(images([0] * 8), [[1, 0, 1]] + [[0, 0, 1]] * 7)
    weights = BinaryCrossEntropy(balance=balance).weights(site, 3)
    assert site.findings is not None
    for k, column in enumerate(site.findings.unbind(1)):
        assert weights[k][column.long()].mean().item() == pytest.approx(1)
    ratio = weights[0, 1] / weights[0, 0]
    assert ratio.item() == pytest.approx(7**balance)


def test_at_full_balance_the_loss_is_the_mean_over_classes_of_their_mean_loss(images: Make) -> None:
    labels = torch.tensor([0] * 9 + [1] * 2 + [2])
    logits = torch.randn(12, 3)
    loss = CrossEntropy(balance=1.0)
    each = cross_entropy(logits, labels, reduction="none")
    expected = torch.stack([each[labels == c].mean() for c in range(3)]).mean()
    torch.testing.assert_close(loss.mean(logits, labels, loss.weights(images(labels.tolist()), 3)), expected)


def test_companions_count_as_often_as_they_come(images: Make) -> None:
    """Half of a batch is drawn, all of it of class 1, which the site lacks."""
    site = replace(images([0, 0, 0, 2]), companions=Companions(images([1, 1], name="b"), 0.5))
    weights = CrossEntropy(balance=1.0).weights(site, 3)
    torch.testing.assert_close(weights, weights_of(torch.tensor([3 / 8, 1 / 2, 1 / 8]), 1.0))
    assert (weights > 0).all()


@pytest.mark.parametrize("kind", [CrossEntropy, BinaryCrossEntropy])
@pytest.mark.parametrize("wrong", [{"balance": -0.1}, {"balance": 1.1}, {"smoothing": 1.0}, {"smoothing": -0.1}])
def test_settings_out_of_range_are_refused(kind: type, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"balance must lie in \[0, 1\] and smoothing in \[0, 1\), got"):
        kind(**wrong)


@pytest.mark.parametrize("companions", [False, True])
def test_a_visit_learns_by_the_weights_of_its_own_site(
    toy: Callable[[], Encoder], images: Make, companions: bool
) -> None:
    """The logged loss of one step that changes nothing, at one site and then at another."""
    sites = [images([0, 0, 0, 1]), images([1, 1, 0, 2], name="b")]
    if companions:
        sites = [replace(s, companions=Companions(images([2] * 4, name="c"), 0.5)) for s in sites]
    loss: Loss = CrossEntropy(balance=1.0)
    module = Classifier(toy(), 3, True, None, lambda p: SGD(p, lr=0.0), loss)
    local = LocalTrainer(module, module.share, Visit(batch_size=4, accelerator="cpu"))
    for site in sites:
        local.fit(Site(site.site, site), Round(0, 1, seed=0), {})
        torch.testing.assert_close(module.weights, loss.weights(site, 3))
    assert "weights" not in module.state_dict()


def test_nothing_of_another_site_is_left_in_a_visit(toy: Callable[[], Encoder], images: Make) -> None:
    """To the bit: that is what lets a resumed run, or one of several processes, equal another."""
    first, second = images([0, 0, 0, 1, 2, 0]), images([1, 1, 0, 2, 1, 1], name="b")

    def trained(sites: list[Images]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        local = LocalTrainer(Classifier(toy(), 3, loss=CrossEntropy(1.0, 0.1)), ("encoder.", "head."), visit)
        start = local.shared()
        for site in sites:
            local.reset(start)
            local.fit(Site(site.site, site), Round(0, 1, seed=0), {})
        return local.shared()

    visit = Visit(batch_size=4, max_epochs=2, accelerator="cpu")
    alone, after = trained([second]), trained([first, second])
    assert all(torch.equal(t, after[name]) for name, t in alone.items())


def test_a_visit_learns_findings_that_are_in_the_images(toy: Callable[[], Encoder], images: Make) -> None:
    """Half of the image is bright or dark for each of two findings, so all four sets occur."""
    rows = [[0, 0], [0, 1], [1, 0], [1, 1]] * 4
    site = with_findings(images([0] * 16), rows)
    halves = abs(site.pixels).reshape(16, 2, -1) * (1 - 2 * torch.tensor(rows).numpy()[:, :, None])
    site.pixels[:] = halves.reshape(site.pixels.shape)
    module = Classifier(toy(), 2, augment=None, optimizer=lambda p: SGD(p, lr=0.3), loss=BinaryCrossEntropy(0.5))
    local = LocalTrainer(module, module.share, Visit(batch_size=4, max_epochs=15, accelerator="cpu"))
    local.fit(Site("a", site), Round(0, 1, seed=0), {})
    assert torch.equal((module.eval()(site.batch(range(16))) > 0).byte(), site.findings)
