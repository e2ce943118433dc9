from __future__ import annotations

from typing import Any

import pytest
import torch

from fedgen.diffusion.sampler import noise_of
from fedgen.oneshot.ensemble import Ensemble, TeacherSplit, teacher_logits
from fedgen.oneshot.inversion import Inversion
from fedgen.oneshot.teacher_data import InversionData, SetData, TeacherData
from tests.fedgen.oneshot.test_inversion import network


def inversion_data() -> InversionData:
    one, other = Ensemble([network(0)]), Ensemble([network(1)])
    splits, labels = (TeacherSplit(one, other), TeacherSplit(other, None)), torch.tensor([0, 1, 2, 0])
    everyone = Ensemble([network(0), network(1)])
    return InversionData(everyone, splits, network(2), Inversion(steps=2), 20.0, (1, 8, 8), labels, classes=3, seed=3)


def set_data() -> SetData:
    random = torch.Generator().manual_seed(0)
    images = torch.randn(6, 1, 8, 8, generator=random)
    return SetData(images, torch.randn(6, 3, generator=random).softmax(1), batch_size=2, seed=3)


@pytest.mark.parametrize("make", [inversion_data, set_data])
def test_batches_are_a_function_of_the_epoch(make: Any) -> None:
    """So training can resume at any epoch."""
    data: TeacherData = make()
    in_turn = [list(data.batches(epoch)) for epoch in range(3)]
    for ours, theirs in zip(make().batches(2), in_turn[2], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(in_turn[1][0][0], in_turn[2][0][0])


def test_splits_take_turns_and_the_held_out_classifier_is_measured() -> None:
    data = inversion_data()
    for epoch in range(3):
        *_, (last, _) = data.batches(epoch)
        noise = noise_of(3, range(4 * epoch, 4 * epoch + 4), (1, 8, 8))
        *_, made = Inversion(steps=2).trajectory(data.splits[epoch % 2].inverted, noise, data.labels, (3, epoch))
        torch.testing.assert_close(last, made)
        found = data.accuracy(epoch, last)
        assert found.images.tolist() == ([2, 1, 1] if epoch != 1 else [0, 0, 0])
        if epoch != 1:
            right = network(1).eval()(last).argmax(1) == data.labels
            assert float(found.correct.sum()) == float(right.sum())
    assert set_data().accuracy(0, last).images.tolist() == [0, 0, 0]


def test_logits_are_in_the_order_of_the_images_for_any_teachers() -> None:
    teachers = {"a": Ensemble([network(0)]), None: Ensemble([network(0), network(1)])}
    images, sites = torch.randn(5, 1, 8, 8), [None, "a", None, "a", "a"]
    found = teacher_logits(teachers, sites, images.half(), batch_size=2)
    for image, site, logits in zip(images.half().float(), sites, found, strict=True):
        torch.testing.assert_close(logits, teachers[site](image[None])[0])
