from __future__ import annotations

from itertools import product
from math import ceil, exp, log, pi

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fedcore.augment.views import Views, bend_, blur, blur_weights, resample, rescale_, turn, window_sides
from fedcore.errors import InputError, InputErrors

NOTHING = ("flip", "rotate", "gamma", "contrast", "brightness", "blur_probability", "noise", "invert")
STILL = Views(count=1, crop=(1.0, 1.0), **dict.fromkeys(NOTHING, 0.0))
SHAPES = [(5, 1, 12, 16), (5, 3, 9, 9), (4, 1, 6, 8, 7)]


def but(**changed: object) -> Views:
    """The identity, with some of its fields changed."""
    return Views(**{**vars(STILL), **changed})


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(autouse=True)
def _seeded() -> object:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("shape", SHAPES)
def test_identity_parameters_return_the_input(shape: tuple[int, ...]) -> None:
    images = random_images(*shape)
    torch.testing.assert_close(STILL(images)[0], images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [*SHAPES, (1, 1, 8, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_views_keep_shape_and_dtype_and_lie_in_range(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    views = Views(count=3, brightness=1.5, noise=1.0)(random_images(*shape).to(dtype))
    assert len(views) == 3
    for view in views:
        assert view.shape == shape
        assert view.dtype == dtype
        assert view.isfinite().all()
        assert view.abs().max() == 1  # so strong a jitter is clamped somewhere


def test_the_seed_decides_the_views_and_the_images_are_left_alone() -> None:
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
def test_each_sample_and_each_view_draws_its_own_parameters(space: tuple[int, ...], field: str, value: object) -> None:
    """A batch of one image repeated: a parameter shared by the batch would leave all of it equal."""
    images = (random_images(1, 1, *space) * 0.4).expand(12, 1, *space)
    first, second = but(count=2, **{field: value})(images)
    assert len(first.flatten(1).unique(dim=0)) > 1
    assert not torch.equal(first, second)


def test_a_sure_flip_mirrors_a_picture_left_to_right_and_a_volume_along_every_axis() -> None:
    picture, volume = random_images(3, 2, 6, 9), random_images(3, 1, 5, 6, 7)
    torch.testing.assert_close(but(flip=1.0)(picture)[0], picture.flip(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(but(flip=1.0)(volume)[0], volume.flip(2, 3, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(but(flip=(0.0, 1.0, 0.0))(volume)[0], volume.flip(3), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match=r"views\.flip must be one number or 2, one an axis, got 3"):
        but(flip=(0.0, 1.0, 0.0))(picture)


@pytest.mark.parametrize(
    ("space", "mode", "start"),
    [
        ((12, 16), "bilinear", (1 / 4, 1 / 4)),
        ((8, 12), "bilinear", (0, 1 / 2)),
        ((8, 12, 16), "trilinear", (1 / 4, 0, 1 / 2)),
    ],
)
def test_a_known_crop_equals_interpolate(space: tuple[int, ...], mode: str, start: tuple[float, ...]) -> None:
    """Half of each axis; but for the rim, where interpolate sees no voxel beyond the slice."""
    images, dims = random_images(2, 3, *space), len(space)
    begins = [int(part * size) for part, size in zip(start, space, strict=True)]
    half = images[(..., *(slice(b, b + size // 2) for b, size in zip(begins, space, strict=True)))]
    expected = F.interpolate(half, size=space, mode=mode, align_corners=False)
    centre = 2 * torch.tensor(start).float() - 0.5
    view = resample(images, torch.eye(dims).expand(2, -1, -1) / 2, centre.expand(2, -1))
    inside = (..., *[slice(1, -1)] * dims)
    torch.testing.assert_close(view[inside], expected[inside], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_window_fits_the_image_and_has_the_drawn_volume(dims: int) -> None:
    part, stretch = torch.rand(500) * 0.95 + 0.05, torch.randn(500, dims - 1)
    sides = window_sides(part, stretch)
    torch.testing.assert_close(sides.prod(1), part)
    assert sides.max() <= 1 + 1e-6
    part, stretch = part * 0.5, stretch.clamp(-0.1, 0.1)  # small enough that nothing is lessened
    sides = window_sides(part, stretch)
    torch.testing.assert_close((sides[:, 1:] / sides[:, :1]).log(), stretch, atol=1e-5, rtol=0)


@pytest.mark.parametrize("space", [(16, 16), (6, 8, 7)])
def test_no_view_waits_for_what_a_device_has_computed(space: tuple[int, ...]) -> None:
    """Tensors without numbers answer only what needs none: no boolean mask, no number read."""
    images = torch.empty(4, 1, *space, device="meta")
    assert Views(invert=0.5)._view(images).shape == images.shape


@pytest.mark.gpu
@pytest.mark.parametrize("space", [(16, 16), (6, 8, 7)])
def test_cuda_sees_no_wait_in_a_view(space: tuple[int, ...]) -> None:
    images, views = random_images(4, 1, *space).cuda(), Views(invert=0.5)
    views(images)  # copies the constants
    torch.cuda.set_sync_debug_mode("error")
    try:
        views(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("space", "planes"), [((5, 9), 1), ((4, 6, 7), 3)])
def test_a_turn_is_the_exponential_of_its_skew_matrix(space: tuple[int, ...], planes: int) -> None:
    angles = torch.cat([torch.zeros(1, planes), torch.rand(20, planes) * 2 * pi - pi])
    row, column = torch.triu_indices(len(space), len(space), 1)
    skew = torch.zeros(len(angles), len(space), len(space))
    skew[:, row, column] = angles
    sides = torch.tensor(space).float()
    expected = torch.linalg.matrix_exp(skew - skew.mT) * (sides / sides[:, None])
    torch.testing.assert_close(turn(angles, space), expected, atol=1e-5, rtol=0)


def test_resampling_equals_a_loop_over_pixels() -> None:
    """Bilinear by hand, any linear map, rows before columns, border repeated."""
    generator = torch.Generator().manual_seed(1)
    images = random_images(2, 1, 5, 7)
    linear, centre = (
        torch.randn(2, 2, 2, generator=generator) * 0.5,
        torch.randn(2, 2, generator=generator) * 0.2,
    )
    view = resample(images, linear, centre)
    sides = torch.tensor([5.0, 7.0])

    for i, row, column in product(range(2), range(5), range(7)):
        x = (2 * torch.tensor([row, column]) + 1) / sides - 1
        place = ((linear[i] @ x + centre[i] + 1) * sides - 1) / 2
        r, c = torch.minimum(place.clamp_min(0), sides - 1).tolist()
        expected = sum(
            (1 - abs(r - a)) * (1 - abs(c - b)) * images[i, 0, a, b].item()
            for a, b in product(range(5), range(7))
            if abs(r - a) < 1 and abs(c - b) < 1
        )
        assert view[i, 0, row, column].item() == pytest.approx(expected, abs=1e-5)


def test_a_right_angle_equals_rot90_in_a_picture_and_in_each_plane_of_a_volume() -> None:
    picture = random_images(1, 1, 7, 7)
    turned = resample(picture, turn(torch.tensor([[pi / 2]]), (7, 7)), torch.zeros(1, 2))
    torch.testing.assert_close(turned, picture.rot90(1, (-2, -1)), atol=1e-4, rtol=0)
    volume = random_images(1, 1, 5, 5, 5)
    for plane, axes in enumerate([(2, 3), (2, 4), (3, 4)]):
        angles = torch.eye(3)[plane : plane + 1] * pi / 2
        turned = resample(volume, turn(angles, (5, 5, 5)), torch.zeros(1, 3))
        torch.testing.assert_close(turned, volume.rot90(1, axes), atol=1e-4, rtol=0)


def test_a_turn_is_rigid_in_voxels() -> None:
    """R = S T S^-1 is a rotation, whatever the sides S: R R' = 1, det R = 1."""
    for space in [(6, 10), (4, 9, 5)]:
        sides = torch.tensor(space, dtype=torch.float32)
        planes = len(space) * (len(space) - 1) // 2
        rigid = turn(torch.rand(20, planes) - 0.5, space) * (sides[:, None] / sides)
        torch.testing.assert_close(rigid @ rigid.mT, torch.eye(len(space)).expand_as(rigid), atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.linalg.det(rigid), torch.ones(20))


def test_a_picture_equals_a_volume_of_one_slice() -> None:
    picture = random_images(3, 2, 6, 8)
    volume = picture[:, :, None]
    angles, centre, sigma = torch.rand(3, 1), torch.rand(3, 2) * 0.3, torch.rand(3) + 0.1
    flat = resample(picture, turn(angles, (6, 8)) * 0.7, centre)
    # The third plane is the one of the last two axes; the slice itself keeps its thickness.
    deep = turn(F.pad(angles, (2, 0)), (1, 6, 8)) * torch.tensor([1, 0.7, 0.7])
    solid = resample(volume, deep, F.pad(centre, (1, 0)))
    torch.testing.assert_close(solid[:, :, 0], flat, atol=1e-5, rtol=0)
    torch.testing.assert_close(blur(volume, sigma, 4)[:, :, 0], blur(picture, sigma, 4))


def test_blur_weights_sum_to_one_inside_the_image_and_a_tiny_sigma_is_the_identity() -> None:
    weights = blur_weights(torch.tensor([0.01, 0.5, 1.0, 30.0]), size=9, reach=4)
    torch.testing.assert_close(weights.sum(0), torch.ones(4, 9))
    assert weights[0, :, 3].max() == 0  # four voxels before the fourth there is none
    assert weights[0, 3, 4] > 0
    torch.testing.assert_close(weights[:, 0], F.one_hot(torch.tensor(4), 9).float()[:, None].expand(9, 9))


@pytest.mark.parametrize("space", [(6, 5), (3, 4, 5)])
@pytest.mark.parametrize("sigma", [(0.1, 1.0), (0.6, 1.4)])
def test_blur_equals_a_loop_over_pairs_of_voxels(space: tuple[int, ...], sigma: tuple[float, float]) -> None:
    images = random_images(2, 2, *space)
    blurred = blur(images, torch.tensor(sigma), reach=ceil(4 * sigma[1]))  # further than the image is wide
    places = list(torch.cartesian_prod(*(torch.arange(size) for size in space)))
    for i in range(2):
        for here in places:
            weights = [exp(-((here - there) ** 2).sum().item() / (2 * sigma[i] ** 2)) for there in places]
            near = torch.tensor(weights).view(space) / sum(weights)
            expected = (images[i] * near).flatten(1).sum(1)
            torch.testing.assert_close(blurred[(i, slice(None), *here)], expected, atol=1e-5, rtol=0)


def test_a_blur_cut_off_at_four_sigma_equals_one_that_is_not() -> None:
    images, sigma = random_images(4, 1, 32, 24), torch.tensor([0.1, 0.4, 0.9, 1.0])
    torch.testing.assert_close(blur(images, sigma, reach=4), blur(images, sigma, reach=32), atol=1e-5, rtol=0)


def test_only_the_drawn_samples_are_blurred() -> None:
    images = random_images(64, 1, 8, 8)
    view = but(blur_probability=0.5, blur=(1.0, 1.0))(images)[0]
    still = (view - images).abs().flatten(1).amax(1) < 1e-5
    assert 16 < still.sum() < 48
    blurred = blur(images, torch.ones(64), 4)
    torch.testing.assert_close(view[~still], blurred[~still], atol=1e-5, rtol=0)
    torch.testing.assert_close(but(blur_probability=0.0)(images)[0], images, atol=1e-5, rtol=0)


def test_gamma_contrast_and_brightness_equal_their_formulas_sample_by_sample() -> None:
    images = random_images(3, 2, 4, 5)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = -1.0, 1.0  # black stays black and white white
    gamma, contrast, brightness = (
        torch.tensor([0.7, 1.0, 1.5]),
        torch.tensor([1.3, 1, 0.6]),
        torch.tensor([0.1, 0, -1]),
    )
    bent, rescaled = images.clone(), images.clone()
    bend_(bent, gamma)
    rescale_(rescaled, contrast, brightness)
    for i, x in enumerate(images):
        torch.testing.assert_close(bent[i], 2 * ((x + 1) / 2) ** gamma[i] - 1, atol=1e-6, rtol=0)
        expected = contrast[i] * (x - x.mean()) + x.mean() + brightness[i]
        torch.testing.assert_close(rescaled[i], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_inverted_views_are_negatives_and_as_many_as_asked(shape: tuple[int, ...]) -> None:
    images = random_images(*shape)
    torch.testing.assert_close(but(invert=1.0)(images)[0], -images, atol=1e-5, rtol=0)
    many = images[:1].expand(400, *shape[1:])
    inverted = (but(invert=0.2)(many)[0] - many).abs().flatten(1).amax(1) > 0.1
    assert 0.1 < inverted.float().mean() < 0.3


def test_gamma_bears_values_just_outside_the_range() -> None:
    """Half precision and interpolation leave values like -1.0000001, whose power would be NaN."""
    images = torch.full((1, 1, 4, 4), -1.001)
    bend_(images, torch.full((1,), 0.5))
    assert (images == -1).all()


def test_the_strengths_bound_what_is_drawn() -> None:
    """Brightness, noise, angle fill their ranges evenly: uniform in [-a, a] deviates by a / sqrt(3)."""
    flat = but(brightness=0.3)(torch.zeros(1000, 1, 4, 4))[0].flatten(1)
    assert flat.abs().max() <= 0.3 + 1e-5
    assert flat[:, 0].std().item() == pytest.approx(0.3 / 3**0.5, rel=0.1)
    noisy = but(noise=0.2)(torch.zeros(200, 1, 16, 16))[0].flatten(1).std(1)
    assert noisy.mean().item() == pytest.approx(0.1, rel=0.15)
    ramp = torch.linspace(-0.5, 0.5, 33).expand(1000, 1, 33, 33)
    view = but(rotate=20.0)(ramp)[0][:, 0]
    angles = torch.atan2(view[:, 20, 16] - view[:, 12, 16], view[:, 16, 20] - view[:, 16, 12]).rad2deg()
    assert angles.abs().max() <= 20 + 1e-2
    assert angles.mean().item() == pytest.approx(0, abs=1.5)
    assert angles.std().item() == pytest.approx(20 / 3**0.5, rel=0.1)
    flipped = (but(flip=0.25)(ramp)[0] - ramp).abs().flatten(1).amax(1) > 0.1
    assert flipped.float().mean().item() == pytest.approx(0.25, abs=0.05)


def test_crops_show_the_part_they_promise() -> None:
    """On a ramp, a view spans `side` of the ramp's range; the spans multiply to the drawn area."""
    n, size = 200, 32
    ramp = torch.linspace(-1, 1, size)
    rows, columns = ramp[:, None].expand(size, size), ramp.expand(size, size)
    view = but(crop=(0.3, 0.5))(torch.stack([rows, columns]).expand(n, 2, size, size))[0]
    spans = torch.stack([view[:, 0, -1, 0] - view[:, 0, 0, 0], view[:, 1, 0, -1] - view[:, 1, 0, 0]], 1) / 2
    area = spans.prod(1)
    assert 0.27 < area.min() < 0.33
    assert 0.47 < area.max() < 0.53
    aspect = (spans[:, 1] / spans[:, 0]).log() / log(4 / 3)
    assert aspect.min().item() == pytest.approx(-1, abs=0.15)
    assert aspect.max().item() == pytest.approx(1, abs=0.15)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InputErrors) as caught:
        Views(count=0, crop=(0.5, 0.2), flip=2.0, noise=-1.0, invert=2.0)
    assert len(caught.value.errors) == 5
    assert "crop must hold 0 < least <= greatest <= 1, got (0.5, 0.2)" in str(caught.value)


def test_mixed_precision_leaves_views_as_they_are() -> None:
    images = torch.rand(3, 1, 16, 16) * 2 - 1
    torch.manual_seed(1)
    outside = Views()(images)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = Views()(images)
    for a, b in zip(outside, inside, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("space", [(24, 20), (12, 10, 14)])
def test_a_mask_is_seen_through_the_window_of_its_image(space: tuple[int, ...]) -> None:
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
