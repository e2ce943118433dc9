"""DenseNet: MONAI's densely connected network as an encoder."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from monai.networks.nets.densenet import DenseNet as MonaiDenseNet
from torch import Tensor, nn

from fedcore.models.base import Encoder

BLOCKS_121 = (6, 12, 24, 16)
"""Layers of the blocks of DenseNet-121."""


class DenseNet(MonaiDenseNet, Encoder):
    """MONAI's densely connected network (Huang et al. 2017, arXiv 1608.06993) without its classifier, 121 layers deep.

    The usual backbone for chest X-rays since CheXNet (Rajpurkar et al. 2017, arXiv 1711.05225). It has 7 million
    weights, ResNet-50 has 24 million; but each layer reads all earlier maps of its block, which training keeps in
    memory.
    """

    class_layers: nn.Sequential

    def __init__(self, spatial_dims: int = 2, channels: int = 1, growth: int = 32, blocks: Sequence[int] = BLOCKS_121):
        """
        Args:
            spatial_dims: 2 for images, 3 for volumes; a run takes it from its data.
            channels: Channels of an image; a run takes it from its data.
            growth: Channels that a layer adds; the first convolution has twice as many. The paper has 32.
            blocks: Layers of each block; between blocks maps are halved in size. The default is DenseNet-121.
        """
        if growth < 1 or not blocks or min(blocks) < 1:
            raise ValueError(f"encoder.growth and encoder.blocks must be at least 1, got {growth} and {list(blocks)}")
        super().__init__(spatial_dims, channels, 1, 2 * growth, growth, tuple(blocks))
        out = self.get_submodule("class_layers.out")
        assert isinstance(out, nn.Linear)
        self.width, self.class_layers[-1] = out.in_features, nn.Identity()
        self.config = {"spatial_dims": spatial_dims, "channels": channels, "growth": growth, "blocks": list(blocks)}

    def forward(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n width"]:
        feature: Tensor = super().forward(images)
        return feature
