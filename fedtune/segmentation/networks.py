"""Segmentation networks in 2D and 3D: a U-Net on an encoder of the kit, and three networks of MONAI.

All are built from (spatial_dims, channels, num_classes). A network returns logits (n, num_classes, *space). In
training, `outputs` may return several, finest first; the coarser ones are for deep supervision. Sides of images must be
multiples of `size_divisor`.
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

from fedcore.messages.reveals import Levels, Reveals
from fedcore.models.base import Encoder
from fedcore.models.resnet import NORMS, ResNet

FLEXIBLE = ("batch", {"eps": 1e-3, "momentum": 0.1})
"""The norm of MONAI's `FlexibleUNet`."""


class EncoderUNet(nn.Module):
    """A U-Net: an encoder of the kit and MONAI's `UNetDecoder`.

    Images may have any size; the decoder has the encoder's norm. With `stem=64`, `deep_supervision=0` and batch norm
    its tensors have the names and shapes of MONAI's `FlexibleUNet` on the same backbone.
    """

    size_divisor = 1

    def __init__(
        self, spatial_dims: int, channels: int, num_classes: int, encoder: Callable[[int, int], Encoder] = ResNet,
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16), deep_supervision: int = 0,
    ):  # fmt: skip
        """
        Args:
            spatial_dims: 2 for images, 3 for volumes; a run takes it from its data.
            channels: Channels of an image; a run takes it from its data.
            num_classes: Classes in the masks, background included; a run takes it from its data.
            encoder: An encoder with feature maps of five sizes (`ResNet`), with the same settings as in pretraining.
            decoder_channels: Channels of the decoder's five levels, coarsest first.
            deep_supervision: Number of coarser decoder levels, 0 to 4, that are also trained on the masks.
        """
        super().__init__()
        self.encoder: Any = encoder(spatial_dims, channels)
        if not isinstance(self.encoder, ResNet):
            raise ValueError(
                f"network.encoder must have feature maps of five sizes, as fedcore.models.resnet.ResNet; "
                f"{type(self.encoder).__name__} has not"
            )
        if len(decoder_channels) != 5 or not 0 <= deep_supervision <= 4:
            raise ValueError(
                "network.decoder_channels must be five numbers and network.deep_supervision lie in 0..4, got "
                f"{decoder_channels} and {deep_supervision}"
            )
        norm = self.encoder.norm
        if norm == "group" and any(width % 4 for width in decoder_channels):
            raise ValueError(f"network.decoder_channels must be multiples of 4 with group norm, got {decoder_channels}")
        self.decoder = UNetDecoder(
            spatial_dims, (channels, *_encoder_channels(self.encoder, spatial_dims, channels)), tuple(decoder_channels),
            act=("relu", {"inplace": True}), norm=FLEXIBLE if norm == "batch" else NORMS[norm], dropout=0.0, bias=False,
            upsample="nontrainable", pre_conv="default", interp_mode="nearest", align_corners=None, is_pad=True,
        )  # fmt: skip
        self.segmentation_head = SegmentationHead(spatial_dims, decoder_channels[-1], num_classes)
        coarser = list(decoder_channels)[-2 : -2 - deep_supervision : -1]
        self.deep_heads = _deep_heads(spatial_dims, coarser, num_classes)

    def forward(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n k *space"]:
        logits: Tensor = self.segmentation_head(self._decode(images)[-1])
        return logits

    def outputs(self, images: Float[Tensor, "n c *space"]) -> list[Tensor]:
        """Logits of the finest level, then of coarser levels, each half the size of the one before."""
        return _outputs(self._decode(images), self.segmentation_head, self.deep_heads)

    def _decode(self, images: Tensor) -> list[Tensor]:
        """Feature maps of the decoder's levels, coarsest first."""
        *skips, x = self.encoder.features(images)
        levels = []
        for block, skip in zip(self.decoder.blocks, [*reversed(skips), None], strict=True):
            # The block's own call pads where sizes differ, but a map of odd size is upsampled to a larger one.
            x = _cropped(block.upsample(x), (images if skip is None else skip).shape[2:])
            x = block.convs(x if skip is None else torch.cat([skip, x], dim=1))
            levels.append(x)
        return levels


def _deep_heads(spatial_dims: int, widths: Sequence[int], num_classes: int) -> nn.ModuleList:
    """Heads of deep supervision, for feature maps of these widths, finest first."""
    convolution = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
    return nn.ModuleList(convolution(width, num_classes, 1) for width in widths)


def _outputs(levels: Sequence[Tensor], head: nn.Module, deep_heads: nn.ModuleList) -> list[Tensor]:
    *coarser, finest = levels
    deep = zip(deep_heads, reversed(coarser), strict=False)
    return [head(finest), *(deep_head(level) for deep_head, level in deep)]


def _cropped(x: Tensor, space: Sequence[int]) -> Tensor:
    windows: tuple[Any, ...] = (..., *(slice(side) for side in space))
    return x[windows]


def _encoder_channels(encoder: ResNet, spatial_dims: int, channels: int) -> list[int]:
    """Channels of its feature maps."""
    encoder.eval()
    with torch.no_grad():
        maps = encoder.features(torch.zeros(1, channels, *[32] * spatial_dims))
    encoder.train()
    return [m.shape[1] for m in maps]


class SegResNet(MonaiSegResNet):
    """MONAI's SegResNet (Myronenko 2018, arXiv 1810.11654), group norm."""

    size_divisor = 8

    def __init__(self, spatial_dims: int, channels: int, num_classes: int, width: int = 16):
        """
        Args:
            spatial_dims: 2 for images, 3 for volumes; a run takes it from its data.
            channels: Channels of an image; a run takes it from its data.
            num_classes: Classes in the masks, background included; a run takes it from its data.
            width: Channels of the first level, a multiple of 8; each of the three further levels has twice as many.
        """
        if width < 8 or width % 8:
            raise ValueError(f"network.width must be a multiple of 8, got {width}")
        super().__init__(spatial_dims, width, channels, num_classes)


class DynUNet(MonaiDynUNet):
    """MONAI's DynUNet, the U-Net of nnU-Net (Isensee et al. 2021, arXiv 1904.08128), instance norm.

    MONAI registers every block a second time, under `skip_layers`, so all weights would be sent and stored twice; these
    names are removed.
    """

    def __init__(
        self, spatial_dims: int, channels: int, num_classes: int, width: int = 32, levels: int = 4,
        deep_supervision: int = 0,
    ):  # fmt: skip
        """
        Args:
            spatial_dims: 2 for images, 3 for volumes; a run takes it from its data.
            channels: Channels of an image; a run takes it from its data.
            num_classes: Classes in the masks, background included; a run takes it from its data.
            width: Channels of the first level; each further level has twice as many, at most 320.
            levels: Number of levels, at least 3; each but the first halves the image.
            deep_supervision: Number of coarser levels, 0 to levels - 2, that are also trained on the masks.
        """
        if width < 1 or levels < 3 or not 0 <= deep_supervision <= levels - 2:
            raise ValueError(
                "network.width must be positive, network.levels at least 3 and network.deep_supervision lie in "
                f"0..levels - 2, got {width}, {levels} and {deep_supervision}"
            )
        strides, widths = [1] + [2] * (levels - 1), [min(320, width * 2**at) for at in range(levels)]
        super().__init__(
            spatial_dims, channels, num_classes, kernel_size=[3] * levels, strides=strides,
            upsample_kernel_size=strides[1:], filters=widths,
        )  # fmt: skip
        del self.skip_layers
        self.size_divisor = 2 ** (levels - 1)
        self.deep_heads = _deep_heads(spatial_dims, widths[1 : 1 + deep_supervision], num_classes)

    def forward(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n k *space"]:
        logits: Tensor = self.output_block(self._decode(images)[-1])
        return logits

    def outputs(self, images: Float[Tensor, "n c *space"]) -> list[Tensor]:
        """Logits of the finest level, then of coarser levels, each half the size of the one before."""
        return _outputs(self._decode(images), self.output_block, self.deep_heads)

    def _decode(self, images: Tensor) -> list[Tensor]:
        """Feature maps of the decoder's levels, coarsest first."""
        maps = [self.input_block(images)]
        for block in self.downsamples:
            maps.append(block(maps[-1]))
        levels = [self.bottleneck(maps[-1])]
        for block, skip in zip(self.upsamples, reversed(maps), strict=True):
            levels.append(block(levels[-1], skip))
        return levels[1:]


class SwinUNETR(MonaiSwinUNETR):
    """MONAI's Swin UNETR (Hatamizadeh et al. 2022, arXiv 2201.01266)."""

    size_divisor = 32
    reveals: ClassVar[Levels] = {"*.relative_position_index": Reveals.WEIGHTS}  # constants of the architecture

    def __init__(self, spatial_dims: int, channels: int, num_classes: int, width: int = 24):
        """
        Args:
            spatial_dims: 2 for images, 3 for volumes; a run takes it from its data.
            channels: Channels of an image; a run takes it from its data.
            num_classes: Classes in the masks, background included; a run takes it from its data.
            width: Length of a token, a multiple of 12; the paper has 48.
        """
        if width < 12 or width % 12:
            raise ValueError(f"network.width must be a multiple of 12, got {width}")
        super().__init__(channels, num_classes, feature_size=width, spatial_dims=spatial_dims)
