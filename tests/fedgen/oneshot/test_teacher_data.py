from __future__ import annotations

from typing import Any

import pytest
import torch

from fedgen.diffusion.sampler import noise_of
from fedgen.oneshot.ensemble import Ensemble, Panel, answers
from fedgen.oneshot.inversion import Inversion
from fedgen.oneshot.teacher_data import Course, Passes, Walks
from tests.fedgen.oneshot.test_inversion import network


def walks() -> Walks:
    one, other = Ensemble([network(0)]), Ensemble([network(1)])
    panels, labels = (Panel(one, other), Panel(other, None)), torch.tensor([0, 1, 2, 0])
    everyone = Ensemble([network(0), network(1)])
    return Walks(everyone, panels, network(2), Inversion(steps=2), 20.0, (1, 8, 8), labels, classes=3, seed=3)


def passes() -> Passes:
    random = torch.Generator().manual_seed(0)
    images = torch.randn(6, 1, 8, 8, generator=random)
    return Passes(images, torch.randn(6, 3, generator=random).softmax(1), batch_size=2, seed=3)


@pytest.mark.parametrize("make", [walks, passes])
def test_lessons_are_a_function_of_the_epoch(make: Any) -> None:
    """So a course can be gone on with from any epoch."""
    course: Course = make()
    in_turn = [list(course.lessons(epoch)) for epoch in range(3)]
    for ours, theirs in zip(make().lessons(2), in_turn[2], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(in_turn[1][0][0], in_turn[2][0][0])


def test_panels_take_turns_and_whoever_made_no_image_judges() -> None:
    course = walks()
    for epoch in range(3):
        *_, (last, _) = course.lessons(epoch)
        noise = noise_of(3, range(4 * epoch, 4 * epoch + 4), (1, 8, 8))
        *_, made = Inversion(steps=2).walk(course.panels[epoch % 2].makers, noise, course.labels, (3, epoch))
        torch.testing.assert_close(last, made)
        found = course.recognition(epoch, last)
        assert found.images.tolist() == ([2, 1, 1] if epoch != 1 else [0, 0, 0])
        if epoch != 1:
            right = network(1).eval()(last).argmax(1) == course.labels
            assert float(found.recognised.sum()) == float(right.sum())
    assert passes().recognition(0, last).images.tolist() == [0, 0, 0]


def test_answers_are_in_the_order_of_the_images_whoever_gives_them() -> None:
    teachers = {"a": Ensemble([network(0)]), None: Ensemble([network(0), network(1)])}
    images, sites = torch.randn(5, 1, 8, 8), [None, "a", None, "a", "a"]
    found = answers(teachers, sites, images.half(), batch_size=2)
    for image, site, said in zip(images.half().float(), sites, found, strict=True):
        torch.testing.assert_close(said, teachers[site](image[None])[0])
