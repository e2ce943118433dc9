"""Encoders: (n, c, *space) to (n, width), in 2D and 3D.

They stand in fedcore because pretraining makes them and fine-tuning starts from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
from jaxtyping import Float
from monai.networks.nets.densenet import DenseNet as MonaiDenseNet
from monai.networks.nets.resnet import ResNet as MonaiResNet
from monai.networks.nets.resnet import resnet_params
from torch import Tensor, nn
from torch.nn.functional import pad

from fedcore.errors import Refused

BLOCKS_121 = (6, 12, 24, 16)
NORMS: dict[str, str | tuple[str, dict[str, int]]] = {"batch": "batch", "group": ("group", {"num_groups": 4})}
"""As MONAI names them. Four groups, so that channels of narrow networks still share one: a channel that is normalised
alone forgets how bright its image is, as with instance norm."""


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

    def __init__(
        self, spatial_dims: int = 2, channels: int = 1, depth: Literal[10, 18, 34, 50] = 18, stem: int = 64,
        norm: Literal["batch", "group"] = "batch",
    ):  # fmt: skip
        """
        Args:
            spatial_dims: 2 for images, 3 for volumes; a run takes it from its data.
            channels: Channels of an image; a run takes it from its data.
            depth: Layers; 10 is for laptops.
            stem: Channels of the first stage; each further stage has twice as many. 64 is the paper's.
            norm: Batch norm is the paper's. A batch is of one site, so it takes away what all images of a site have
                in common; group norm (Wu and He 2018, arXiv 1803.08494) looks at each image alone, and is steadier
                where sites differ (Hsieh et al. 2020, arXiv 1910.00189).
        """
        if stem < 1 or (norm == "group" and stem % 4):
            raise ValueError(f"encoder.stem must be at least 1, with group norm a multiple of 4, got {stem}")
        block, layers, shortcut, bias, _ = resnet_params[f"resnet{depth}"]
        self.norm = norm  # before MONAI's own constructor, which asks for the stages
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
        """A stage. MONAI 1.6 hands the norm to the stem alone."""
        return super()._make_layer(*stage, **settings | {"norm": NORMS[self.norm]})

    def _downsample_basic_block(self, x: Tensor, planes: int, stride: int, spatial_dims: int = 3) -> Tensor:
        """The shortcut of depth 18 and 34: every `stride`-th pixel, and zeros for the new channels.

        MONAI's has the same values but no gradient (it reads `.data`), so that blocks learn by the other branch alone.
        """
        kept = [slice(None)] * 2 + [slice(None, None, stride)] * spatial_dims
        return pad(x[tuple(kept)], (0, 0) * spatial_dims + (0, planes - x.shape[1]))

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


class DenseNet(MonaiDenseNet, Encoder):
    """MONAI's densely connected network (Huang et al. 2017, arXiv 1608.06993) without its classifier, 121 layers deep.

    CheXNet (Rajpurkar et al. 2017, arXiv 1711.05225) made it the usual backbone of chest X-rays. It has 7 million
    weights, ResNet-50 has 24; but each layer reads all maps of its block again, and training keeps them.
    """

    class_layers: nn.Sequential

    def __init__(self, spatial_dims: int = 2, channels: int = 1, growth: int = 32, blocks: Sequence[int] = BLOCKS_121):
        """
        Args:
            spatial_dims: 2 for images, 3 for volumes; a run takes it from its data.
            channels: Channels of an image; a run takes it from its data.
            growth: Channels that a layer adds; the first convolution has twice as many. 32 is the paper's.
            blocks: Layers of each block, between which the maps are halved; the default is DenseNet-121.
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


