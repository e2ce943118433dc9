"""The network of an autoencoder: MONAI's AutoencoderKL in 2D and 3D, and the scale of its codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedcore.messages.message import Levels, Reveals
from fedgen.generator import ImageShape
from fedgen.network_levels import GROUPS, require_halvings, require_widths


class Autoencoder(nn.Module):
    """From an image to a Gaussian over small maps, its code, and back; group norm alone, as in `UNet`.

    The shape is that of latent diffusion (Rombach et al. 2021, arXiv 2112.10752) without its discriminator and without
    a perceptual loss, which would take a network that was trained elsewhere.
    """

    def __init__(
        self, spatial_dims: int, channels: int, latents: int = 4, widths: Sequence[int] = (16, 32, 64),
        blocks: int = 1, attention: bool = False,
    ):  # fmt: skip
        """
        Args:
            spatial_dims: 2 or 3.
            channels: Of an image.
            latents: Channels of a code.
            widths: Channels of each level, multiples of 8; each level but the first halves the image.
            blocks: Residual blocks a level.
            attention: Self-attention on the smallest maps; needs a GPU to be worth its time.
        """
        super().__init__()
        require_widths(widths)
        if spatial_dims not in (2, 3) or latents < 1:
            raise ValueError(f"spatial_dims must be 2 or 3 and latents at least 1, got {spatial_dims} and {latents}")
        self.config = {
            "spatial_dims": spatial_dims, "channels": channels, "latents": latents, "widths": list(widths),
            "blocks": blocks, "attention": attention,
        }  # fmt: skip
        from monai.networks.nets import AutoencoderKL

        self.net = AutoencoderKL(
            spatial_dims, in_channels=channels, out_channels=channels, latent_channels=latents, channels=widths,
            num_res_blocks=blocks, attention_levels=[False] * len(widths), norm_num_groups=GROUPS,
            with_encoder_nonlocal_attn=attention, with_decoder_nonlocal_attn=attention,
        )  # fmt: skip
        self.scale = Scale()
        self.latents, self.halvings = latents, len(widths) - 1

    def forward(
        self, images: Float[Tensor, "n c *space"]
    ) -> tuple[Float[Tensor, "n k *small"], Float[Tensor, "n k *small"]]:
        """Mean and standard deviation of each number of a code."""
        mean, deviation = self.net.encode(images)
        return mean.float(), deviation.float()

    def decode(self, codes: Float[Tensor, "n k *small"]) -> Float[Tensor, "n c *space"]:
        """Images, unclipped."""
        images: Tensor = self.net.decode(codes)
        return images.float()

    def codes(self, canvas: ImageShape) -> ImageShape:
        """What the codes of such images are drawn on."""
        return ImageShape(self.latents, tuple(n >> self.halvings for n in canvas.size))

    def require_size(self, size: Sequence[int]) -> None:
        """Raises InputError if the levels cannot halve an image of that size; the text names sizes that work."""
        require_halvings(f"an autoencoder of {self.halvings + 1} levels", self.halvings, size)


class Scale(nn.Module):
    """Brings codes to mean 0 and variance 1 over all their numbers together, which is what diffusion starts from.

    Rombach et al. (appendix G) divide by the standard deviation of the first batch's codes. Here it is that of all
    sites' images, so that it is the same everywhere. What is held are two moments and not a variance, because moments
    averaged over sites by their images are those of all images together. The mean is subtracted too: the walk begins
    at mean 0, and a KL term of small weight does not keep codes there.
    """

    reveals: ClassVar[Levels] = {"mean": Reveals.STATISTICS, "square": Reveals.STATISTICS}

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("square", torch.ones((), dtype=torch.float64))
        self.mean: Tensor
        self.square: Tensor

    @torch.no_grad()
    def note(self, mean: Float[Tensor, "n k *small"], deviation: Float[Tensor, "n k *small"], weight: float) -> None:
        """Moves the moments to those of these codes by `weight` of the way; no draw is needed to know them."""
        self.mean.lerp_(mean.double().mean(), weight)
        self.square.lerp_((mean.double() ** 2 + deviation.double() ** 2).mean(), weight)

    def shrink(self, codes: Float[Tensor, "n k *small"]) -> Float[Tensor, "n k *small"]:
        return (codes - self.mean) / self._deviation

    def stretch(self, scaled: Float[Tensor, "n k *small"]) -> Float[Tensor, "n k *small"]:
        """The inverse of `shrink`."""
        return scaled * self._deviation + self.mean

    @property
    def _deviation(self) -> Float[Tensor, ""]:
        return (self.square - self.mean**2).sqrt()


def drawn(mean: Float[Tensor, "n k *small"], deviation: Float[Tensor, "n k *small"]) -> Float[Tensor, "n k *small"]:
    """A code of each image, as a function of mean and deviation (the reparametrisation of Kingma and Welling)."""
    return mean + deviation * torch.randn_like(mean)
