"""Views per second: fedcore.augment.views against kornia, MONAI and lightly's SimCLR transform.

Run: python -m benchmarks.speed.views   (needs the extra `bench`; a minute)

Images per second, two views of each, in one process with one thread; in brackets the time as a multiple of ours.
2026-11-21, 2-core x86 CPU; torch 2.15.0, kornia 0.9.0, MONAI 1.6.1, lightly 1.6.0.

| images          | ours | ours, less | kornia     | kornia, fused | lightly    | MONAI      | MONAI, fused |
|-----------------|------|------------|------------|---------------|------------|------------|--------------|
| 128 x 1 x 64^2  | 7352 | 10910      | 3059 (2.4) | 4361 (1.7)    | 1159 (6.3) | 181 (40.6) | 307 (23.9)   |
| 128 x 1 x 128^2 | 2011 | 3128       | 924 (2.2)  | 1246 (1.6)    | 576 (3.5)  | 163 (12.4) | 247 (8.1)    |
| 8 x 1 x 32^3    | 410  | 480        | -          | -             | -          | 98 (4.2)   | 135 (3.0)    |
| 8 x 1 x 36x50x36| 230  | 266        | -          | -             | -          | 69 (3.3)   | 91 (2.5)     |

Ours, less: lightly has neither gamma nor noise (and rotates by the nearest pixel); without them ours are 9.4 and 5.4
times as fast. lightly with its defaults, with hue, saturation and grey but no rotation, takes as long (1127 and 534
images/s).
At 128^2 two calls take most of our time: grid_sample 13 ms and normal numbers 5 ms, of 28 ms per view of 128 images.
"Fused" samples from a different distribution than ours: see kornia_views.
kornia has flips, affine maps and fixed-size crops in 3D, but no RandomResizedCrop3D, no Gaussian blur, gamma,
contrast, brightness or noise for volumes. lightly augments PIL images: 8 bits, RGB, 2D.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from statistics import median
from time import process_time

import torch
from torch import Tensor

from fedcore.augment.views import Views

VIEWS = Views()
REPEATS = 9
Maker = Callable[[Tensor], object]
"""Makes two views of images in [-1, 1]."""


def kornia_views(size: int, fused: bool = False) -> Maker:
    """The same transforms and probabilities, on intensities in [0, 1] as kornia requires.

    Fused: one RandomAffine for crop and rotation; its window may extend beyond the image, and has no aspect ratio.
    """
    import kornia.augmentation as K

    if fused:
        zoom = (1.0, VIEWS.crop[0] ** -0.5)
        place = [K.RandomAffine(VIEWS.rotate, translate=(0.2, 0.2), scale=zoom, padding_mode="border", p=1.0)]
    else:
        crop = {
            "scale": VIEWS.crop,
            "ratio": VIEWS.aspect,
            "cropping_mode": "slice",
        }  # faster than "resample"
        place = [
            K.RandomResizedCrop((size, size), align_corners=False, **crop),
            K.RandomRotation(VIEWS.rotate, p=1.0),
        ]
    change = torch.nn.Sequential(
        *place,
        K.RandomHorizontalFlip(p=VIEWS.flip),
        # A kernel of 7 voxels covers 3 sigma of the strongest blur.
        K.RandomGaussianBlur((7, 7), VIEWS.blur, p=VIEWS.blur_probability),
        K.RandomGamma((math.exp(-VIEWS.gamma), math.exp(VIEWS.gamma)), p=1.0),
        K.RandomContrast((1 - VIEWS.contrast, 1 + VIEWS.contrast), p=1.0),
        K.RandomBrightness((1 - VIEWS.brightness / 2, 1 + VIEWS.brightness / 2), p=1.0),
        # Ours is half the maximum on average; halved again for [0, 1].
        K.RandomGaussianNoise(std=VIEWS.noise / 4, p=1.0),
    )

    def make(images: Tensor) -> list[Tensor]:
        unit = images / 2 + 0.5
        return [change(unit).clamp(0, 1) * 2 - 1 for _ in range(VIEWS.count)]

    return make


def monai_views(space: tuple[int, ...], fused: bool = False) -> Maker:
    """MONAI's array transforms, one image at a time; the crop is resized back, as no transform does both.

    Fused: one RandAffine for crop and rotation, with the same limitation as kornia's.
    """
    from monai.transforms import (
        Compose,
        RandAdjustContrast,
        RandAffine,
        RandFlip,
        RandGaussianNoise,
        RandGaussianSmooth,
        RandRotate,
        RandShiftIntensity,
        RandSpatialCrop,
        Resize,
    )

    dims = len(space)
    angles = [math.radians(VIEWS.rotate)] * (1 if dims == 2 else 3)
    side = VIEWS.crop[0] ** (1 / dims)
    if fused:
        shift, zoom = [0.2 * size for size in space], [(side - 1, 0.0)] * dims
        place = [RandAffine(1.0, angles, None, shift, zoom, padding_mode="border")]
    else:
        turn = dict(zip(("range_x", "range_y", "range_z"), angles, strict=False))
        place = [
            RandSpatialCrop([round(side * size) for size in space], max_roi_size=space, random_size=True),
            Resize(space, mode="bilinear" if dims == 2 else "trilinear"),
            RandRotate(**turn, prob=1.0, padding_mode="border"),
        ]
    change = Compose(
        [
            *place,
            RandFlip(prob=VIEWS.flip, spatial_axis=-1),
            RandGaussianSmooth(*[VIEWS.blur] * 3, prob=VIEWS.blur_probability),
            RandAdjustContrast(prob=1.0, gamma=(math.exp(-VIEWS.gamma), math.exp(VIEWS.gamma))),
            RandShiftIntensity(VIEWS.brightness, prob=1.0),
            RandGaussianNoise(prob=1.0, std=VIEWS.noise),
        ]
    )
    return lambda images: [torch.stack([change(image).as_tensor() for image in images]) for _ in range(VIEWS.count)]


def lightly_views(size: int, defaults: bool = False) -> Maker:
    """SimCLR on 8-bit RGB images in memory, with changes of hue, saturation and grey turned off.

    It rotates by the nearest pixel and has neither gamma nor noise. Defaults: with hue, saturation and grey, without
    rotation.
    """
    from lightly.transforms import SimCLRTransform
    from torchvision.transforms.functional import to_pil_image

    ours = {
        "cj_prob": 1.0,
        "cj_bright": VIEWS.brightness,
        "cj_contrast": VIEWS.contrast,
        "cj_sat": 0.0,
        "cj_hue": 0.0,
        "random_gray_scale": 0.0,
        "min_scale": VIEWS.crop[0],
        "gaussian_blur": VIEWS.blur_probability,
        "sigmas": VIEWS.blur,
        "hf_prob": VIEWS.flip,
        "rr_prob": 1.0,
        "rr_degrees": VIEWS.rotate,
    }
    change = SimCLRTransform(input_size=size, **({} if defaults else ours))
    pictures: list[object] = []

    def make(images: Tensor) -> list[Tensor]:
        if not pictures:  # made in the warm-up, so that only augmentation is measured
            pictures.extend(to_pil_image(image / 2 + 0.5).convert("RGB") for image in images)
        return [torch.stack(views) for views in zip(*(change(p) for p in pictures), strict=True)]

    return make


def seconds(makers: dict[str, Maker], images: Tensor) -> dict[str, float]:
    """Median CPU seconds of each, alternating so that other load affects all equally."""
    times_by_name: dict[str, list[float]] = {name: [] for name in makers}
    for repeat in range(REPEATS + 1):
        for name, make in makers.items():
            start = process_time()
            make(images)
            if repeat:  # the first is the warm-up
                times_by_name[name].append(process_time() - start)
    return {name: median(times) for name, times in times_by_name.items()}


def main() -> None:
    """Prints images per second (two views of each) and the time as a multiple of ours."""
    torch.set_num_threads(1)
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "kornia", "monai", "lightly")))
    for n, space in [(128, (64, 64)), (128, (128, 128)), (8, (32, 32, 32)), (8, (36, 50, 36))]:
        makers: dict[str, Maker] = {
            "ours": VIEWS,
            "ours, lightly's changes": replace(VIEWS, gamma=0.0, noise=0.0),
            "MONAI": monai_views(space),
            "MONAI, fused": monai_views(space, fused=True),
        }
        if len(space) == 2:
            makers["kornia"] = kornia_views(space[0])
            makers["kornia, fused"] = kornia_views(space[0], fused=True)
            makers["lightly"] = lightly_views(space[0])
            makers["lightly, defaults"] = lightly_views(space[0], defaults=True)
        images = torch.rand(n, 1, *space) * 2 - 1
        times_by_name = seconds(makers, images)
        print(f"\n{n} x 1 x {' x '.join(map(str, space))}")
        for name, time in sorted(times_by_name.items(), key=lambda item: item[1]):
            print(f"  {name:24}{n / time:8.0f} images/s   {time / times_by_name['ours']:5.1f} x our time")


if __name__ == "__main__":
    main()
