"""Random views of images, made in batches on the images' device, in 2D and 3D by the same code.

One resampling applies crop, flip and rotation; blur, gamma, contrast, brightness and noise follow. Each sample has
random parameters of its own. Colour is not changed: CT, MR and X-ray are grey. There is no solarisation, because it
breaks the order of intensities.

Why not a library: on one CPU thread kornia takes 2.2 to 2.4 times as long for the same changes (1.7 times with a
looser crop), and it has no resized crop, blur or intensity changes for volumes. MONAI has them, but for one image
at a time: 2.5 to 4.2 times as long in 3D, 8 to 41 times in 2D. lightly's views are for 8-bit RGB images in 2D,
take 3.5 to 6.3 times as long, and lack gamma and noise (benchmarks/views.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log, radians

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fedcore.augment.blur import blur
from fedcore.augment.geometry import constant, resample, rotation, window_sides
from fedcore.augment.intensity import gamma_, per_sample, rescale_
from fedcore.errors import InputError, InputErrors


@dataclass(frozen=True)
class Views:
    """Makes `count` random views of each image; the `views:` section of a recipe.

    Random numbers come from torch's global generator of the images' device; the choice of the blurred images comes from
    that of the CPU. To repeat views, fork and seed both (`fedcore.seeds`). Nothing here waits for a GPU.
    Voxels should be isotropic: a rotation is rigid in voxels, not in mm.
    """

    count: int = 2
    """Number of views of each image."""
    crop: tuple[float, float] = (0.2, 1.0)
    """Minimum and maximum fraction of the area (volume) that a view shows. For small lesions, raise the minimum."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the crop's aspect ratio (later axes to the first), relative to the image's; log-uniform."""
    flip: float | tuple[float, ...] = 0.5
    """Probability of a flip. One number: 2D images flip along the last axis (left to right in the image, and of the
    patient in axial and coronal slices), volumes along each axis. One number per axis: [0.5, 0, 0] flips volumes of
    NIfTI and DICOM, whose arrays are (x, y, z), only left to right. Set 0 where the side of the body matters."""
    rotate: float = 10.0
    """Maximum rotation in degrees, in both directions; a volume rotates by a vector of three such angles. With 180,
    images are rotated by any angle."""
    gamma: float = 0.3
    """Gamma lies in [exp(-gamma), exp(gamma)], log-uniformly."""
    contrast: float = 0.4
    """Contrast around the sample's mean lies in [1 - contrast, 1 + contrast]: a CT's window width."""
    brightness: float = 0.2
    """Shift of the intensities in [-1, 1] lies in [-brightness, brightness]: a CT's window level."""
    blur: tuple[float, float] = (0.1, 1.0)
    """Minimum and maximum sigma of the Gaussian blur, in voxels of the view. SimCLR's maximum of 2 is for 224 x 224."""
    blur_probability: float = 0.5
    """Probability that a view is blurred."""
    noise: float = 0.05
    """Maximum standard deviation of the Gaussian noise, which is added to intensities in [-1, 1]."""
    invert: float = 0.0
    """Probability of inverting intensities (dark becomes bright); for sites with different stains, MR sequences or
    inverted X-rays."""

    def __post_init__(self) -> None:
        """Raises InputErrors that name every field out of its range."""
        rules = [
            ("count", "be at least 1", self.count >= 1),
            ("crop", "hold 0 < minimum <= maximum <= 1", 0 < self.crop[0] <= self.crop[1] <= 1),
            ("aspect", "hold 0 < minimum <= maximum", 0 < self.aspect[0] <= self.aspect[1]),
            ("flip", "lie in [0, 1]", all(0 <= chance <= 1 for chance in _as_tuple(self.flip))),
            ("rotate", "lie in [0, 180] degrees", 0 <= self.rotate <= 180),
            ("gamma", "be at least 0", self.gamma >= 0),
            ("contrast", "lie in [0, 1]", 0 <= self.contrast <= 1),
            ("brightness", "lie in [0, 2]", 0 <= self.brightness <= 2),
            ("blur", "hold 0 < minimum <= maximum", 0 < self.blur[0] <= self.blur[1]),
            ("blur_probability", "lie in [0, 1]", 0 <= self.blur_probability <= 1),
            ("noise", "be at least 0", self.noise >= 0),
            ("invert", "lie in [0, 1]", 0 <= self.invert <= 1),
        ]
        errors = [f"{name} must {rule}, got {getattr(self, name)}" for name, rule, holds in rules if not holds]
        if errors:
            raise InputErrors("views", errors)

    def flips(self, dims: int) -> tuple[float, ...]:
        """Probability of a flip along each axis.

        Raises:
            InputError: There are several numbers, but not one per axis.
        """
        numbers = _as_tuple(self.flip)
        if len(numbers) == 1:
            return (0.0, *numbers) if dims == 2 else numbers * dims
        if len(numbers) != dims:
            raise InputError(f"views.flip must be one number or {dims}, one per axis, got {len(numbers)}")
        return numbers

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "n c *space"]) -> list[Float[Tensor, "n c *space"]]:
        """`count` views in [-1, 1] of images in [-1, 1], with their shape and dtype."""
        # Without mixed precision: in bfloat16, sampling positions would be half a pixel off at 128 pixels.
        with torch.autocast(images.device.type, enabled=False):
            return [self._view(images.float()).to(images.dtype) for _ in range(self.count)]

    @torch.no_grad()
    def paired(
        self, images: Float[Tensor, "n c *space"], masks: Int64[Tensor, "n *space"]
    ) -> tuple[Float[Tensor, "n c *space"], Int64[Tensor, "n *space"]]:
        """One view of each image, and its mask of class numbers with the same crop, flip and rotation."""
        with torch.autocast(images.device.type, enabled=False):
            window = self._crop_window(len(images), images.ndim - 2, images.device, images.shape[2:])
            view = self._with_intensities(resample(images.float(), *window)).to(images.dtype)
            return view, resample(masks[:, None].float(), *window, mode="nearest")[:, 0].to(masks.dtype)

    def _view(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
        window = self._crop_window(len(images), images.ndim - 2, images.device, images.shape[2:])
        return self._with_intensities(resample(images, *window))

    def _with_intensities(self, view: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
        """Changes the intensities of a view in place and returns it."""
        n, device = len(view), view.device
        if self.invert > 0:
            view.mul_(per_sample(1 - 2 * (torch.rand(n, device=device) < self.invert).to(view.dtype), view))
        # The CPU chooses the blurred samples, because it must know their number without waiting for the GPU.
        blurred = (torch.rand(n) < self.blur_probability).nonzero()[:, 0].to(device, non_blocking=True)
        view[blurred] = blur(view[blurred], uniform(*self.blur, (n,), device)[blurred], reach=ceil(4 * self.blur[1]))
        if self.gamma > 0:  # skipped at 0: the power takes a tenth of a view's time
            gamma_(view, uniform(-self.gamma, self.gamma, (n,), device).exp())
        rescale_(
            view,
            contrast=uniform(1 - self.contrast, 1 + self.contrast, (n,), device),
            brightness=uniform(-self.brightness, self.brightness, (n,), device),
        )
        if self.noise > 0:  # skipped at 0: normal numbers take a fifth of it
            view.addcmul_(torch.randn_like(view), per_sample(uniform(0.0, self.noise, (n,), device), view))
        return view.clamp_(-1, 1)

    def _crop_window(
        self, n: int, dims: int, device: torch.device, space: tuple[int, ...]
    ) -> tuple[Float[Tensor, "n d d"], Float[Tensor, "n d"]]:
        """The arguments `linear` and `centre` of `resample`."""
        sides = window_sides(
            uniform(*self.crop, (n,), device),
            uniform(log(self.aspect[0]), log(self.aspect[1]), (n, dims - 1), device),
        )
        centre = uniform(-1.0, 1.0, (n, dims), device) * (1 - sides)
        flipped = torch.rand(n, dims, device=device) < constant(self.flips(dims), device)
        angles = uniform(-radians(self.rotate), radians(self.rotate), (n, dims * (dims - 1) // 2), device)
        return rotation(angles, space) * torch.where(flipped, -sides, sides)[:, None], centre


def _as_tuple(numbers: float | tuple[float, ...]) -> tuple[float, ...]:
    return numbers if isinstance(numbers, tuple) else (numbers,)


def uniform(low: float, high: float, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uniform float32 numbers in [low, high), from the device's global generator."""
    return torch.empty(shape, device=device).uniform_(low, high)
