from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import pytest
import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax, softmax

from fedgen.oneshot.distillation import (
    Distillation,
    TeacherBatch,
    distillation_loss,
    noise_adapted,
    shuffled_batches,
    soft_targets,
    trajectory_batches,
)
from fedgen.oneshot.ensemble import Ensemble
from tests.fedgen.members import accuracy, members, shapes, untrained
from tests.fedgen.oneshot.test_inversion import network

T = 20.0


def train(how: Distillation, student: nn.Module, epochs: Iterable[Iterable[TeacherBatch]]) -> list[float]:
    """Losses of all epochs."""
    optimizer = how.optimizer(student)
    return [how.train_epoch(student, optimizer, batches, epoch) for epoch, batches in enumerate(epochs)]


def test_the_loss_of_a_hand_sized_case() -> None:
    targets, logits = torch.tensor([[0.75, 0.25]]), torch.tensor([[0.0, 0.0]])
    golden = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert float(distillation_loss(targets, logits, 2.0)) == pytest.approx(golden)
    logits = torch.randn(3, 4)
    assert float(distillation_loss(soft_targets(logits, T), logits, T)) == pytest.approx(0, abs=1e-4)
    torch.testing.assert_close(soft_targets(logits, T), soft_targets(logits + 5, T))


def test_the_noise_adapted_copy_gives_the_logits_of_the_papers_code() -> None:
    """The code passes all images in reverse order through a copy in training mode, then takes its logits in order."""
    ensemble = Ensemble([network(0), network(1)])
    trajectory = [torch.randn(4, 1, 8, 8) for _ in range(3)]
    theirs = copy.deepcopy(ensemble).train()
    for images in reversed(trajectory):
        theirs(images)
    ours = noise_adapted(ensemble)
    for images in trajectory:
        torch.testing.assert_close(ours(images), theirs(images))
        assert not torch.allclose(ours(images), ensemble(images))


def test_soft_targets_give_the_gradient_of_the_papers_two_losses() -> None:
    ensemble, student = Ensemble([network(0), network(1)]), network(2)
    trajectory = [torch.randn(4, 1, 8, 8) for _ in range(4)]
    noisy = noise_adapted(ensemble)
    for at, (images, targets) in enumerate(trajectory_batches(trajectory, len(trajectory), ensemble, T)):
        alpha, answer = at / 4, student.eval()(images)
        real, noise = (
            kl_div(log_softmax(answer / T, 1), softmax(teacher(images) / T, 1), reduction="batchmean") * T * T
            for teacher in (ensemble, noisy)
        )
        theirs = torch.autograd.grad(alpha * real + (1 - alpha) * noise, answer)[0]
        answer = student(images)
        ours = torch.autograd.grad(distillation_loss(targets, answer, T), answer)[0]
        torch.testing.assert_close(ours, theirs)


def test_training_equals_loops_with_the_learning_rates_of_the_code() -> None:
    how = Distillation(epochs=4, temperature=2.0, lr=0.1)
    batches = [[(torch.randn(4, 1, 8, 8), softmax(torch.randn(4, 3), 1)) for _ in range(2)] for _ in range(4)]
    ours, theirs = network(0), network(0)
    losses = train(how, ours, batches)
    velocity = [torch.zeros_like(p) for p in theirs.parameters()]
    for epoch, rate in enumerate([0.1, 0.1, 0.01, 0.001]):
        total = 0.0
        for images, targets in batches[epoch]:
            loss = distillation_loss(targets, theirs.train()(images), 2.0)
            slopes = torch.autograd.grad(loss, list(theirs.parameters()))
            total += loss.item() / 2
            with torch.no_grad():
                for v, p, slope in zip(velocity, theirs.parameters(), slopes, strict=True):
                    v.mul_(0.9).add_(slope + 5e-4 * p)
                    p -= rate * v
        assert losses[epoch] == pytest.approx(total, rel=1e-4)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_the_loss_of_a_student_falls() -> None:
    ensemble, student = Ensemble([network(0)]), network(1)
    images = torch.randn(32, 1, 8, 8)
    targets = soft_targets(ensemble(images), 1.0)
    how = Distillation(epochs=15, temperature=1.0, lr=0.1)
    losses = train(how, student, (shuffled_batches(images, targets, 8, (0, epoch)) for epoch in range(15)))
    assert losses[-1] < losses[0] / 2


def test_a_student_reaches_its_teachers_on_real_images_without_labels() -> None:
    images, _ = shapes(192, seed=9)
    ensemble, student = Ensemble(members()), untrained(7)
    how, targets = Distillation(epochs=16, temperature=4.0, lr=0.2), soft_targets(ensemble(images), 4.0)
    before = accuracy(student, *shapes(200, seed=11))
    train(how, student, (shuffled_batches(images, targets, 32, (0, epoch)) for epoch in range(16)))
    assert accuracy(ensemble, *shapes(200, seed=11)) > 0.95
    assert accuracy(student, *shapes(200, seed=11)) > 0.9 > 0.5 > before


def test_a_pass_takes_every_image_once_and_skips_a_batch_of_one_image() -> None:
    images, targets = torch.arange(9.0).view(9, 1), torch.arange(9.0).view(9, 1) * 2
    found = list(shuffled_batches(images, targets, 3, (0, 0)))
    assert sorted(torch.cat([x for x, _ in found]).flatten().tolist()) == list(range(9))
    assert all(torch.equal(2 * x, y) for x, y in found)
    assert [len(x) for x, _ in shuffled_batches(images, targets, 4, (0, 0))] == [4, 4]
    assert not torch.equal(found[0][0], next(shuffled_batches(images, targets, 3, (0, 1)))[0])


def test_dropout_stays_off_in_the_noise_adapted_copy() -> None:
    noisy = noise_adapted(Ensemble([nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(4, 2))]))
    images = torch.randn(3, 1, 2, 2)
    assert torch.equal(noisy(images), noisy(images))


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"temperature": 0.0}, {"lr": -1.0}])
def test_invalid_settings_are_errors(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="epochs must be at least 1, temperature and lr positive"):
        Distillation(**wrong)  # type: ignore[arg-type]
