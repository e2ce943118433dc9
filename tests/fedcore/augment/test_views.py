from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor

from fedcore.augment.blur import blur
from fedcore.augment.views import Views
from fedcore.errors import InputError, InputErrors
from tests.fedcore.augment.images import random_images

UNCHANGED = ("flip", "rotate", "gamma", "contrast", "brightness", "blur_probability", "noise", "invert")
IDENTITY = Views(count=1, crop=(1.0, 1.0), **dict.fromkeys(UNCHANGED, 0.0))
SHAPES = [(5, 1, 12, 16), (5, 3, 9, 9), (4, 1, 6, 8, 7)]


def identity_but(**changed: object) -> Views:
    """Views that change nothing, but for these fields."""
    return Views(**{**vars(IDENTITY), **changed})


@pytest.mark.parametrize("shape", SHAPES)
def test_identity_parameters_return_the_input(shape: tuple[int, ...]) -> None:
    images = random_images(*shape)
    torch.testing.assert_close(IDENTITY(images)[0], images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [*SHAPES, (1, 1, 8, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_views_keep_shape_and_dtype_and_lie_in_range(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    views = Views(count=3, brightness=1.5, noise=1.0)(random_images(*shape).to(dtype))
    assert len(views) == 3
    for view in views:
        assert view.shape == shape
        assert view.dtype == dtype
        assert view.isfinite().all()
        assert view.abs().max() == 1  # with jitter this strong, some voxels are clamped


def test_the_seed_decides_the_views_and_the_images_are_not_changed() -> None:
    images, kept = random_images(4, 1, 16, 16), random_images(4, 1, 16, 16)

    def seeded(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.stack(Views()(images))

    assert torch.equal(seeded(1), seeded(1))
    assert not torch.equal(seeded(1), seeded(2))
    assert torch.equal(images, kept)


@pytest.mark.parametrize("space", [(16, 16), (6, 8, 7)])
@pytest.mark.parametrize(
    ("field", "value"),
    [("crop", (0.2, 0.8)), ("rotate", 20.0), ("flip", 0.5), ("noise", 0.5), ("blur_probability", 1.0)]
    + [(field, 0.5) for field in ("gamma", "contrast", "brightness", "invert")],
)
def test_each_sample_and_each_view_has_random_parameters_of_its_own(
    space: tuple[int, ...], field: str, value: object
) -> None:
    """A batch of one image repeated: with a shared parameter all samples would be equal."""
    images = (random_images(1, 1, *space) * 0.4).expand(12, 1, *space)
    first, second = identity_but(count=2, **{field: value})(images)
    assert len(first.flatten(1).unique(dim=0)) > 1
    assert not torch.equal(first, second)


def test_a_flip_of_probability_one_mirrors_an_image_left_to_right_and_a_volume_along_every_axis() -> None:
    picture, volume = random_images(3, 2, 6, 9), random_images(3, 1, 5, 6, 7)
    torch.testing.assert_close(identity_but(flip=1.0)(picture)[0], picture.flip(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(identity_but(flip=1.0)(volume)[0], volume.flip(2, 3, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(identity_but(flip=(0.0, 1.0, 0.0))(volume)[0], volume.flip(3), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match=r"views\.flip must be one number or 2, one per axis, got 3"):
        identity_but(flip=(0.0, 1.0, 0.0))(picture)


@pytest.mark.parametrize("space", [(16, 16), (6, 8, 7)])
def test_no_view_waits_for_results_of_the_device(space: tuple[int, ...]) -> None:
    """Meta tensors have no values, so a boolean mask or a number that is read would fail."""
    images = torch.empty(4, 1, *space, device="meta")
    assert Views(invert=0.5)._view(images).shape == images.shape


@pytest.mark.gpu
@pytest.mark.parametrize("space", [(16, 16), (6, 8, 7)])
def test_a_view_does_not_synchronise_with_cuda(space: tuple[int, ...]) -> None:
    images, views = random_images(4, 1, *space).cuda(), Views(invert=0.5)
    views(images)  # the first call copies constants to the device
    torch.cuda.set_sync_debug_mode("error")
    try:
        views(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_only_the_chosen_samples_are_blurred() -> None:
    images = random_images(64, 1, 8, 8)
    view = identity_but(blur_probability=0.5, blur=(1.0, 1.0))(images)[0]
    still = (view - images).abs().flatten(1).amax(1) < 1e-5
    assert 16 < still.sum() < 48
    blurred = blur(images, torch.ones(64), 4)
    torch.testing.assert_close(view[~still], blurred[~still], atol=1e-5, rtol=0)
    torch.testing.assert_close(identity_but(blur_probability=0.0)(images)[0], images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_inverted_views_are_negatives_and_as_many_as_the_probability_says(shape: tuple[int, ...]) -> None:
    images = random_images(*shape)
    torch.testing.assert_close(identity_but(invert=1.0)(images)[0], -images, atol=1e-5, rtol=0)
    many = images[:1].expand(400, *shape[1:])
    inverted = (identity_but(invert=0.2)(many)[0] - many).abs().flatten(1).amax(1) > 0.1
    assert 0.1 < inverted.float().mean() < 0.3


def test_parameters_stay_within_their_ranges() -> None:
    """Brightness, noise, angle fill their ranges evenly: uniform in [-a, a] deviates by a / sqrt(3)."""
    flat = identity_but(brightness=0.3)(torch.zeros(1000, 1, 4, 4))[0].flatten(1)
    assert flat.abs().max() <= 0.3 + 1e-5
    assert flat[:, 0].std().item() == pytest.approx(0.3 / 3**0.5, rel=0.1)
    noisy = identity_but(noise=0.2)(torch.zeros(200, 1, 16, 16))[0].flatten(1).std(1)
    assert noisy.mean().item() == pytest.approx(0.1, rel=0.15)
    ramp = torch.linspace(-0.5, 0.5, 33).expand(1000, 1, 33, 33)
    view = identity_but(rotate=20.0)(ramp)[0][:, 0]
    angles = torch.atan2(view[:, 20, 16] - view[:, 12, 16], view[:, 16, 20] - view[:, 16, 12]).rad2deg()
    assert angles.abs().max() <= 20 + 1e-2
    assert angles.mean().item() == pytest.approx(0, abs=1.5)
    assert angles.std().item() == pytest.approx(20 / 3**0.5, rel=0.1)
    flipped = (identity_but(flip=0.25)(ramp)[0] - ramp).abs().flatten(1).amax(1) > 0.1
    assert flipped.float().mean().item() == pytest.approx(0.25, abs=0.05)


def test_crops_have_the_given_area_and_aspect() -> None:
    """On a ramp, a view spans `side` of the ramp's range; the spans multiply to the drawn area."""
    n, size = 200, 32
    ramp = torch.linspace(-1, 1, size)
    rows, columns = ramp[:, None].expand(size, size), ramp.expand(size, size)
    view = identity_but(crop=(0.3, 0.5))(torch.stack([rows, columns]).expand(n, 2, size, size))[0]
    spans = torch.stack([view[:, 0, -1, 0] - view[:, 0, 0, 0], view[:, 1, 0, -1] - view[:, 1, 0, 0]], 1) / 2
    area = spans.prod(1)
    assert 0.27 < area.min() < 0.33
    assert 0.47 < area.max() < 0.53
    aspect = (spans[:, 1] / spans[:, 0]).log() / log(4 / 3)
    assert aspect.min().item() == pytest.approx(-1, abs=0.15)
    assert aspect.max().item() == pytest.approx(1, abs=0.15)


def test_all_errors_are_reported_at_once() -> None:
    with pytest.raises(InputErrors) as caught:
        Views(count=0, crop=(0.5, 0.2), flip=2.0, noise=-1.0, invert=2.0)
    assert len(caught.value.errors) == 5
    assert "crop must hold 0 < minimum <= maximum <= 1, got (0.5, 0.2)" in str(caught.value)


def test_mixed_precision_does_not_change_views() -> None:
    images = torch.rand(3, 1, 16, 16) * 2 - 1
    torch.manual_seed(1)
    outside = Views()(images)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = Views()(images)
    for a, b in zip(outside, inside, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("space", [(24, 20), (12, 10, 14)])
def test_a_mask_has_the_crop_of_its_image(space: tuple[int, ...]) -> None:
    """An image that is its own mask stays so, but for the pixels that lie on a border of structures."""
    still = Views(count=1, gamma=0.0, contrast=0.0, brightness=0.0, blur_probability=0.0, noise=0.0)
    masks = torch.zeros(4, *space, dtype=torch.int64)
    masks[:, 4:9, 3:8] = 1
    images = masks[:, None].float() * 2 - 1
    torch.manual_seed(0)
    views, seen = still.paired(images, masks)
    sure = views[:, 0].abs() > 0.99
    assert 0.5 < sure.float().mean() < 1
    assert torch.equal((views[:, 0] > 0)[sure], (seen == 1)[sure])
    torch.manual_seed(0)
    assert torch.equal(still(images)[0], views)