class ViT(Encoder):
    """A vision transformer (Dosovitskiy et al. 2020, arXiv 2010.11929) for pictures and volumes of any size
    that its patches tile.

    Positions are fixed sines and cosines (MAE, He et al. 2021, arXiv 2111.06377), made for the grid that comes,
    so they are no part of the state. Blocks are torch's own: MONAI's need einops and carry a norm of `width`
    that nothing reads. Pre-norm, GELU, biases in qkv, eps 1e-6 and a final norm are those of timm's
    `VisionTransformer`, into which the tensors fit by other names.

    A feature is the mean of the patches after the final norm, not the class token: MAE's loss reaches every
    patch but never asks the token for a summary, its authors fine-tune from the mean, and a method that
    trains the feature trains the mean as well. The token is there for timm's sake and takes part in attention.
    """

    def __init__(
        self, spatial_dims: int = 2, channels: int = 1, patch: int = 16, width: int = 192, depth: int = 12,
        heads: int = 3, mlp_ratio: float = 4.0,
    ):  # fmt: skip
        """
        Args:
            spatial_dims: 2 for images, 3 for volumes; a run takes it from its data.
            channels: Channels of an image; a run takes it from its data.
            patch: Pixels of a patch's side; half of it is 4 (in volumes 8) times the patches and the time.
            width: Length of a token and of a feature; 192, 384 and 768 are the literature's tiny, small and base.
            depth: Blocks.
            heads: Heads of an attention; the literature gives each 64 of the width.
            mlp_ratio: Hidden width of a block's perceptron against `width`.
        """
        if min(patch, depth) < 1 or mlp_ratio <= 0:
            raise ValueError(
                "encoder.patch and encoder.depth must be at least 1 and encoder.mlp_ratio positive, "
                f"got {patch}, {depth} and {mlp_ratio}"
            )
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        self.patches = conv(channels, width, patch, stride=patch)
        self.token = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        self.blocks = transformer(width, depth, heads, mlp_ratio, spatial_dims)
        self.norm = nn.LayerNorm(width, EPS)
        # As a linear layer on pixels, which it is (MAE); a convolution's own start is several times smaller.
        nn.init.xavier_uniform_(self.patches.weight.flatten(1))
        self.patch, self.width = patch, width
        self.config = {
            "spatial_dims": spatial_dims, "channels": channels, "patch": patch, "width": width, "depth": depth,
            "heads": heads, "mlp_ratio": mlp_ratio,
        }  # fmt: skip

    def grid(self, images: Float[Tensor, "n c *space"]) -> tuple[int, ...]:
        """Patches along each axis.

        Raises:
            Refused: Patches do not tile the images.
        """
        space = tuple(images.shape[2:])
        if any(side % self.patch for side in space):
            raise Refused(
                f"patches of {self.patch} pixels do not tile images of {' x '.join(map(str, space))}; every side must "
                f"be a multiple of {self.patch}: change data.size, or encoder.patch to a divisor of the sides"
            )
        return tuple(side // self.patch for side in space)

    def tokens(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n patches width"]:
        """A token a patch, row by row, that knows its place; raises as `grid`."""
        places = positions(self.grid(images), self.width, images.device)
        return self.patches(images).flatten(2).mT + places

    def encode(self, tokens: Float[Tensor, "n some width"]) -> Float[Tensor, "n 1+some width"]:
        """The class token and what the blocks make of any of an image's tokens, in their order."""
        x = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1)
        return self.norm(self.blocks(x))

    def forward(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n width"]:
        return self.encode(self.tokens(images))[:, 1:].mean(1)


EPS = 1e-6
"""Of the layer norms; torch's own 1e-5 would make features differ from timm's with the same weights."""


def transformer(width: int, depth: int, heads: int, mlp_ratio: float, spatial_dims: int) -> nn.Sequential:
    """Blocks of a vision transformer, (n, tokens, width) to the same, with MAE's first weights.

    Raises:
        ValueError: Heads or positions do not divide the width.
    """
    if heads < 1 or width < 1 or width % heads or width % (2 * spatial_dims):
        raise ValueError(
            f"a transformer's width must be a multiple of its heads ({heads}) and of {2 * spatial_dims} "
            f"(a sine and a cosine for each of {spatial_dims} axes), got {width}; 192 with 3 heads fits both 2D and 3D"
        )
    blocks = nn.Sequential(*[
        nn.TransformerEncoderLayer(
            width, heads, int(width * mlp_ratio), dropout=0.0, activation="gelu", layer_norm_eps=EPS,
            batch_first=True, norm_first=True,
        )
        for _ in range(depth)
    ])  # fmt: skip
    for module in blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return blocks


@lru_cache(maxsize=16)
def positions(grid: tuple[int, ...], width: int, device: torch.device) -> Float[Tensor, "patches width"]:
    """Where each patch of `grid` is, row by row: sines and cosines of its place along each axis, the last first.

    Rates fall from 1 to nearly 1/10,000 geometrically (MAE's, appendix A). `width` must be a multiple of twice
    the number of axes.
    """
    with torch.inference_mode(False):  # kept for later steps, which may train
        count = width // (2 * len(grid))
        rates = 10_000 ** -(torch.arange(count, device=device) / count)
        places = torch.meshgrid(*[torch.arange(side, device=device) for side in grid], indexing="ij")
        angles = [place.reshape(-1, 1) * rates for place in reversed(places)]
        return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
