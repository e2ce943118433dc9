from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from fedcore.data.dataset import AddedImages, Images
from fedcore.messages.round import Round
from fedcore.models.base import Encoder
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedtune.classification.classifier import Classifier
from fedtune.classification.losses import BinaryCrossEntropy, CrossEntropy, Loss, balanced_weights

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


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_cross_entropy_equals_a_loop(answers: tuple[Tensor, Tensor, Tensor], label_smoothing: float) -> None:
    logits, truth, _ = answers
    weights, total = torch.tensor([0.5, 1.0, 2.0, 3.0]), 0.0
    for row, t in zip(logits.tolist(), truth.tolist(), strict=True):
        norm = math.log(sum(map(math.exp, row)))
        for c, logit in enumerate(row):
            target = label_smoothing / 4 + (1 - label_smoothing) * (c == t)
            total -= float(weights[t]) * target * (logit - norm) / len(truth)
    assert CrossEntropy(label_smoothing=label_smoothing).mean_loss(logits, truth, weights).item() == pytest.approx(
        total, rel=1e-5
    )


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_binary_cross_entropy_equals_a_loop(answers: tuple[Tensor, Tensor, Tensor], label_smoothing: float) -> None:
    logits, _, findings = answers
    weights, total = torch.rand(4, 2) + 0.5, 0.0
    for row, truth in zip(logits.tolist(), findings.tolist(), strict=True):
        for k, (logit, t) in enumerate(zip(row, truth, strict=True)):
            p, target = 1 / (1 + math.exp(-logit)), t * (1 - label_smoothing) + label_smoothing / 2
            loss = -target * math.log(p) - (1 - target) * math.log(1 - p)
            total += float(weights[k, t]) * loss / logits.numel()
    assert BinaryCrossEntropy(label_smoothing=label_smoothing).mean_loss(
        logits, findings, weights
    ).item() == pytest.approx(total, rel=1e-5)


def test_without_balance_cross_entropy_equals_torch(images: Make, answers: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, truth, _ = answers
    loss = CrossEntropy()
    weights = loss.class_weights(images(truth.tolist()), 4)
    torch.testing.assert_close(loss.mean_loss(logits, truth, weights), cross_entropy(logits, truth))


def test_class_weights_by_hand(images: Make) -> None:
    """Three of class 0, one of class 2: each class weighs 4 / 2 in sum, shared by its images; at half balance they are
    as the roots of 1/3 and 1."""
    site = images([0, 0, 0, 2])
    weights = CrossEntropy(class_balance=1.0).class_weights(site, 4)
    torch.testing.assert_close(weights, torch.tensor([2 / 3, 0, 2, 0]))
    half = CrossEntropy(class_balance=0.5).class_weights(site, 4)
    assert (half[2] / half[0]).item() == pytest.approx(3**0.5)
    assert half[site.labels].mean().item() == pytest.approx(1)


@pytest.mark.parametrize("class_balance", [0.0, 0.3, 1.0])
def test_weights_have_mean_one_for_every_finding(images: Make, class_balance: float) -> None:
    site = with_findings(images([0] * 8), [[1, 0, 1]] + [[0, 0, 1]] * 7)
    weights = BinaryCrossEntropy(class_balance=class_balance).class_weights(site, 3)
    assert site.findings is not None
    for k, column in enumerate(site.findings.unbind(1)):
        assert weights[k][column.long()].mean().item() == pytest.approx(1)
    ratio = weights[0, 1] / weights[0, 0]
    assert ratio.item() == pytest.approx(7**class_balance)


def test_at_full_balance_the_loss_is_the_mean_over_classes_of_their_mean_loss(images: Make) -> None:
    labels = torch.tensor([0] * 9 + [1] * 2 + [2])
    logits = torch.randn(12, 3)
    loss = CrossEntropy(class_balance=1.0)
    each = cross_entropy(logits, labels, reduction="none")
    expected = torch.stack([each[labels == c].mean() for c in range(3)]).mean()
    torch.testing.assert_close(loss.mean_loss(logits, labels, loss.class_weights(images(labels.tolist()), 3)), expected)


def test_added_images_count_by_their_share_of_batches(images: Make) -> None:
    """Half of a batch is synthetic, all of it of class 1, which the site lacks."""
    site = replace(images([0, 0, 0, 2]), added=AddedImages(images([1, 1], name="b"), 0.5))
    weights = CrossEntropy(class_balance=1.0).class_weights(site, 3)
    torch.testing.assert_close(weights, balanced_weights(torch.tensor([3 / 8, 1 / 2, 1 / 8]), 1.0))
    assert (weights > 0).all()


@pytest.mark.parametrize("kind", [CrossEntropy, BinaryCrossEntropy])
@pytest.mark.parametrize(
    "wrong", [{"class_balance": -0.1}, {"class_balance": 1.1}, {"label_smoothing": 1.0}, {"label_smoothing": -0.1}]
)
def test_settings_out_of_range_are_errors(kind: type, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"class_balance must lie in \[0, 1\] and label_smoothing in \[0, 1\), got"):
        kind(**wrong)


@pytest.mark.parametrize("added", [False, True])
def test_a_visit_uses_the_class_weights_of_its_site(toy: Callable[[], Encoder], images: Make, added: bool) -> None:
    """The logged loss of one step that changes nothing, at one site and then at another."""
    sites = [images([0, 0, 0, 1]), images([1, 1, 0, 2], name="b")]
    if added:
        sites = [replace(s, added=AddedImages(images([2] * 4, name="c"), 0.5)) for s in sites]
    loss: Loss = CrossEntropy(class_balance=1.0)
    module = Classifier(toy(), 3, True, None, lambda p: SGD(p, lr=0.0), loss)
    local = LocalTrainer(module, module.share, Visit(batch_size=4, accelerator="cpu"))
    for site in sites:
        local.fit(Site(site.site, site), Round(0, 1, seed=0), {})
        torch.testing.assert_close(module.class_weights, loss.class_weights(site, 3))
    assert "class_weights" not in module.state_dict()


def test_a_visit_does_not_depend_on_earlier_sites(toy: Callable[[], Encoder], images: Make) -> None:
    """To the bit: that is what lets a resumed run, or one of several processes, equal another."""
    first, second = images([0, 0, 0, 1, 2, 0]), images([1, 1, 0, 2, 1, 1], name="b")

    def trained(sites: list[Images]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        local = LocalTrainer(Classifier(toy(), 3, loss=CrossEntropy(1.0, 0.1)), ("encoder.", "head."), visit)
        initial = local.shared()
        for site in sites:
            local.reset(initial)
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
