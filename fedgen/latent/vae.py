"""A variational autoencoder that several sites train together (Kingma and Welling 2013, arXiv 1312.6114).

It has no conditions, so generated images have no label. It is the first stage of `fedgen.latent.latent_diffusion`. By
itself it generates texture: the places of a latent are sampled independently, while those of an image belong together,
which diffusion learns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import AdamW, Optimizer

from fedgen.diffusion.sampler import Sampler
from fedgen.generative_model import GenerativeModel, OptimizerFactory
from fedgen.generator import Conditions, Generator, ImageShape
from fedgen.latent.autoencoder import Autoencoder, reparameterize


class VAE(GenerativeModel):
    """Learns to encode an image into a small latent; the normalisation of its latents is sent with it."""

    share: ClassVar[tuple[str, ...]] = ("autoencoder.",)
    scratch: ClassVar[tuple[str, ...]] = (*GenerativeModel.scratch, "images_seen")
    generator_prefix: ClassVar[str] = "autoencoder."

    def __init__(
        self, image_shape: ImageShape, conditions: Conditions,
        network: Callable[[int, int], Autoencoder] = Autoencoder, reconstruction_loss: Literal["l1", "l2"] = "l1",
        kl_weight: float = 1e-3, optimizer: OptimizerFactory = lambda p: AdamW(p, lr=1e-3, weight_decay=1e-4),
    ):  # fmt: skip
        """
        Args:
            image_shape: Shape of the images; a run takes it from its data.
            conditions: Classes and sites; a run takes them from its data.
            network: The network that is trained, from dimensions and channels.
            reconstruction_loss: Difference of an image and its reconstruction: l1, the absolute difference, gives
                sharper images than l2, half the squared difference.
            kl_weight: Weight of the KL divergence per nat: the scale (l1) or the variance (l2) of the noise that a
                pixel is assumed to have. Higher blurs the images and brings latents nearer to a standard normal.
            optimizer: Builds the optimizer of a visit.
        """
        super().__init__(image_shape, conditions)
        if kl_weight < 0:
            raise ValueError(f"kl_weight must be 0 or more, got {kl_weight}")
        self.autoencoder = network(len(image_shape.size), image_shape.channels)
        self.autoencoder.require_size(image_shape.size)
        self.reconstruction_loss, self.kl_weight = reconstruction_loss, kl_weight
        self.optimizer = optimizer
        self.images_seen = 0
        """Images of this epoch so far."""

    def loss(
        self, images: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        """The negative evidence lower bound times kl_weight, up to a constant, per pixel; mean over images.

        Both terms are sums over an image (its pixels; the numbers of its latent), as in the paper, and their sum is
        divided by the number of pixels, so that kl_weight means the same at every size.
        """
        mean, std = self.autoencoder(images)
        self._update_normalization(mean, std)
        reconstruction = self.autoencoder.decode(reparameterize(mean, std))
        error = RECONSTRUCTION_LOSSES[self.reconstruction_loss](reconstruction - images).flatten(1).sum(1)
        return (error + self.kl_weight * kl_divergence(mean, std)).mean() / images[0].numel()

    def _update_normalization(self, mean: Float[Tensor, "n k *small"], std: Float[Tensor, "n k *small"]) -> None:
        """After an epoch, the moments are those of all its latents; after the round, those of all sites.

        Each epoch starts again, since latents change with the weights. The server's mean of weights encodes slightly
        differently from each site's weights; with a learning rate that ends near 0 the last round has no such gap.
        """
        self.images_seen += len(mean)
        self.autoencoder.normalization.update(mean, std, len(mean) / self.images_seen)

    def on_train_epoch_start(self) -> None:
        self.images_seen = 0

    @property
    def generator(self) -> VAEGenerator:
        """Without classes and sites, since the decoder has no conditions."""
        return VAEGenerator(self.autoencoder, Conditions((), ()), self.image_shape)

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer(self.autoencoder.parameters())


@dataclass(frozen=True)
class VAEGenerator(Generator):
    """Decodes standard normal latents."""

    network: Autoencoder

    @property
    def settings(self) -> dict[str, Any]:
        return self.network.config

    @classmethod
    def build(cls, conditions: Conditions, image_shape: ImageShape, settings: Mapping[str, Any]) -> VAEGenerator:
        return cls(Autoencoder(**settings), conditions, image_shape)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return self.network.latent_shape(self.image_shape).shape

    def sample(
        self, noise: Float[Tensor, "n k *small"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler = Sampler(),
    ) -> Float[Tensor, "n c *space"]:  # fmt: skip
        return self.network.decode(noise).clamp(-1, 1)


RECONSTRUCTION_LOSSES: Mapping[str, Callable[[Tensor], Tensor]] = {"l1": torch.abs, "l2": lambda d: d**2 / 2}
"""Of a difference, pixel by pixel: the negative log-likelihoods of Laplace and Gauss at scale 1, up to a constant."""


def kl_divergence(mean: Float[Tensor, "n k *small"], std: Float[Tensor, "n k *small"]) -> Float[Tensor, " n"]:
    """KL divergence of N(mean, std^2) from N(0, 1) in nats, the sum over a latent (appendix B of the paper)."""
    return (mean**2 + std**2 - 1 - 2 * std.log()).flatten(1).sum(1) / 2
