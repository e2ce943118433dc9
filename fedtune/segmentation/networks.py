"""Networks that say of every pixel what it shows, in 2D and 3D: a U on an encoder of ours, and three of MONAI's.

All are made from (spatial_dims, channels, structures). A network answers with logits (n, structures, *space); while
it trains, `outputs` may answer with several, the finest first, of which coarser ones are deep supervision. Sides of
images must be multiples of `multiple`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from monai.networks.nets.dynunet import DynUNet as MonaiDynUNet
from monai.networks.nets.flexible_unet import SegmentationHead, UNetDecoder
from monai.networks.nets.segresnet import SegResNet as MonaiSegResNet
from monai.networks.nets.swin_unetr import SwinUNETR as MonaiSwinUNETR
from torch import Tensor, nn

from fedcore.messages.message import Levels, Reveals
from fedcore.models.base import Encoder
from fedcore.models.resnet import NORMS, ResNet

FLEXIBLE = ("batch", {"eps": 1e-3, "momentum": 0.1})
"""The norm of `FlexibleUNet`."""


class UShaped(nn.Module):
    """An encoder and MONAI's U-shaped decoder on it.

    Images may have any size; the decoder's norm is the encoder's. With `stem=64`, `deep=0` and batch norm its tensors
    have the names and shapes of MONAI's `FlexibleUNet` on the same backbone.
    """

    multiple = 1

    def __init__(
        self, spatial_dims: int, channels: int, structures: int, encoder: Callable[[int, int], Encoder] = ResNet,
        widths: Sequence[int] = (256, 128, 64, 32, 16), deep: int = 0,
    ):  # fmt: skip
        """
        Args:
            spatial_dims: 2 for images, 3 for volumes; a run takes it from its data.
            channels: Channels of an image; a run takes it from its data.
            structures: Class numbers in the masks, background included; a run takes it from its data.
            encoder: One with maps of five sizes (`ResNet`), as it was pretrained.
            widths: Channels of the decoder's five steps, coarsest first.
            deep: Coarser steps, 0 to 4, that also learn from the masks.
        """
        super().__init__()
        self.encoder: Any = encoder(spatial_dims, channels)
        if not isinstance(self.encoder, ResNet):
            raise ValueError(
                f"network.encoder must have maps of five sizes, as fedcore.models.resnet.ResNet; "
                f"{type(self.encoder).__name__} has none"
            )
        if len(widths) != 5 or not 0 <= deep <= 4:
            raise ValueError(
                f"network.widths must be five numbers and network.deep lie in 0..4, got {widths} and {deep}"
            )
        norm = self.encoder.norm
        if norm == "group" and any(width % 4 for width in widths):
            raise ValueError(f"network.widths must be multiples of 4 with group norm, got {widths}")
        self.decoder = UNetDecoder(
            spatial_dims, (channels, *_widths(self.encoder, spatial_dims, channels)), tuple(widths),
            act=("relu", {"inplace": True}), norm=FLEXIBLE if norm == "batch" else NORMS[norm], dropout=0.0, bias=False,
            upsample="nontrainable", pre_conv="default", interp_mode="nearest", align_corners=None, is_pad=True,
        )  # fmt: skip
        self.segmentation_head = SegmentationHead(spatial_dims, widths[-1], structures)
        self.deep = _heads(spatial_dims, list(widths)[-2 : -2 - deep : -1], structures)

    def forward(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n k *space"]:
        logits: Tensor = self.segmentation_head(self._steps(images)[-1])
        return logits

    def outputs(self, images: Float[Tensor, "n c *space"]) -> list[Tensor]:
        """Logits, then those of coarser steps, each half the size of the one before."""
        return _outputs(self._steps(images), self.segmentation_head, self.deep)

    def _steps(self, images: Tensor) -> list[Tensor]:
        *skips, x = self.encoder.features(images)
        steps = []
        for block, skip in zip(self.decoder.blocks, [*reversed(skips), None], strict=True):
            # The block's own call pads where sizes differ, but a map of an odd size comes back larger, not smaller.
            x = _cropped(block.upsample(x), (images if skip is None else skip).shape[2:])
            x = block.convs(x if skip is None else torch.cat([skip, x], dim=1))
            steps.append(x)
        return steps


def _heads(spatial_dims: int, widths: Sequence[int], structures: int) -> nn.ModuleList:
    """For deep supervision, of maps of these widths, the finest first."""
    point = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
    return nn.ModuleList(point(width, structures, 1) for width in widths)


def _outputs(steps: Sequence[Tensor], head: nn.Module, deep: nn.ModuleList) -> list[Tensor]:
    *coarser, finest = steps
    return [head(finest), *(each(step) for each, step in zip(deep, reversed(coarser), strict=False))]


def _cropped(x: Tensor, space: Sequence[int]) -> Tensor:
    windows: tuple[Any, ...] = (..., *(slice(side) for side in space))
    return x[windows]


def _widths(encoder: ResNet, spatial_dims: int, channels: int) -> list[int]:
    encoder.eval()
    with torch.no_grad():
        maps = encoder.features(torch.zeros(1, channels, *[32] * spatial_dims))
    encoder.train()
    return [m.shape[1] for m in maps]


class SegResNet(MonaiSegResNet):
    """MONAI's residual U (Myronenko 2018, arXiv 1810.11654), group norm."""

    multiple = 8

    def __init__(self, spatial_dims: int, channels: int, structures: int, width: int = 16):
        """
        Args:
            spatial_dims: 2 for images, 3 for volumes; a run takes it from its data.
            channels: Channels of an image; a run takes it from its data.
            structures: Class numbers in the masks, background included; a run takes it from its data.
            width: Channels of the first level, a multiple of 8; three further levels have twice as many each.
        """
        if width < 8 or width % 8:
            raise ValueError(f"network.width must be a multiple of 8, got {width}")
        super().__init__(spatial_dims, width, channels, structures)


