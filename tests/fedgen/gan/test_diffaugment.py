from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from fedgen.gan.diffaugment import DiffAugment, Look

SPACES = [(8, 11), (6, 7, 8)]


def images(space: tuple[int, ...], count: int = 5) -> Tensor:
    return torch.rand(count, 2, *space, generator=torch.Generator().manual_seed(1)) * 2 - 1


def still(space: tuple[int, ...], count: int = 5, **changed: Tensor) -> Look:
    """A look that changes nothing but what is named."""
    whole = torch.zeros(count, len(space), dtype=torch.int64)
    sides = tuple((side + 1) // 2 for side in space) if "hole" in changed else (0,) * len(space)
    parts = {"brightness": torch.zeros(count), "contrast": torch.ones(count), "shift": whole, "hole": whole, **changed}
    return Look(sides=sides, **parts)


@pytest.mark.parametrize("space", SPACES)
def test_at_strength_zero_nothing_changes(space: tuple[int, ...]) -> None:
    x = images(space)
    assert torch.equal(DiffAugment(0.0, 0.0, 0.0, 0.0).draw(x)(x), x)


@pytest.mark.parametrize("space", SPACES)
def test_a_look_is_one_for_all_that_are_shown_by_it(space: tuple[int, ...]) -> None:
    real = images(space)
    look = DiffAugment().draw(real)
    changed = look(real)
    assert torch.equal(look(real.clone()), changed)
    assert not torch.allclose(DiffAugment().draw(real)(real), changed)
    # All but the contrast, which turns about an image's own mean, is seen in the difference of two batches.
    flat = DiffAugment(contrast=0.0).draw(real)
    moved = flat(real + 0.25) - flat(real)
    assert torch.allclose(moved[moved != 0], torch.tensor(0.25), atol=1e-5)


@pytest.mark.parametrize("space", SPACES)
def test_an_image_is_changed_whatever_is_beside_it(space: tuple[int, ...]) -> None:
    x = images(space)
    look = DiffAugment().draw(x)
    other = x.clone()
    other[1:] = 0.0
    assert torch.equal(look(other)[0], look(x)[0])


@pytest.mark.parametrize("space", SPACES)
def test_shifts_are_the_papers_as_loops(space: tuple[int, ...]) -> None:
    x, dims = images(space), len(space)
    shift = torch.randint(-3, 4, (len(x), dims))
    expected = torch.zeros_like(x)
    for i, at in itertools.product(range(len(x)), itertools.product(*map(range, space))):
        source = tuple(int(a - s) for a, s in zip(at, shift[i], strict=True))
        if all(0 <= s < side for s, side in zip(source, space, strict=True)):
            expected[(i, slice(None), *at)] = x[(i, slice(None), *source)]
    assert torch.equal(still(space, shift=shift)(x), expected)


@pytest.mark.parametrize("space", SPACES)
def test_holes_are_the_papers_as_loops(space: tuple[int, ...]) -> None:
    x, dims = images(space), len(space)
    look = still(space, hole=torch.randint(-4, 7, (len(x), dims)))
    expected = x.clone()
    for i, at in itertools.product(range(len(x)), itertools.product(*map(range, space))):
        if all(int(h) <= a < int(h) + side for a, h, side in zip(at, look.hole[i], look.sides, strict=True)):
            expected[(i, slice(None), *at)] = 0.0
    assert torch.equal(look(x), expected)


def test_light_by_hand() -> None:
    """Brighter by 0.1; then twice as far from the mean 0.6: 0.1 to -0.4, 1.1 to 1.6."""
    x = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    look = still((1, 2), 1, brightness=torch.tensor([0.1]), contrast=torch.tensor([2.0]))
    assert torch.allclose(look(x).flatten(), torch.tensor([-0.4, 1.6]))


def test_draws_fill_the_papers_intervals() -> None:
    look = DiffAugment().draw(torch.zeros(4000, 1, 16, 32))
    for values, low, high in ((look.brightness, -0.5, 0.5), (look.contrast, 0.5, 1.5)):
        assert float(values.min()) == pytest.approx(low, abs=0.01)
        assert float(values.max()) == pytest.approx(high, abs=0.01)
    assert look.sides == (8, 16)
    for axis, side in enumerate((16, 32)):
        assert sorted(set(look.shift[:, axis].tolist())) == list(range(-side // 8, side // 8 + 1))
        assert sorted(set(look.hole[:, axis].tolist())) == list(range(-side // 4, 3 * side // 4 + 1))


@pytest.mark.parametrize("space", SPACES)
def test_gradients_come_through(space: tuple[int, ...]) -> None:
    """In float64, against finite differences."""
    x = images(space, 2).double()[..., :4, :3].contiguous().requires_grad_()
    look = DiffAugment(cutout=0.3).draw(x)
    assert torch.autograd.gradcheck(look, (x,))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"brightness": -1.0}, "brightness must be 0 or more"),
        ({"contrast": 2.5}, r"contrast lie in \[0, 2\], got 1.0 and 2.5"),
        ({"translation": 1.0}, r"must lie in \[0, 1\), got 1.0"),
        ({"cutout": -0.1}, r"must lie in \[0, 1\), got 0.125 and -0.1"),
    ],
)
def test_what_cannot_be_built_says_why(settings: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DiffAugment(**settings)
