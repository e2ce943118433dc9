from __future__ import annotations

import pytest
import torch

from fedgen.auditing.diversity import mean_pair_similarity, near_duplicates_and_blanks, pair_similarities


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 64, 64), (1, 16, 16, 16)])
def test_equal_images_have_similarity_1_and_noise_has_not(shape: tuple[int, ...]) -> None:
    one = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    labels = torch.tensor([0, 0, 1, 1])
    assert mean_pair_similarity(one.expand(4, *shape), labels) == pytest.approx(1.0, abs=1e-4)
    noise = torch.rand(4, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = mean_pair_similarity(noise, labels)
    assert found is not None
    assert found < 0.3


def test_only_images_of_one_class_are_compared() -> None:
    first, second = torch.rand(2, 1, 1, 16, 16)
    images = torch.stack([first, second] * 4).view(8, 1, 16, 16)
    assert mean_pair_similarity(images, torch.arange(8) % 2) == pytest.approx(1.0, abs=1e-4)
    assert mean_pair_similarity(images[:2], torch.tensor([0, 1])) is None


def noise(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 40, 30), (1, 20, 20, 20)])
def test_near_duplicates_and_blank_images_are_counted(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(20, *shape)
    assert near_duplicates_and_blanks(images) == {"near_duplicates": 0, "blank": 0}
    images[1] = images[0] + 1e-3 * noise(1, *shape, seed=1)[0]
    images[2] = -1
    assert near_duplicates_and_blanks(images) == {"near_duplicates": 2 / 20, "blank": 1 / 20}
    monkeypatch.setattr("fedgen.auditing.diversity.VOXELS", 45)  # two images at a time
    assert near_duplicates_and_blanks(images) == {"near_duplicates": 2 / 20, "blank": 1 / 20}
    assert near_duplicates_and_blanks(torch.full((4, *shape), 0.3)) == {"near_duplicates": 1, "blank": 1}
    assert near_duplicates_and_blanks(images[:1]) == {"near_duplicates": 0, "blank": 0}


def test_images_after_mode_collapse_are_more_similar_than_real_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    real, labels = noise(40, 1, 16, 16), torch.arange(40) % 2
    fallen = noise(1, 1, 16, 16, seed=1) + 0.05 * noise(40, 1, 16, 16, seed=2)
    found = pair_similarities(fallen, labels, real, labels)
    assert found["ms_ssim"] > 0.9
    assert found["real_ms_ssim"] < 0.3
    assert pair_similarities(fallen[:19], labels[:19], real, labels) == {}
    monkeypatch.setattr("fedgen.auditing.diversity.VOXELS", 3 * 256)  # three pairs at a time
    assert pair_similarities(fallen, labels, real, labels) == pytest.approx(found, rel=1e-5)