class DynUNet(MonaiDynUNet):
    """nnU-Net's U (Isensee et al. 2021, arXiv 1904.08128) of MONAI's blocks, instance norm.

    MONAI's own also registers every block a second time, under `skip_layers`, which would travel and be stored twice.
    """

    def __init__(
        self, spatial_dims: int, channels: int, structures: int, width: int = 32, levels: int = 4, deep: int = 0
    ):
        """
        Args:
            spatial_dims: 2 for images, 3 for volumes; a run takes it from its data.
            channels: Channels of an image; a run takes it from its data.
            structures: Class numbers in the masks, background included; a run takes it from its data.
            width: Channels of the first level; each further level has twice as many, at most 320.
            levels: Each but the first halves the image; at least 3.
            deep: Coarser levels, 0 to levels - 2, that also learn from the masks.
        """
        if width < 1 or levels < 3 or not 0 <= deep <= levels - 2:
            raise ValueError(
                "network.width must be positive, network.levels at least 3 and network.deep lie in 0..levels - 2, got "
                f"{width}, {levels} and {deep}"
            )
        strides, widths = [1] + [2] * (levels - 1), [min(320, width * 2**at) for at in range(levels)]
        super().__init__(
            spatial_dims, channels, structures, kernel_size=[3] * levels, strides=strides,
            upsample_kernel_size=strides[1:], filters=widths,
        )  # fmt: skip
        del self.skip_layers
        self.multiple = 2 ** (levels - 1)
        self.deep = _heads(spatial_dims, widths[1 : 1 + deep], structures)

    def forward(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n k *space"]:
        logits: Tensor = self.output_block(self._steps(images)[-1])
        return logits

    def outputs(self, images: Float[Tensor, "n c *space"]) -> list[Tensor]:
        """Logits, then those of coarser levels, each half the size of the one before."""
        return _outputs(self._steps(images), self.output_block, self.deep)

    def _steps(self, images: Tensor) -> list[Tensor]:
        maps = [self.input_block(images)]
        for block in self.downsamples:
            maps.append(block(maps[-1]))
        steps = [self.bottleneck(maps[-1])]
        for block, skip in zip(self.upsamples, reversed(maps), strict=True):
            steps.append(block(steps[-1], skip))
        return steps[1:]


class SwinUNETR(MonaiSwinUNETR):
    """MONAI's U of shifted windows (Hatamizadeh et al. 2022, arXiv 2201.01266)."""

    multiple = 32
    reveals: ClassVar[Levels] = {"*.relative_position_index": Reveals.WEIGHTS}  # constants of the windows

    def __init__(self, spatial_dims: int, channels: int, structures: int, width: int = 24):
        """
        Args:
            spatial_dims: 2 for images, 3 for volumes; a run takes it from its data.
            channels: Channels of an image; a run takes it from its data.
            structures: Class numbers in the masks, background included; a run takes it from its data.
            width: Length of a token, a multiple of 12; 48 is the paper's.
        """
        if width < 12 or width % 12:
            raise ValueError(f"network.width must be a multiple of 12, got {width}")
        super().__init__(channels, structures, feature_size=width, spatial_dims=spatial_dims)
