"""ViT: a vision transformer for images and volumes, with fixed sine-cosine positions."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedcore.errors import Refused
from fedcore.models.base import Encoder

EPS = 1e-6
"""Epsilon of the layer norms, as timm's; with torch's default of 1e-5 features would differ from timm's."""


class ViT(Encoder):
    """A vision transformer (Dosovitskiy et al. 2020, arXiv 2010.11929), for images and volumes.

    The sides of an image may be any multiples of the patch.

    Positions are fixed sines and cosines (MAE, He et al. 2021, arXiv 2111.06377). They are computed for the size of
    the input, so they are not in the state. Blocks are torch's own: MONAI's need einops and hold a norm of `width`
    that is never used. Pre-norm, GELU, biases in qkv, eps 1e-6 and a final norm equal those of timm's
    `VisionTransformer`, which loads the tensors under other names.

    A feature is the mean of the patch tokens after the final norm, not the class token: MAE's loss reaches every
    patch but does not train the class token, its authors fine-tune from the mean, and a method that trains the
    feature trains the mean as well. The class token exists for compatibility with timm and takes part in attention.
    """

    def __init__(
        self, spatial_dims: int = 2, channels: int = 1, patch: int = 16, width: int = 192, depth: int = 12,
        heads: int = 3, mlp_ratio: float = 4.0,
    ):  # fmt: skip
        """
        Args:
            spatial_dims: 2 for images, 3 for volumes; a run takes it from its data.
            channels: Channels of an image; a run takes it from its data.
            patch: Side of a patch in pixels; half of it means 4 (in volumes 8) times as many patches and as much time.
            width: Length of a token and of a feature; 192, 384 and 768 are ViT-Tiny, -Small and -Base.
            depth: Number of blocks.
            heads: Attention heads of a block; in the literature `width` / 64.
            mlp_ratio: Hidden width of a block's MLP, divided by `width`.
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
        # Initialised as a linear layer on pixels (MAE); torch's initialisation of a convolution is several times
        # smaller.
        nn.init.xavier_uniform_(self.patches.weight.flatten(1))
        self.patch, self.width = patch, width
        self.config = {
            "spatial_dims": spatial_dims, "channels": channels, "patch": patch, "width": width, "depth": depth,
            "heads": heads, "mlp_ratio": mlp_ratio,
        }  # fmt: skip

    def grid(self, images: Float[Tensor, "n c *space"]) -> tuple[int, ...]:
        """Number of patches along each axis.

        Raises:
            Refused: A side is no multiple of the patch.
        """
        space = tuple(images.shape[2:])
        if any(side % self.patch for side in space):
            raise Refused(
                f"patches of {self.patch} pixels do not tile images of {' x '.join(map(str, space))}; every side must "
                f"be a multiple of {self.patch}: change data.size, or set encoder.patch to a divisor of the sides"
            )
        return tuple(side // self.patch for side in space)

    def tokens(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n patches width"]:
        """One token per patch, row by row, position included; raises as `grid`."""
        places = positions(self.grid(images), self.width, images.device)
        return self.patches(images).flatten(2).mT + places

    def encode(self, tokens: Float[Tensor, "n some width"]) -> Float[Tensor, "n 1+some width"]:
        """Outputs for the class token and for some or all tokens of an image, in their order."""
        x = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1)
        return self.norm(self.blocks(x))

    def forward(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n width"]:
        return self.encode(self.tokens(images))[:, 1:].mean(1)


def transformer(width: int, depth: int, heads: int, mlp_ratio: float, spatial_dims: int) -> nn.Sequential:
    """Blocks of a vision transformer, (n, tokens, width) to the same shape, initialised as in MAE.

    Raises:
        ValueError: The width is no multiple of the heads, or of twice the dimensions.
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
    """Position embedding of each patch of `grid`, row by row: sines and cosines along each axis, the last axis first.

    Frequencies fall geometrically from 1 to nearly 1/10,000 (MAE, appendix A). `width` must be a multiple of twice
    the number of axes.
    """
    with torch.inference_mode(False):  # cached: later training steps use the same tensor
        count = width // (2 * len(grid))
        frequencies = 10_000 ** -(torch.arange(count, device=device) / count)
        coordinates = torch.meshgrid(*[torch.arange(side, device=device) for side in grid], indexing="ij")
        angles = [coordinate.reshape(-1, 1) * frequencies for coordinate in reversed(coordinates)]
        return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
