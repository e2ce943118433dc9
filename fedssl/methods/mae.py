"""Masked autoencoder: most patches are hidden, the rest must tell what they show.

He et al. 2021, arXiv 2111.06377; across hospitals, as Fed-MAE: Yan et al. 2022, arXiv 2205.08576.
"""

from __future__ import annotations

from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from torch.optim import AdamW

from fedcore.augment.views import Views
from fedcore.errors import Refused
from fedcore.models.base import Encoder
from fedcore.models.vit import EPS, ViT, positions, transformer
from fedssl.methods.base import Method, OptimizerFactory

CROP = Views(count=1, crop=(0.5, 1.0), rotate=0.0, gamma=0.0, contrast=0.0, brightness=0.0, blur_probability=0.0,
             noise=0.0)  # fmt: skip
"""The paper's: a crop and a mirror image. Hiding patches is the hard part; other changes would be targets too."""


class MAE(Method):
    """The encoder sees the patches that are left, a small decoder guesses the hidden ones.

    With FedAvg this is Fed-MAE. Encoder and decoder travel. No image is compared with another, so a visit
    works with any number of images. The probe's `feature_std` is small here without a collapse: nothing drives the
    mean out of the features; look at `effective_rank`.
    """

    share = ("encoder.", "decoder.")

    encoder: ViT

    def __init__(
        self, encoder: Encoder, views: Views = CROP,
        optimizer: OptimizerFactory = lambda p: AdamW(p, lr=1e-3, weight_decay=0.05),
        ratio: float = 0.6, width: int = 96, depth: int = 2, heads: int = 3, norm_pix: bool = True,
    ):  # fmt: skip
        """
        Args:
            encoder: fedcore.models.vit.ViT; others cannot leave patches out.
            views: Random transforms of an image; one view.
            optimizer: Builds the optimizer of a visit.
            ratio: Part of the patches that is hidden, in (0, 1); Fed-MAE's 0.6. MAE's 0.75 is for natural images,
                and faster.
            width: Length of the decoder's tokens; the paper's 512 stands beside an encoder of 1024.
            depth: Blocks of the decoder; the paper's 8 gain little in fine-tuning over 1.
            heads: Heads of an attention of the decoder.
            norm_pix: Guess each patch less its mean and over its deviation (the paper's better variant), else
                intensities in [-1, 1].
        """
        if not isinstance(encoder, ViT):
            raise ValueError(
                f"MAE hides patches from its encoder, which {type(encoder).__name__} cannot leave out; "
                "set encoder.class_path to fedcore.models.vit.ViT"
            )
        if not 0 < ratio < 1:
            raise ValueError(f"ratio must lie in (0, 1), got {ratio}")
        if views.count != 1:
            raise ValueError(
                f"MAE reads one view of an image, got {views.count}; set method.init_args.views.count to 1"
            )
        super().__init__(encoder, views, optimizer)
        self.decoder = Decoder(encoder, width, depth, heads)
        self.ratio, self.norm_pix = ratio, norm_pix

    def loss(self, views: list[Float[Tensor, "n c *space"]]) -> Float[Tensor, ""]:
        """The mean squared error over the hidden patches of fresh draws from torch's global generator."""
        images = views[0]
        tokens = self.encoder.tokens(images)
        seen = draw(len(tokens), tokens.shape[1], self.ratio, tokens.device)
        guess = self.decoder(self.encoder.encode(take(tokens, seen)), seen, self.encoder.grid(images))
        return hidden_error(guess.float(), self.target(images), seen)

    def target(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n patches pixels"]:
        """What should be guessed of each patch."""
        pixels = patchify(images.float(), self.encoder.patch)
        return layer_norm(pixels, pixels.shape[2:], eps=1e-6) if self.norm_pix else pixels


class Decoder(nn.Module):
    """From tokens of the patches that are seen to the pixels of all patches."""

    def __init__(self, encoder: ViT, width: int, depth: int, heads: int):
        super().__init__()
        dims = encoder.config["spatial_dims"]
        self.embed = nn.Linear(encoder.width, width)
        self.hidden = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        self.blocks = transformer(width, depth, heads, 4.0, dims)
        self.norm = nn.LayerNorm(width, EPS)
        self.pixels = nn.Linear(width, encoder.patch**dims * encoder.config["channels"])
        for layer in (self.embed, self.pixels):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, encoded: Float[Tensor, "n tokens wide"], seen: Int[Tensor, "n seen"], grid: tuple[int, ...]
    ) -> Float[Tensor, "n patches pixels"]:
        """`encoded` begins with the class token, as `ViT.encode` gives it; `seen` are the others' places."""
        x = self.embed(encoded).float()
        everywhere = spread(x[:, 1:], seen, self.hidden.expand(len(x), prod(grid), -1))
        everywhere = everywhere + positions(grid, x.shape[2], x.device)
        x = self.blocks(torch.cat([x[:, :1], everywhere], dim=1))
        return self.pixels(self.norm(x[:, 1:]))


def draw(n: int, patches: int, ratio: float, device: torch.device) -> Int[Tensor, "n seen"]:
    """Places of the patches that stay, others for every image; at least one stays and one is hidden.

    Raises:
        Refused: An image is a single patch.
    """
    if patches < 2:
        raise Refused("an image is one patch, so none can be hidden; lower encoder.patch or raise data.size")
    stay = min(max(int(patches * (1 - ratio)), 1), patches - 1)
    return torch.rand(n, patches, device=device).argsort(dim=1)[:, :stay]


def take(tokens: Float[Tensor, "n patches width"], places: Int[Tensor, "n seen"]) -> Float[Tensor, "n seen width"]:
    return tokens.gather(1, places[:, :, None].expand(-1, -1, tokens.shape[2]))


def spread(
    tokens: Float[Tensor, "n seen width"], places: Int[Tensor, "n seen"], elsewhere: Float[Tensor, "n patches width"]
) -> Float[Tensor, "n patches width"]:
    """The tokens at their places again, the inverse of `take`; `elsewhere` where none is."""
    return elsewhere.scatter(1, places[:, :, None].expand_as(tokens), tokens)


def hidden_error(
    guess: Float[Tensor, "n patches pixels"], target: Float[Tensor, "n patches pixels"], seen: Int[Tensor, "n seen"]
) -> Float[Tensor, ""]:
    """Mean squared error over the pixels of the patches that are not `seen`."""
    weight = torch.ones_like(guess[:, :, 0]).scatter(1, seen, 0.0)
    return ((guess - target).square().mean(2) * weight).sum() / weight.sum()


def patchify(images: Float[Tensor, "n c *space"], patch: int) -> Float[Tensor, "n patches pixels"]:
    """Each patch's pixels in a row (channels first, then along the axes), patches in the order of `ViT.tokens`."""
    dims = images.ndim - 2
    for axis in range(2, 2 + 2 * dims, 2):  # each axis in turn becomes (grid, patch)
        images = images.unflatten(axis, (-1, patch))
    grids, insides = range(2, 2 + 2 * dims, 2), range(3, 3 + 2 * dims, 2)
    return images.permute(0, *grids, 1, *insides).flatten(1, dims).flatten(2)
