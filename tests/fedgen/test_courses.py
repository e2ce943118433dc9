from __future__ import annotations

from typing import Any

import pytest
import torch

from fedgen.courses import Course, Passes, Walks
from fedgen.ensemble import Ensemble, answers
from fedgen.inversion import Inversion
from tests.fedgen.test_inversion import network


def walks() -> Walks:
    ensemble, moved = Ensemble([network(0), network(1)]), Inversion(steps=2)
    return Walks(ensemble, network(2), moved, 20.0, (1, 8, 8), torch.tensor([0, 1, 2, 0]), seed=3)


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


def test_teachers_say_what_they_recognise_of_images_they_made_alone() -> None:
    course = walks()
    *_, (last, _) = course.lessons(0)
    found = course.recognition(last)
    assert found.images.tolist() == [2, 1, 1]
    assert float(found.recognised.sum()) == sum((course.ensemble(last).argmax(1) == course.labels).tolist())
    assert passes().recognition(last).images.tolist() == [0, 0, 0]


def test_answers_are_in_the_order_of_the_images_whoever_gives_them() -> None:
    teachers = {"a": Ensemble([network(0)]), None: Ensemble([network(0), network(1)])}
    images, sites = torch.randn(5, 1, 8, 8), [None, "a", None, "a", "a"]
    found = answers(teachers, sites, images.half(), batch_size=2)
    for image, site, said in zip(images.half().float(), sites, found, strict=True):
        torch.testing.assert_close(said, teachers[site](image[None])[0])
