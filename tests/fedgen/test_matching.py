from __future__ import annotations

import pytest
import torch

from fedcore.data.phantom import Phantoms
from fedgen.matching import WHOLE, Noisy, Posed, Search, equalised, mirrorings, nearest, noise, reduced, working


def test_ranks_are_the_same_in_every_window() -> None:
    images = torch.rand(3, 2, 12, 10)
    assert torch.equal(equalised(images), equalised(images**2))
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


@pytest.mark.parametrize("variance", [0.04, 0.25])
def test_noise_is_measured(variance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.linspace(-1, 1, 64)[:, None] * torch.linspace(0, 1, 64)
    noisy = smooth + variance**0.5 * torch.randn(40, 1, 64, 64, generator=generator)
    assert float(noise(noisy).mean()) == pytest.approx(variance, rel=0.03)
    assert float(noise(smooth[None, None])) == pytest.approx(0, abs=1e-9)
    assert float(noise(torch.randn(8, 1, 16, 16, 16, generator=generator)).mean()) == pytest.approx(1, rel=0.05)


def test_the_same_image_is_wholly_similar_in_any_pose_and_under_noise_too() -> None:
    images = next(iter(Phantoms(1, 120, test_fraction=0.0).cohort(32).sites.values())).batch(range(120))
    patients = torch.arange(120) // 2
    posed, noisy = Posed.of(images, patients, WHOLE[2]), Noisy.of(images, patients)
    turned = torch.cat([images[:8], images[:8].transpose(-1, -2).flip(-1).flip(-2).transpose(-1, -2), -images[:8]])
    found = posed(turned)
    best = found.similarity.max(1)
    assert found.at.gather(1, best.indices[:, None])[:, 0].tolist() == [*range(8)] * 3
    assert best.values.min() > 0.999
    blurred = (images[:8] + 0.5 * torch.randn(images[:8].shape, generator=torch.Generator().manual_seed(2))).clamp(
        -1, 1
    )
    seen = noisy(blurred)
    assert seen.similarity.max() <= 1
    assert seen.similarity.max(1).values.min() > 0.9
    assert seen.at[:, 0].tolist() == [*range(8)]


def test_a_search_tries_every_shift_zoom_and_turn() -> None:
    assert len(Search().start(2)) == 1
    assert len(WHOLE[2].start(2)) == 25 * 5
    assert len(WHOLE[3].start(3)) == 27 * 3
    assert len(WHOLE[2].start(2).unique(dim=0)) == 25 * 5
