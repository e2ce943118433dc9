"""Encoders: (n, c, *space) to (n, width), in 2D and 3D.

They stand in fedcore because pretraining makes them and fine-tuning starts from them.
"""

from __future__ import annotations

from typing import Any, Literal

from jaxtyping import Float
from monai.networks.nets.resnet import ResNet as MonaiResNet
from monai.networks.nets.resnet import resnet_params
from torch import Tensor, nn


class Encoder(nn.Module):
    """What pretraining makes and fine-tuning starts from; a subclass sets both."""

    width: int
    """Length of a feature."""
    config: dict[str, Any]
    """Arguments that build it again."""


class ResNet(MonaiResNet, Encoder):
    """MONAI's residual network (He et al. 2016, arXiv 1512.03385) without its classifier.

    With `stem=64` its tensors have the names and shapes of MONAI's `ResNetFeatures`, and so of the
    encoder inside a `FlexibleUNet(backbone="resnet18")`.
    """

    conv1: nn.Module
    bn1: nn.Module
    act: nn.Module
    maxpool: nn.Module
    in_planes: int

    def __init__(self, spatial_dims: int = 2, channels: int = 1, depth: Literal[10, 18, 34, 50] = 18, stem: int = 64):
        """
        Args:
            spatial_dims: 2 for images, 3 for volumes; a run takes it from its data.
            channels: Channels of an image; a run takes it from its data.
            depth: Layers; 10 is for laptops.
            stem: Channels of the first stage; each further stage has twice as many. 64 is the paper's.
        """
        if stem < 1:
            raise ValueError(f"encoder.stem must be at least 1, got {stem}")
        block, layers, shortcut, bias, _ = resnet_params[f"resnet{depth}"]
        super().__init__(
            block=block, layers=layers, block_inplanes=[stem, 2 * stem, 4 * stem, 8 * stem],
            spatial_dims=spatial_dims, n_input_channels=channels, conv1_t_stride=2,
            shortcut_type=shortcut, bias_downsample=bias, feed_forward=False,
        )  # fmt: skip
        self.width = self.in_planes
        self.config = {"spatial_dims": spatial_dims, "channels": channels, "depth": depth, "stem": stem}

    def features(self, images: Float[Tensor, "n c *space"]) -> list[Tensor]:
        """The five maps a U-shaped decoder reads, each half the size of the one before."""
        maps = [self.act(self.bn1(self.conv1(images)))]
        x = self.maxpool(maps[0])
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
            maps.append(x)
        return maps

    def forward(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n width"]:
        return self.features(images)[-1].flatten(2).mean(2)
