from __future__ import annotations

import pytest
import torch

from fedgen.copies import matching
from fedgen.copies.matching import at_search_size, candidates, downsampled, equalised, mirror_axes


def test_ranks_do_not_depend_on_the_number_of_images_ranked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(5, 2, 6, 7).mul(8).round()
    whole = equalised(images)
    monkeypatch.setattr(matching, "_RANKED_AT_ONCE", 2)
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


def test_an_image_is_downsampled_and_never_upsampled() -> None:
    assert downsampled(torch.rand(2, 1, 48, 20), 32).shape == (2, 1, 32, 20)
    assert at_search_size(torch.rand(2, 1, 24, 32, 32)).shape == (2, 1, 16, 16, 16)
    assert len(mirror_axes(3)) == 8


def test_candidates_are_of_different_patients_first() -> None:
    similarity, patients = torch.rand(5, 60, generator=torch.Generator().manual_seed(0)), torch.arange(60) // 3
    at, per_patient = candidates(similarity, patients)
    for row, places in zip(similarity, at, strict=True):
        best = {p: float(row[patients == p].max()) for p in range(20)}
        assert patients[places[:per_patient]].tolist() == sorted(best, key=lambda p: -best[p])[:per_patient]
        assert row[places[:per_patient]].tolist() == [best[int(p)] for p in patients[places[:per_patient]]]
        assert places[per_patient:].tolist() == row.topk(8).indices.tolist()
