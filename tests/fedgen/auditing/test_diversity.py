from __future__ import annotations

import pytest
import torch

from fedgen.auditing.diversity import emptiness, likeness, likenesses


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 64, 64), (1, 16, 16, 16)])
def test_equal_images_are_wholly_alike_and_noise_is_not(shape: tuple[int, ...]) -> None:
    one = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    labels = torch.tensor([0, 0, 1, 1])
    assert likeness(one.expand(4, *shape), labels) == pytest.approx(1.0, abs=1e-4)
    noise = torch.rand(4, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = likeness(noise, labels)
    assert found is not None
    assert found < 0.3


def test_only_images_of_one_class_are_compared() -> None:
    first, second = torch.rand(2, 1, 1, 16, 16)
    images = torch.stack([first, second] * 4).view(8, 1, 16, 16)
    assert likeness(images, torch.arange(8) % 2) == pytest.approx(1.0, abs=1e-4)
    assert likeness(images[:2], torch.tensor([0, 1])) is None


def noise(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 40, 30), (1, 20, 20, 20)])
def test_images_that_are_there_twice_and_empty_ones_are_counted(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = noise(20, *shape)
    assert emptiness(images) == {"repeated": 0, "constant": 0}
    images[1] = images[0] + 1e-3 * noise(1, *shape, seed=1)[0]
    images[2] = -1
    assert emptiness(images) == {"repeated": 2 / 20, "constant": 1 / 20}
    monkeypatch.setattr("fedgen.auditing.diversity.VOXELS", 45)  # two images at a time
    assert emptiness(images) == {"repeated": 2 / 20, "constant": 1 / 20}
    assert emptiness(torch.full((4, *shape), 0.3)) == {"repeated": 1, "constant": 1}
    assert emptiness(images[:1]) == {"repeated": 0, "constant": 0}


def test_a_generator_that_collapsed_differs_less_than_real_images(monkeypatch: pytest.MonkeyPatch) -> None:
    real, labels = noise(40, 1, 16, 16), torch.arange(40) % 2
    fallen = noise(1, 1, 16, 16, seed=1) + 0.05 * noise(40, 1, 16, 16, seed=2)
    found = likenesses(fallen, labels, real, labels)
    assert found["likeness"] > 0.9
    assert found["real_likeness"] < 0.3
    assert likenesses(fallen[:19], labels[:19], real, labels) == {}
    monkeypatch.setattr("fedgen.auditing.diversity.VOXELS", 3 * 256)  # three pairs at a time
    assert likenesses(fallen, labels, real, labels) == pytest.approx(found, rel=1e-5)
