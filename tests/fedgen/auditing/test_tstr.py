from __future__ import annotations

import pytest
import torch

from fedgen.auditing.tstr import MAX_PER_CLASS, MIN_PER_CLASS, REPEATS, tstr


def clouds(count: int, apart: float, seed: int, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` features of 8 numbers per class, around points whose distance grows with `apart`."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(count)
    return apart * torch.eye(8)[labels] + torch.randn(len(labels), 8, generator=random), labels


def test_images_of_the_same_distribution_train_as_well_as_real_ones() -> None:
    found = tstr(*clouds(60, 3, 0), *clouds(60, 3, 1), *clouds(60, 3, 2))
    assert found["tstr"] == pytest.approx(found["trtr"], abs=0.03)
    assert found["trtr"] > 0.9
    assert (found["tstr_classes"], found["tstr_images"]) == (3, 180)


def test_wrong_labels_give_less_than_guessing() -> None:
    features, labels = clouds(60, 3, 0)
    assert tstr(features, (labels + 1) % 3, *clouds(60, 3, 1), *clouds(60, 3, 2))["tstr"] < 0.1


def test_images_independent_of_their_classes_give_guessing() -> None:
    found = tstr(*clouds(100, 0, 0), *clouds(60, 3, 1), *clouds(60, 3, 2))
    assert found["tstr"] == pytest.approx(1 / 3, abs=0.2)
    assert found["trtr"] > 0.9


def test_the_result_depends_neither_on_units_nor_on_order() -> None:
    synthetic, real, held_out = clouds(40, 1, 0), clouds(40, 1, 1), clouds(40, 1, 2)
    found = tstr(*synthetic, *real, *held_out)
    scaled = [(features * 7 + 5, labels) for features, labels in (synthetic, real, held_out)]
    assert tstr(*[t for pair in scaled for t in pair]) == pytest.approx(found)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(1))
    assert tstr(*synthetic, *real, held_out[0][order], held_out[1][order]) == pytest.approx(found)


def test_both_train_on_equally_many_images_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedgen.auditing import tstr as module

    seen, accuracy = [], module._accuracy
    monkeypatch.setattr(
        module, "_accuracy", lambda f, y, *held_out: seen.append(y.bincount().tolist()) or accuracy(f, y, *held_out)
    )
    (few, few_labels), (many, labels) = clouds(10, 2, 0), clouds(200, 2, 1)
    keep = torch.cat([torch.arange(200), torch.arange(200, 203), torch.arange(400, 600)])  # 3 real images of class 1
    found = tstr(few, few_labels, many[keep], labels[keep], *clouds(20, 2, 2))
    assert seen == [[10, 0, 10]] * (2 * REPEATS)
    assert (found["tstr_classes"], found["tstr_images"]) == (2, 40)
    seen.clear()
    tstr(*clouds(MAX_PER_CLASS + 50, 2, 0), *clouds(MAX_PER_CLASS + 20, 2, 1), *clouds(20, 2, 2))
    assert seen == [[MAX_PER_CLASS] * 3] * (2 * REPEATS)


@pytest.mark.parametrize("side", [0, 1, 2])
def test_classes_of_few_images_are_left_out_and_one_class_gives_no_figure(side: int) -> None:
    parts = [clouds(30, 2, seed, classes=2) for seed in range(3)]
    features, labels = parts[side]
    keep = torch.cat([torch.arange(30), torch.arange(30, 30 + MIN_PER_CLASS - 1)])
    parts[side] = features[keep], labels[keep]
    assert tstr(*[t for pair in parts for t in pair]) == {}


def test_images_without_a_class_do_not_count() -> None:
    parts = [clouds(30, 2, seed) for seed in range(3)]
    with_more = [(torch.cat([f, torch.full((9, 8), 50.0)]), torch.cat([y, torch.full((9,), -1)])) for f, y in parts]
    found = tstr(*[t for pair in with_more for t in pair])
    assert found["tstr_images"] == 90
    assert found["tstr"] > 0.5
    assert tstr(*[t for f, y in parts for t in (f, torch.full_like(y, -1))]) == {}


def test_a_constant_feature_does_no_harm() -> None:
    parts = [(torch.cat([f, torch.ones(len(f), 1)], 1), y) for f, y in (clouds(30, 3, seed) for seed in range(3))]
    assert tstr(*[t for pair in parts for t in pair])["tstr"] > 0.8
