"""Masked autoencoder (MAE): most patches of an image are masked, and the network reconstructs them from the rest.

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
from fedcore.models.base import Encoder
from fedcore.models.vit import EPS, ViT, positions, transformer
from fedssl.methods.base import Method, OptimizerFactory
from fedssl.methods.masking import gather_tokens, masked_mse, patchify, random_masking, scatter_tokens

CROP_AND_FLIP = Views(count=1, crop=(0.5, 1.0), rotate=0.0, gamma=0.0, contrast=0.0, brightness=0.0,
                      blur_probability=0.0, noise=0.0)  # fmt: skip
"""The paper's views. Masking makes the task hard enough; other changes would be targets too."""


class MAE(Method):
    """The encoder gets the visible patches, a small decoder reconstructs the masked ones.

    With FedAvg this is Fed-MAE. Encoder and decoder are sent and averaged. Images are not compared with one another,
    so a visit works with any number of images. The probe's `feature_std` is small here without a collapse: nothing
    removes the mean of the features; look at `effective_rank`.
    """

    share = ("encoder.", "decoder.")

    encoder: ViT

    def __init__(
        self, encoder: Encoder, views: Views = CROP_AND_FLIP,
        optimizer: OptimizerFactory = lambda p: AdamW(p, lr=1e-3, weight_decay=0.05),
        mask_ratio: float = 0.6, decoder_width: int = 96, decoder_depth: int = 2, decoder_heads: int = 3,
        norm_pix_loss: bool = True,
    ):  # fmt: skip
        """
        Args:
            encoder: fedcore.models.vit.ViT; other encoders need all patches.
            views: Random transforms of an image; one view.
            optimizer: Builds the optimizer of a visit.
            mask_ratio: Fraction of the patches that is masked, in (0, 1); Fed-MAE's 0.6. MAE's 0.75 is for natural
                images, and faster.
            decoder_width: Length of the decoder's tokens; the paper's 512 belongs to an encoder of 1024.
            decoder_depth: Blocks of the decoder; the paper's 8 gain little in fine-tuning over 1.
            decoder_heads: Attention heads of the decoder.
            norm_pix_loss: Reconstruct each patch minus its mean and divided by its standard deviation (the paper's
                better variant), else intensities in [-1, 1].
        """
        if not isinstance(encoder, ViT):
            raise ValueError(
                f"MAE needs an encoder that works on a subset of the patches, and {type(encoder).__name__} does not; "
                "set encoder.class_path to fedcore.models.vit.ViT"
            )
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio must lie in (0, 1), got {mask_ratio}")
        if views.count != 1:
            raise ValueError(f"MAE uses one view of an image, got {views.count}; set method.init_args.views.count to 1")
        super().__init__(encoder, views, optimizer)
        self.decoder = MAEDecoder(encoder, decoder_width, decoder_depth, decoder_heads)
        self.mask_ratio, self.norm_pix_loss = mask_ratio, norm_pix_loss

    def loss(self, views: list[Float[Tensor, "n c *space"]]) -> Float[Tensor, ""]:
        """The mean squared error over the masked patches; the mask is sampled from torch's global generator."""
        images = views[0]
        tokens = self.encoder.tokens(images)
        visible = random_masking(len(tokens), tokens.shape[1], self.mask_ratio, tokens.device)
        encoded = self.encoder.encode(gather_tokens(tokens, visible))
        prediction = self.decoder(encoded, visible, self.encoder.grid(images))
        return masked_mse(prediction.float(), self.target(images), visible)

    def target(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n patches pixels"]:
        """The pixels to reconstruct of each patch."""
        pixels = patchify(images.float(), self.encoder.patch)
        return layer_norm(pixels, pixels.shape[2:], eps=1e-6) if self.norm_pix_loss else pixels


class MAEDecoder(nn.Module):
    """From the tokens of the visible patches to the pixels of all patches."""

    def __init__(self, encoder: ViT, width: int, depth: int, heads: int):
        super().__init__()
        dims = encoder.config["spatial_dims"]
        self.embed = nn.Linear(encoder.width, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        self.blocks = transformer(width, depth, heads, 4.0, dims)
        self.norm = nn.LayerNorm(width, EPS)
        self.pixels = nn.Linear(width, encoder.patch**dims * encoder.config["channels"])
        for layer in (self.embed, self.pixels):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, encoded: Float[Tensor, "n tokens wide"], visible: Int[Tensor, "n visible"], grid: tuple[int, ...]
    ) -> Float[Tensor, "n patches pixels"]:
        """`encoded` starts with the class token, as `ViT.encode` returns it; `visible` are the others' indices."""
        x = self.embed(encoded).float()
        all_tokens = scatter_tokens(x[:, 1:], visible, self.mask_token.expand(len(x), prod(grid), -1))
        all_tokens = all_tokens + positions(grid, x.shape[2], x.device)
        x = self.blocks(torch.cat([x[:, :1], all_tokens], dim=1))
        return self.pixels(self.norm(x[:, 1:]))
