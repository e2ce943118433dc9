"""ResNet: MONAI's residual network as an encoder."""

from __future__ import annotations

from typing import Any, Literal

from jaxtyping import Float
from monai.networks.nets.resnet import ResNet as MonaiResNet
from monai.networks.nets.resnet import resnet_params
from torch import Tensor, nn
from torch.nn.functional import pad

from fedcore.models.base import Encoder

NORMS: dict[str, str | tuple[str, dict[str, int]]] = {"batch": "batch", "group": ("group", {"num_groups": 4})}
"""MONAI's names of the norms. Group norm has four groups, so that also in narrow networks several channels share a
group: normalising one channel alone removes the brightness of the image, as instance norm does."""


class ResNet(MonaiResNet, Encoder):
    """MONAI's residual network (He et al. 2016, arXiv 1512.03385) without its classifier.

    With `stem=64` its tensors have the names and shapes of MONAI's `ResNetFeatures`, and therefore of the encoder in
    a `FlexibleUNet(backbone="resnet18")`.
    """

    conv1: nn.Module
    bn1: nn.Module
    act: nn.Module
    maxpool: nn.Module
    in_planes: int

    def __init__(
        self, spatial_dims: int = 2, channels: int = 1, depth: Literal[10, 18, 34, 50] = 18, stem: int = 64,
        norm: Literal["batch", "group"] = "batch",
    ):  # fmt: skip
        """
        Args:
            spatial_dims: 2 for images, 3 for volumes; a run takes it from its data.
            channels: Channels of an image; a run takes it from its data.
            depth: Number of layers; 10 is for laptops.
            stem: Channels of the first stage; each later stage has twice as many as the one before. The paper has 64.
            norm: The paper has batch norm. A batch holds images of one site, so batch norm removes what these have in
                common; group norm (Wu and He 2018, arXiv 1803.08494) normalises each image by itself, and is more
                stable where sites differ (Hsieh et al. 2020, arXiv 1910.00189).
        """
        if stem < 1 or (norm == "group" and stem % 4):
            raise ValueError(f"encoder.stem must be at least 1, with group norm a multiple of 4, got {stem}")
        block, layers, shortcut, bias, _ = resnet_params[f"resnet{depth}"]
        self.norm = norm  # before MONAI's constructor, which calls _make_layer
        super().__init__(
            block=block, layers=layers, block_inplanes=[stem, 2 * stem, 4 * stem, 8 * stem],
            spatial_dims=spatial_dims, n_input_channels=channels, conv1_t_stride=2,
            shortcut_type=shortcut, bias_downsample=bias, feed_forward=False, norm=NORMS[norm],
        )  # fmt: skip
        self.width = self.in_planes
        self.config = {
            "spatial_dims": spatial_dims, "channels": channels, "depth": depth, "stem": stem, "norm": norm,
        }  # fmt: skip

    def _make_layer(self, *stage: Any, **settings: Any) -> nn.Sequential:
        """A stage. MONAI 1.6 applies `norm` to the stem only."""
        return super()._make_layer(*stage, **settings | {"norm": NORMS[self.norm]})

    def _downsample_basic_block(self, x: Tensor, planes: int, stride: int, spatial_dims: int = 3) -> Tensor:
        """The shortcut of depths 18 and 34: every `stride`-th pixel, and zeros for the new channels.

        MONAI's has the same values but no gradient (it reads `.data`), so gradients would pass the other branch only.
        """
        kept = [slice(None)] * 2 + [slice(None, None, stride)] * spatial_dims
        return pad(x[tuple(kept)], (0, 0) * spatial_dims + (0, planes - x.shape[1]))

    def features(self, images: Float[Tensor, "n c *space"]) -> list[Tensor]:
        """Five feature maps for a U-Net decoder, each half the size of the one before."""
        maps = [self.act(self.bn1(self.conv1(images)))]
        x = self.maxpool(maps[0])
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
            maps.append(x)
        return maps

    def forward(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n width"]:
        return self.features(images)[-1].flatten(2).mean(2)
