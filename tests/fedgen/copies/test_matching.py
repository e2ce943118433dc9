from __future__ import annotations

import pytest
import torch

from fedgen.copies import matching
from fedgen.copies.matching import equalised, mirrorings, nearest, reduced, working


def test_ranks_do_not_depend_on_how_many_images_are_ranked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(5, 2, 6, 7).mul(8).round()
    whole = equalised(images)
    monkeypatch.setattr(matching, "_RANKED", 2)
    assert torch.equal(equalised(images), whole)


def test_ranks_are_the_same_in_every_window() -> None:
    images = torch.rand(3, 2, 12, 10)
    assert torch.equal(equalised(images), equalised(images**2))
    coarse = (8 * images).round()  # with many equal ones
    flat = coarse.flatten(2)
    places = ((flat[..., None] > flat[..., None, :]).sum(-1) + (flat[..., None] >= flat[..., None, :]).sum(-1)).float()
    assert torch.allclose(equalised(coarse), (places / 120 - 1).view(coarse.shape))
    assert torch.allclose(equalised(images), -equalised(-images), atol=1e-6)
    assert equalised(torch.zeros(1, 1, 4, 4)).abs().max() == 0


def test_an_image_is_reduced_and_never_magnified() -> None:
    assert reduced(torch.rand(2, 1, 48, 20), 32).shape == (2, 1, 32, 20)
    assert working(torch.rand(2, 1, 24, 32, 32)).shape == (2, 1, 16, 16, 16)
    assert len(mirrorings(3)) == 8


def test_the_nearest_are_of_different_patients_first() -> None:
    likeness, patients = torch.rand(5, 60, generator=torch.Generator().manual_seed(0)), torch.arange(60) // 3
    at, first = nearest(likeness, patients)
    for row, places in zip(likeness, at, strict=True):
        best = {p: float(row[patients == p].max()) for p in range(20)}
        assert patients[places[:first]].tolist() == sorted(best, key=lambda p: -best[p])[:first]
        assert row[places[:first]].tolist() == [best[int(p)] for p in patients[places[:first]]]
        assert places[first:].tolist() == row.topk(8).indices.tolist()
