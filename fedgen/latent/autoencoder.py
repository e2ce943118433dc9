"""The network of an autoencoder, MONAI's AutoencoderKL in 2D and 3D, with a normalisation of its latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedcore.messages.reveals import Levels, Reveals
from fedgen.generator import ImageShape
from fedgen.network_levels import GROUPS, require_halvings, require_widths


class Autoencoder(nn.Module):
    """Encodes an image into a Gaussian over small maps, its latent, and decodes; group norms alone, as in `UNet`.

    The architecture is that of latent diffusion (Rombach et al. 2021, arXiv 2112.10752) without its discriminator and
    without a perceptual loss, which would need a network trained elsewhere.
    """

    def __init__(
        self, spatial_dims: int, channels: int, latent_channels: int = 4, widths: Sequence[int] = (16, 32, 64),
        blocks: int = 1, attention: bool = False,
    ):  # fmt: skip
        """
        Args:
            spatial_dims: 2 or 3.
            channels: Channels of an image.
            latent_channels: Channels of a latent.
            widths: Channels of each level, multiples of 8; each level but the first halves the image.
            blocks: Residual blocks per level.
            attention: Self-attention on the smallest maps; slow without a GPU.
        """
        super().__init__()
        require_widths(widths)
        if spatial_dims not in (2, 3) or latent_channels < 1:
            raise ValueError(
                f"spatial_dims must be 2 or 3 and latent_channels at least 1, got {spatial_dims} and {latent_channels}"
            )
        self.config = {
            "spatial_dims": spatial_dims, "channels": channels, "latent_channels": latent_channels,
            "widths": list(widths), "blocks": blocks, "attention": attention,
        }  # fmt: skip
        from monai.networks.nets import AutoencoderKL

        self.net = AutoencoderKL(
            spatial_dims, in_channels=channels, out_channels=channels, latent_channels=latent_channels,
            channels=widths, num_res_blocks=blocks, attention_levels=[False] * len(widths), norm_num_groups=GROUPS,
            with_encoder_nonlocal_attn=attention, with_decoder_nonlocal_attn=attention,
        )  # fmt: skip
        self.normalization = LatentNormalization()
        self.latent_channels, self.halvings = latent_channels, len(widths) - 1

    def forward(
        self, images: Float[Tensor, "n c *space"]
    ) -> tuple[Float[Tensor, "n k *small"], Float[Tensor, "n k *small"]]:
        """Mean and standard deviation of each number of a latent."""
        mean, std = self.net.encode(images)
        return mean.float(), std.float()

    def decode(self, latents: Float[Tensor, "n k *small"]) -> Float[Tensor, "n c *space"]:
        """Images, unclipped."""
        images: Tensor = self.net.decode(latents)
        return images.float()

    def latent_shape(self, image_shape: ImageShape) -> ImageShape:
        return ImageShape(self.latent_channels, tuple(n >> self.halvings for n in image_shape.size))

    def require_size(self, size: Sequence[int]) -> None:
        """Raises InputError if the levels cannot halve an image of that size; the text names sizes that fit."""
        require_halvings(f"an autoencoder of {self.halvings + 1} levels", self.halvings, size)


class LatentNormalization(nn.Module):
    """Brings latents to mean 0 and variance 1 over all their numbers together, as diffusion expects.

    Rombach et al. (appendix G) divide by the standard deviation of the first batch's latents. Here it is that of all
    sites' images, so that it is the same everywhere. The buffers are two moments instead of a variance, because the
    mean of moments over sites, weighted by images, is that of all images together. The mean is subtracted too: sampling
    starts at mean 0, and a KL term of small weight does not keep latents there.
    """

    reveals: ClassVar[Levels] = {"mean": Reveals.STATISTICS, "mean_square": Reveals.STATISTICS}

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean_square", torch.ones((), dtype=torch.float64))
        self.mean: Tensor
        self.mean_square: Tensor

    @torch.no_grad()
    def update(self, mean: Float[Tensor, "n k *small"], std: Float[Tensor, "n k *small"], weight: float) -> None:
        """Moves the moments towards those of these latents by `weight`, in closed form from mean and deviation."""
        self.mean.lerp_(mean.double().mean(), weight)
        self.mean_square.lerp_((mean.double() ** 2 + std.double() ** 2).mean(), weight)

    def normalize(self, latents: Float[Tensor, "n k *small"]) -> Float[Tensor, "n k *small"]:
        return (latents - self.mean) / self._std

    def denormalize(self, normalized: Float[Tensor, "n k *small"]) -> Float[Tensor, "n k *small"]:
        """The inverse of `normalize`."""
        return normalized * self._std + self.mean

    @property
    def _std(self) -> Float[Tensor, ""]:
        return (self.mean_square - self.mean**2).sqrt()


def reparameterize(mean: Float[Tensor, "n k *small"], std: Float[Tensor, "n k *small"]) -> Float[Tensor, "n k *small"]:
    """A random latent of each image, differentiable in mean and deviation (Kingma and Welling 2013)."""
    return mean + std * torch.randn_like(mean)
