from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from fedgen.gan.diffaugment import Augmentation, DiffAugment

SPACES = [(8, 11), (6, 7, 8)]


def images(space: tuple[int, ...], count: int = 5) -> Tensor:
    return torch.rand(count, 2, *space, generator=torch.Generator().manual_seed(1)) * 2 - 1


def augmentation(space: tuple[int, ...], count: int = 5, **changed: Tensor) -> Augmentation:
    """An augmentation that changes nothing but what is given."""
    whole = torch.zeros(count, len(space), dtype=torch.int64)
    sides = tuple((side + 1) // 2 for side in space) if "cutout_start" in changed else (0,) * len(space)
    parts = {
        "brightness": torch.zeros(count),
        "contrast": torch.ones(count),
        "shift": whole,
        "cutout_start": whole,
        **changed,
    }
    return Augmentation(cutout_size=sides, **parts)


@pytest.mark.parametrize("space", SPACES)
def test_at_strength_zero_nothing_changes(space: tuple[int, ...]) -> None:
    x = images(space)
    assert torch.equal(DiffAugment(0.0, 0.0, 0.0, 0.0).sample(x)(x), x)


@pytest.mark.parametrize("space", SPACES)
def test_an_augmentation_is_the_same_at_each_call(space: tuple[int, ...]) -> None:
    real = images(space)
    augment = DiffAugment().sample(real)
    changed = augment(real)
    assert torch.equal(augment(real.clone()), changed)
    assert not torch.allclose(DiffAugment().sample(real)(real), changed)
    # Without contrast, which depends on an image's own mean, a constant difference of two batches stays.
    flat = DiffAugment(contrast=0.0).sample(real)
    perturbed = flat(real + 0.25) - flat(real)
    assert torch.allclose(perturbed[perturbed != 0], torch.tensor(0.25), atol=1e-5)


@pytest.mark.parametrize("space", SPACES)
def test_an_image_is_augmented_independently_of_its_batch(space: tuple[int, ...]) -> None:
    x = images(space)
    augment = DiffAugment().sample(x)
    other = x.clone()
    other[1:] = 0.0
    assert torch.equal(augment(other)[0], augment(x)[0])


@pytest.mark.parametrize("space", SPACES)
def test_shifts_are_the_papers_as_loops(space: tuple[int, ...]) -> None:
    x, dims = images(space), len(space)
    shift = torch.randint(-3, 4, (len(x), dims))
    expected = torch.zeros_like(x)
    for i, at in itertools.product(range(len(x)), itertools.product(*map(range, space))):
        source = tuple(int(a - s) for a, s in zip(at, shift[i], strict=True))
        if all(0 <= s < side for s, side in zip(source, space, strict=True)):
            expected[(i, slice(None), *at)] = x[(i, slice(None), *source)]
    assert torch.equal(augmentation(space, shift=shift)(x), expected)


@pytest.mark.parametrize("space", SPACES)
def test_cutouts_are_the_papers_as_loops(space: tuple[int, ...]) -> None:
    x, dims = images(space), len(space)
    augment = augmentation(space, cutout_start=torch.randint(-4, 7, (len(x), dims)))
    expected = x.clone()
    for i, at in itertools.product(range(len(x)), itertools.product(*map(range, space))):
        if all(
            int(h) <= a < int(h) + side
            for a, h, side in zip(at, augment.cutout_start[i], augment.cutout_size, strict=True)
        ):
            expected[(i, slice(None), *at)] = 0.0
    assert torch.equal(augment(x), expected)


def test_brightness_and_contrast_equal_the_hand_computed_ones() -> None:
    """0.1 brighter; then twice the distance from the mean 0.6: 0.1 to -0.4, 1.1 to 1.6."""
    x = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    augment = augmentation((1, 2), 1, brightness=torch.tensor([0.1]), contrast=torch.tensor([2.0]))
    assert torch.allclose(augment(x).flatten(), torch.tensor([-0.4, 1.6]))


def test_samples_fill_the_papers_intervals() -> None:
    augment = DiffAugment().sample(torch.zeros(4000, 1, 16, 32))
    for values, low, high in ((augment.brightness, -0.5, 0.5), (augment.contrast, 0.5, 1.5)):
        assert float(values.min()) == pytest.approx(low, abs=0.01)
        assert float(values.max()) == pytest.approx(high, abs=0.01)
    assert augment.cutout_size == (8, 16)
    for axis, side in enumerate((16, 32)):
        assert sorted(set(augment.shift[:, axis].tolist())) == list(range(-side // 8, side // 8 + 1))
        assert sorted(set(augment.cutout_start[:, axis].tolist())) == list(range(-side // 4, 3 * side // 4 + 1))


@pytest.mark.parametrize("space", SPACES)
def test_augmentations_are_differentiable(space: tuple[int, ...]) -> None:
    """In float64, against finite differences."""
    x = images(space, 2).double()[..., :4, :3].contiguous().requires_grad_()
    augment = DiffAugment(cutout=0.3).sample(x)
    assert torch.autograd.gradcheck(augment, (x,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"brightness": -1.0}, "brightness must be 0 or more"),
        ({"contrast": 2.5}, r"contrast lie in \[0, 2\], got 1.0 and 2.5"),
        ({"translation": 1.0}, r"must lie in \[0, 1\), got 1.0"),
        ({"cutout": -0.1}, r"must lie in \[0, 1\), got 0.125 and -0.1"),
    ],
)
def test_invalid_strengths_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffAugment(**settings)
