"""A variational autoencoder that several sites train together (Kingma and Welling 2013, arXiv 1312.6114).

It is told neither class nor site, so what it draws has no label. It is the first stage of
`fedgen.latent.latent_diffusion`. By itself it draws texture: places of a code are drawn apart, while those of an image
belong together, which diffusion learns.
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
from fedgen.generative_model import Generative, OptimizerFactory
from fedgen.generator import Conditions, Generator, ImageShape
from fedgen.latent.autoencoder import Autoencoder, drawn


class VAE(Generative):
    """Learns to tell an image by a small code; how far its codes spread travels with it."""

    share: ClassVar[tuple[str, ...]] = ("autoencoder.",)
    draws: ClassVar[str] = "autoencoder."

    def __init__(
        self, canvas: ImageShape, known: Conditions, network: Callable[[int, int], Autoencoder] = Autoencoder,
        distance: Literal["l1", "l2"] = "l1", kl_weight: float = 1e-3,
        optimizer: OptimizerFactory = lambda p: AdamW(p, lr=1e-3, weight_decay=1e-4),
    ):  # fmt: skip
        """
        Args:
            canvas: The images; a run takes them from its data.
            known: Classes and sites; a run takes them from its data.
            network: What is trained, from dimensions and channels.
            distance: Of an image and what its code tells: l1, the absolute difference, is sharper than l2, half the
                squared one.
            kl_weight: What a nat of code costs: the scale (l1) or the variance (l2) of the noise that a pixel is taken
                to have. Higher blurs, and brings codes nearer to standard normal ones.
            optimizer: Builds the optimizer of a visit.
        """
        super().__init__(canvas, known)
        if kl_weight < 0:
            raise ValueError(f"kl_weight must be 0 or more, got {kl_weight}")
        self.autoencoder = network(len(canvas.size), canvas.channels)
        self.autoencoder.require_size(canvas.size)
        self.distance, self.kl_weight = distance, kl_weight
        self.optimizer = optimizer
        self.seen = 0
        """Images of this pass over the site's."""

    def loss(
        self, images: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        """The negative evidence bound times kl_weight, less a constant, a number of an image.

        Both terms are sums over all there is of an image (pixels; numbers of its code), as in the paper, and their sum
        is divided by the image's numbers alike, so that kl_weight means the same at every size. Mean over images.
        """
        mean, deviation = self.autoencoder(images)
        self._note(mean, deviation)
        error = DISTANCES[self.distance](self.autoencoder.decode(drawn(mean, deviation)) - images).flatten(1).sum(1)
        return (error + self.kl_weight * divergence(mean, deviation)).mean() / images[0].numel()

    def _note(self, mean: Float[Tensor, "n k *small"], deviation: Float[Tensor, "n k *small"]) -> None:
        """After a pass, the scale is of all its codes; after the round, of all sites'.

        Each pass begins anew, since codes change with the weights. The server's mean of weights encodes slightly
        otherwise than each site's did; with a learning rate that ends near 0 the last round's differ no more.
        """
        self.seen += len(mean)
        self.autoencoder.scale.note(mean, deviation, len(mean) / self.seen)

    def on_train_epoch_start(self) -> None:
        self.seen = 0

    @property
    def generator(self) -> VAEGenerator:
        """What draws: without classes and sites, of which the decoder hears nothing."""
        return VAEGenerator(self.autoencoder, Conditions((), ()), self.canvas)

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer(self.autoencoder.parameters())


@dataclass(frozen=True)
class VAEGenerator(Generator):
    """Decodes standard normal codes."""

    network: Autoencoder

    @property
    def settings(self) -> dict[str, Any]:
        return self.network.config

    @classmethod
    def build(cls, known: Conditions, canvas: ImageShape, settings: Mapping[str, Any]) -> VAEGenerator:
        return cls(Autoencoder(**settings), known, canvas)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return self.network.codes(self.canvas).shape

    def draw(
        self, noise: Float[Tensor, "n k *small"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler = Sampler(),
    ) -> Float[Tensor, "n c *space"]:  # fmt: skip
        return self.network.decode(noise).clamp(-1, 1)


DISTANCES: Mapping[str, Callable[[Tensor], Tensor]] = {"l1": torch.abs, "l2": lambda d: d**2 / 2}
"""Of a difference, pixel by pixel: the negative log-likelihoods of Laplace and of Gauss at scale 1, less a constant."""


def divergence(mean: Float[Tensor, "n k *small"], deviation: Float[Tensor, "n k *small"]) -> Float[Tensor, " n"]:
    """KL divergence of N(mean, deviation^2) from N(0, 1) in nats, the sum over a code (appendix B of the paper)."""
    return (mean**2 + deviation**2 - 1 - 2 * deviation.log()).flatten(1).sum(1) / 2
