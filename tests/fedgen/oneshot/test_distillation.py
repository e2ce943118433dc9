from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import pytest
import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax, softmax

from fedgen.oneshot.distillation import Distillation, Lesson, along, distance, noise_adapted, shuffled, softened
from fedgen.oneshot.ensemble import Ensemble
from tests.fedgen.members import accuracy, members, shapes, untrained
from tests.fedgen.oneshot.test_inversion import network

T = 20.0


def taught(how: Distillation, student: nn.Module, courses: Iterable[Iterable[Lesson]]) -> list[float]:
    """The losses of all epochs."""
    optimizer = how.optimizer(student)
    return [how.teach(student, optimizer, lessons, epoch) for epoch, lessons in enumerate(courses)]


def test_the_distance_of_a_hand_sized_case() -> None:
    soft, logits = torch.tensor([[0.75, 0.25]]), torch.tensor([[0.0, 0.0]])
    golden = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert float(distance(soft, logits, 2.0)) == pytest.approx(golden)
    said = torch.randn(3, 4)
    assert float(distance(softened(said, T), said, T)) == pytest.approx(0, abs=1e-4)
    torch.testing.assert_close(softened(said, T), softened(said + 5, T))


def test_the_noise_adapted_answer_as_the_papers_code_does() -> None:
    """A copy in training mode that passes all images backwards, then answers each of them forwards."""
    ensemble = Ensemble([network(0), network(1)])
    walk = [torch.randn(4, 1, 8, 8) for _ in range(3)]
    theirs = copy.deepcopy(ensemble).train()
    for images in reversed(walk):
        theirs(images)
    ours = noise_adapted(ensemble)
    for images in walk:
        torch.testing.assert_close(ours(images), theirs(images))
        assert not torch.allclose(ours(images), ensemble(images))


def test_lessons_have_the_gradient_of_the_papers_two_losses() -> None:
    ensemble, student = Ensemble([network(0), network(1)]), network(2)
    walk = [torch.randn(4, 1, 8, 8) for _ in range(4)]
    noisy = noise_adapted(ensemble)
    for at, (images, soft) in enumerate(along(walk, len(walk), ensemble, T)):
        alpha, answer = at / 4, student.eval()(images)
        real, noise = (
            kl_div(log_softmax(answer / T, 1), softmax(teacher(images) / T, 1), reduction="batchmean") * T * T
            for teacher in (ensemble, noisy)
        )
        theirs = torch.autograd.grad(alpha * real + (1 - alpha) * noise, answer)[0]
        answer = student(images)
        ours = torch.autograd.grad(distance(soft, answer, T), answer)[0]
        torch.testing.assert_close(ours, theirs)


def test_teaching_as_loops_with_the_rates_of_the_code() -> None:
    how = Distillation(epochs=4, temperature=2.0, lr=0.1)
    lessons = [[(torch.randn(4, 1, 8, 8), softmax(torch.randn(4, 3), 1)) for _ in range(2)] for _ in range(4)]
    ours, theirs = network(0), network(0)
    losses = taught(how, ours, lessons)
    velocity = [torch.zeros_like(p) for p in theirs.parameters()]
    for epoch, rate in enumerate([0.1, 0.1, 0.01, 0.001]):
        total = 0.0
        for images, soft in lessons[epoch]:
            loss = distance(soft, theirs.train()(images), 2.0)
            slopes = torch.autograd.grad(loss, list(theirs.parameters()))
            total += loss.item() / 2
            with torch.no_grad():
                for v, p, slope in zip(velocity, theirs.parameters(), slopes, strict=True):
                    v.mul_(0.9).add_(slope + 5e-4 * p)
                    p -= rate * v
        assert losses[epoch] == pytest.approx(total, rel=1e-4)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_a_student_comes_nearer_to_its_teacher() -> None:
    ensemble, student = Ensemble([network(0)]), network(1)
    images = torch.randn(32, 1, 8, 8)
    soft = softened(ensemble(images), 1.0)
    how = Distillation(epochs=15, temperature=1.0, lr=0.1)
    losses = taught(how, student, (shuffled(images, soft, 8, (0, epoch)) for epoch in range(15)))
    assert losses[-1] < losses[0] / 2


def test_a_student_of_real_images_without_labels_comes_to_what_its_teachers_know() -> None:
    images, _ = shapes(192, seed=9)
    ensemble, student = Ensemble(members()), untrained(7)
    how, soft = Distillation(epochs=16, temperature=4.0, lr=0.2), softened(ensemble(images), 4.0)
    before = accuracy(student, *shapes(200, seed=11))
    taught(how, student, (shuffled(images, soft, 32, (0, epoch)) for epoch in range(16)))
    assert accuracy(ensemble, *shapes(200, seed=11)) > 0.95
    assert accuracy(student, *shapes(200, seed=11)) > 0.9 > 0.5 > before


def test_a_pass_takes_every_image_once_and_leaves_no_lonely_batch() -> None:
    images, soft = torch.arange(9.0).view(9, 1), torch.arange(9.0).view(9, 1) * 2
    found = list(shuffled(images, soft, 3, (0, 0)))
    assert sorted(torch.cat([x for x, _ in found]).flatten().tolist()) == list(range(9))
    assert all(torch.equal(2 * x, y) for x, y in found)
    assert [len(x) for x, _ in shuffled(images, soft, 4, (0, 0))] == [4, 4]
    assert not torch.equal(found[0][0], next(shuffled(images, soft, 3, (0, 1)))[0])


def test_dropout_stays_off_in_the_noise_adapted_copy() -> None:
    noisy = noise_adapted(Ensemble([nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(4, 2))]))
    images = torch.randn(3, 1, 2, 2)
    assert torch.equal(noisy(images), noisy(images))


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"temperature": 0.0}, {"lr": -1.0}])
def test_settings_that_are_wrong_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="epochs must be at least 1, temperature and lr positive"):
        Distillation(**wrong)  # type: ignore[arg-type]
