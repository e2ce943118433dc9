"""The network of a diffusion model: U-Nets of diffusers (2D) and MONAI (3D) with one signature.

Both libraries are imported when a network is built, since importing diffusers alone takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from fedgen.network_levels import GROUPS, require_halvings, require_widths


class UNet(nn.Module):
    """Image to image, at any size that its levels can halve; group norms alone, so no batch statistics are sent."""

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int | None = None,
        widths: Sequence[int] = (32, 64, 128), blocks: int = 1, attention: bool = False,
    ):  # fmt: skip
        """
        Args:
            spatial_dims: 2 or 3.
            in_channels: Channels of the input.
            out_channels: Channels of the output; null: as many.
            widths: Channels of each level, multiples of 8; each level but the first halves the image.
            blocks: Residual blocks per level.
            attention: Self-attention at the last level; slow without a GPU.
        """
        super().__init__()
        require_widths(widths)
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
        self.config = {
            "spatial_dims": spatial_dims, "in_channels": in_channels, "out_channels": out_channels,
            "widths": list(widths), "blocks": blocks, "attention": attention,
        }  # fmt: skip
        self.condition_width = 4 * widths[0]
        """Length of the condition's vector: that of the time embedding, to which it is added."""
        build = _unet_2d if spatial_dims == 2 else _unet_3d
        self.net = build(in_channels, out_channels or in_channels, list(widths), blocks, attention)
        self.spatial_dims, self.halvings = spatial_dims, len(widths) - 1

    def forward(
        self, images: Float[Tensor, "n c *space"], times: Float[Tensor, " n"], condition: Float[Tensor, "n width"]
    ) -> Float[Tensor, "n out *space"]:
        if self.spatial_dims == 2:
            prediction: Tensor = self.net(images, times, class_labels=condition, return_dict=False)[0]
        else:
            prediction = self.net(images, times, class_labels=condition)
        return prediction

    def require_size(self, size: Sequence[int]) -> None:
        """Raises InputError if the levels cannot halve an image of that size; the text names sizes that fit."""
        require_halvings(f"a U-Net of {self.halvings + 1} levels", self.halvings, size)


def _unet_2d(channels: int, out_channels: int, widths: list[int], blocks: int, attention: bool) -> nn.Module:
    from diffusers import UNet2DModel

    plain = len(widths) - 1
    last = ("AttnDownBlock2D", "AttnUpBlock2D") if attention else ("DownBlock2D", "UpBlock2D")
    # "identity" adds our own vector to the time embedding; diffusers' own embedding has one table of classes.
    return UNet2DModel(
        in_channels=channels, out_channels=out_channels, block_out_channels=tuple(widths), layers_per_block=blocks,
        down_block_types=("DownBlock2D",) * plain + last[:1], up_block_types=last[1:] + ("UpBlock2D",) * plain,
        norm_num_groups=GROUPS, add_attention=attention, class_embed_type="identity",
    )  # fmt: skip


def _unet_3d(channels: int, out_channels: int, widths: list[int], blocks: int, attention: bool) -> nn.Module:
    from monai.networks.nets import DiffusionModelUNet

    levels = [False] * (len(widths) - 1) + [attention]
    net: Any = DiffusionModelUNet(
        spatial_dims=3, in_channels=channels, out_channels=out_channels, channels=widths, num_res_blocks=blocks,
        attention_levels=levels, num_head_channels=GROUPS, norm_num_groups=GROUPS, num_class_embeds=1,
    )  # fmt: skip
    net.class_embedding = nn.Identity()  # as above
    return net
